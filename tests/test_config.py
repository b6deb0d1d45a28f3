from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from distlib.index import DEFAULT_INDEX

from mirror.config import SETTINGS, Config, load
from mirror.errors import ConfigError
from mirror.settings.addresses import TcpAddress, UnixAddress
from mirror.settings.kinds import Switch

CANARY = "canary-7f3a"


def problems(
    flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None, file: Path | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environ or {}, file)
    assert str(caught.value).isprintable()
    assert CANARY not in str(caught.value)
    return list(caught.value.problems)


def toml(folder: Path, text: str) -> Path:
    file = folder / "mirror.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults() -> None:
    loaded = load({}, {})
    assert loaded.config == Config()
    assert {str(origin) for origin in loaded.origins.values()} == {"default"}
    assert loaded.origins.keys() == SETTINGS.keys() == {each.name for each in dataclasses.fields(Config)}
    assert loaded.config.listen == (TcpAddress("127.0.0.1", 8080),)


def test_the_default_upstream_is_a_sibling_of_the_address_that_distlib_knows() -> None:
    url = Config().upstream_url
    assert url.endswith("/simple/")
    assert url.split("/")[:3] == DEFAULT_INDEX.split("/")[:3]
    assert load({}, {"MIRROR_UPSTREAM_URL": url}).config.upstream_url == url


def test_later_sources_win(tmp_path: Path) -> None:
    file = toml(tmp_path, 'page-ttl = "1m"\nmissing-ttl = 1\nlist-ttl = 1\n')
    environ = {"MIRROR_MISSING_TTL": "2", "MIRROR_LIST_TTL": "2"}
    loaded = load({"list_ttl": "3"}, environ, file)
    assert (loaded.config.page_ttl, loaded.config.missing_ttl, loaded.config.list_ttl) == (60, 2, 3)
    assert str(loaded.origins["page_ttl"]) == f"file {file}"
    assert str(loaded.origins["missing_ttl"]) == "environment MIRROR_MISSING_TTL"
    assert str(loaded.origins["list_ttl"]) == "flag --list-ttl"
    assert str(loaded.origins["page_stale"]) == "default"


def test_the_variable_names_the_file_and_the_flag_wins(tmp_path: Path) -> None:
    file = toml(tmp_path, "page-ttl = 5")
    assert load({}, {"MIRROR_CONFIG": str(file)}).config.page_ttl == 5
    (tmp_path / "other").mkdir()
    other = toml(tmp_path / "other", "page-ttl = 6")
    assert load({}, {"MIRROR_CONFIG": str(file)}, other).config.page_ttl == 6
    assert load({}, {"MIRROR_CONFIG": ""}).config == Config()


S3 = {"MIRROR_STORAGE": "s3", "MIRROR_S3_BUCKET": "some-bucket"}
COMPANIONS: dict[str, dict[str, str]] = {
    "storage": S3,
    "s3_bucket": S3,
    "metadata_cache_dir": S3,
    "dist_cache_dir": S3,
    "redirect_networks": S3,
    "s3_access_key_id": {"MIRROR_S3_SECRET_ACCESS_KEY": "secret"},
    "s3_secret_access_key": {"MIRROR_S3_ACCESS_KEY_ID": "id"},
    "s3_sse_kms_key_id": {"MIRROR_S3_SSE": "aws:kms"},
    "upstream_password": {"MIRROR_UPSTREAM_USERNAME": "somebody"},
}
"""What a setting is given together with."""


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_read_from_every_source_and_can_be_shown(name: str, tmp_path: Path) -> None:
    setting = SETTINGS[name]
    text = setting.example or CANARY
    environ = {key: value for key, value in COMPANIONS.get(name, {}).items() if key != setting.variable}
    wanted = getattr(load({}, environ | {setting.variable: text}).config, name)
    assert wanted != setting.default
    assert getattr(load({}, environ, toml(tmp_path, f"{setting.key} = {json.dumps(text)}")).config, name) == wanted
    flag: Any = text
    if setting.many:
        flag = tuple(text.split(","))
        file = toml(tmp_path, f"{setting.key} = {json.dumps(flag)}")
        assert getattr(load({}, environ, file).config, name) == wanted
    if isinstance(setting.kind, Switch):
        flag = wanted
        assert (
            getattr(load({}, environ, toml(tmp_path, f"{setting.key} = {str(wanted).lower()}")).config, name) == wanted
        )
    if setting.flag:
        assert getattr(load({name: flag}, environ).config, name) == wanted
        assert not setting.secret
    if not setting.secret:
        assert getattr(load({}, environ | {setting.variable: setting.show(wanted)}).config, name) == wanted


def test_lists() -> None:
    wanted = (TcpAddress("::1", 80), UnixAddress(Path("/run/m.sock")))
    assert load({}, {"MIRROR_LISTEN": "[::1]:80, unix:/run/m.sock"}).config.listen == wanted
    assert load({"listen": ("[::1]:80", "unix:/run/m.sock")}, {}).config.listen == wanted


def test_numbers_of_toml(tmp_path: Path) -> None:
    file = toml(
        tmp_path, "page-ttl = 90\nmissing-ttl = 1.5\nmemory-limit = 2097152\nupstream-retries = 0\noffline = true\n"
    )
    config = load({}, {}, file).config
    assert (config.page_ttl, config.missing_ttl, config.memory_limit, config.upstream_retries) == (90, 1.5, 2**21, 0)
    assert config.offline is True


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    environ = {setting.variable: "" for setting in SETTINGS.values()} | {"MIRROR_UPSTREAM_PASSWORD_FILE": ""}
    assert load({}, environ).config == Config()


def test_an_empty_text_takes_an_optional_value_away(tmp_path: Path) -> None:
    file = toml(tmp_path, 'public-url = "https://packages.example.com/"')
    assert load({"public_url": ""}, {}, file).config.public_url is None
    assert "page-ttl (from flag --page-ttl)" in problems({"page_ttl": ""})[0]


def test_a_bad_value_says_setting_source_fault_and_remedy(tmp_path: Path) -> None:
    remedy = "; give seconds, or a number with ms, s, m, h or d, such as 10m (from 0 to 3650d)"
    file = toml(tmp_path, 'page-ttl = "soon"')
    assert problems({"page_ttl": "soon"}) == [f"page-ttl (from flag --page-ttl): 'soon' is not a duration{remedy}"]
    assert problems({}, {"MIRROR_PAGE_TTL": "soon"}) == [
        f"page-ttl (from environment MIRROR_PAGE_TTL): 'soon' is not a duration{remedy}"
    ]
    assert problems({}, {}, file) == [f"page-ttl (from file {file}): 'soon' is not a duration{remedy}"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("page-ttl = true", "it is a boolean"),
        ("page-ttl = [1]", "it is an array"),
        ("page-ttl = {a = 1}", "it is a table"),
        ("[page-ttl]\na = 1", "it is a table"),
        ("page-ttl = 2020-01-01", "it is a date or time"),
        ("page-ttl = -1", "'-1' is not a duration"),
        ("page-ttl = nan", "'nan' is not a duration"),
        ("memory-limit = 1.5e9", "it is a float"),
        ("offline = 1", "it is an integer"),
        ("log-level = 10", "it is an integer"),
        ("listen = 8080", "it is an integer, not an array"),
        ("listen = [8080]", "it is an integer"),
        ("listen = []", "it is empty"),
        ('listen = ""', "it is empty"),
        ('listen = ["a:1", ""]', "has no port"),
        ("upstream-password = 5", "it is an integer"),
    ],
)
def test_wrong_types_of_toml(text: str, why: str, tmp_path: Path) -> None:
    (problem,) = problems({}, {}, toml(tmp_path, text))
    assert why in problem


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    file = toml(tmp_path, 'page_ttl = 5\n"pa\\nge" = 1\nupstream = "x"\n[s3]\nbucket = "b"\n')
    environ = {
        "MIRROR_PAGE_TTI": "5",
        "MIRROR_XYZZY": "1",
        "MIRROR_PAGE_TTL_FILE": "/x",
        "MIRROR_EMPTY_NONSENSE": "",
        "MIRRORS": "1",
        "HOME": "/",
    }
    assert problems({}, environ, file) == [
        f"config file {file}: 'page_ttl' is not a setting; did you mean page-ttl?",
        f"config file {file}: 'pa\\\\x0age' is not a setting; did you mean page-ttl?",
        f"config file {file}: 'upstream' is not a setting; did you mean upstream-url?",
        f"config file {file}: 's3' is not a setting",
        "the environment variable MIRROR_PAGE_TTI is not a setting; did you mean MIRROR_PAGE_TTL?",
        "the environment variable MIRROR_XYZZY is not a setting",
        "the environment variable MIRROR_PAGE_TTL_FILE is not a setting; did you mean MIRROR_PAGE_TTL?",
        "the environment variable MIRROR_EMPTY_NONSENSE is not a setting",
    ]


def test_variables_of_kubernetes_for_a_service_of_this_name_are_ignored() -> None:
    environ = {
        "MIRROR_SERVICE_HOST": "10.0.0.1",
        "MIRROR_SERVICE_PORT": "80",
        "MIRROR_SERVICE_PORT_HTTP": "80",
        "MIRROR_PORT": "tcp://10.0.0.1:80",
        "MIRROR_PORT_80_TCP": "tcp://10.0.0.1:80",
        "MIRROR_PORT_80_TCP_PROTO": "tcp",
        "MIRROR_PORT_80_TCP_PORT": "80",
        "MIRROR_PORT_80_TCP_ADDR": "10.0.0.1",
        "MIRROR_EU_SERVICE_HOST": "10.0.0.1",
        "MIRROR_EU_PORT": "tcp://10.0.0.1:80",
    }
    assert load({}, environ).config == Config()
    # Somebody who sets this means the port to listen on, and must not be left to wonder.
    assert "MIRROR_PORT is not a setting" in problems({}, {"MIRROR_PORT": "8080"})[0]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    file = toml(tmp_path, "nonsense = 1\nupstream-retries = 99\n")
    found = problems({"listen": ("foo",)}, {"MIRROR_OFFLINE": "perhaps"}, file)
    assert [problem.split(" ")[0] for problem in found] == ["config", "listen", "upstream-retries", "offline"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in problems({}, {}, tmp_path / "none.toml")[0]
    assert "Is a directory" in problems({}, {"MIRROR_CONFIG": str(tmp_path)})[0]
    assert "valid TOML" in problems({}, {}, toml(tmp_path, "page-ttl = = 5"))[0]
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in problems({}, {}, binary)[0]


def test_an_address_given_twice() -> None:
    assert problems({"listen": ("a:1", "a:1", "b:0", "b:0")}) == [
        "listen (from flag --listen): a:1 is given twice; give each address once"
    ]
    assert len(load({"listen": ("b:0", "b:0")}, {}).config.listen) == 2


class TestSecrets:
    environ: ClassVar = {"MIRROR_UPSTREAM_USERNAME": "somebody"}

    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    def test_a_secret_is_read_from_a_file(self, end: str, tmp_path: Path) -> None:
        file = tmp_path / "password"
        file.write_bytes(f" {CANARY} {end}".encode())
        loaded = load({}, self.environ | {"MIRROR_UPSTREAM_PASSWORD_FILE": str(file)})
        assert loaded.config.upstream_password == f" {CANARY} "
        assert str(loaded.origins["upstream_password"]) == "environment MIRROR_UPSTREAM_PASSWORD_FILE"

    def test_files_without_a_secret(self, tmp_path: Path) -> None:
        file = tmp_path / "password"
        environ = self.environ | {"MIRROR_UPSTREAM_PASSWORD_FILE": str(file)}
        assert "No such file" in problems({}, environ)[0]
        for body, why in [
            (b"", "is empty"),
            (b"\n", "is empty"),
            (b"\xff" + CANARY.encode(), "not UTF-8"),
            (CANARY.encode() + b"x" * 65536, "larger than"),
            (CANARY.encode() + b"\nmore\n", "control character"),
        ]:
            file.write_bytes(body)
            (problem,) = problems({}, environ)
            assert why in problem
            assert problem.startswith("upstream-password (from environment MIRROR_UPSTREAM_PASSWORD_FILE): ")

    def test_a_secret_given_twice(self, tmp_path: Path) -> None:
        environ = {"MIRROR_UPSTREAM_PASSWORD": CANARY, "MIRROR_UPSTREAM_PASSWORD_FILE": str(tmp_path)}
        assert "MIRROR_UPSTREAM_PASSWORD is set too" in problems({}, self.environ | environ)[0]

    def test_a_password_needs_a_user_name(self) -> None:
        assert problems({}, {"MIRROR_UPSTREAM_PASSWORD": CANARY}) == [
            "upstream-password (from environment MIRROR_UPSTREAM_PASSWORD): give upstream-username too"
        ]

    def test_userinfo_of_the_url_becomes_settings(self) -> None:
        loaded = load({"upstream_url": f"https://so%40me:{CANARY}%2F@index.example.com/simple"}, {})
        assert loaded.config.upstream_url == "https://index.example.com/simple/"
        assert loaded.config.upstream_username == "so@me"
        assert loaded.config.upstream_password == f"{CANARY}/"
        assert str(loaded.origins["upstream_password"]) == "flag --upstream"

    @pytest.mark.parametrize(
        ("userinfo", "why"),
        [
            (f":{CANARY}", "give upstream-username too"),
            (f"a%3Ab:{CANARY}", "holds ':'"),
            (f"a:{CANARY}%0A", "control character"),
            (f"a:{CANARY}%FF", "not UTF-8"),
        ],
    )
    def test_bad_userinfo(self, userinfo: str, why: str) -> None:
        (problem,) = problems({}, {"MIRROR_UPSTREAM_URL": f"https://{userinfo}@h/"})
        assert why in problem

    def test_userinfo_beside_settings(self) -> None:
        environ = {"MIRROR_UPSTREAM_URL": f"https://a:{CANARY}@h/", "MIRROR_UPSTREAM_PASSWORD": CANARY}
        (problem,) = problems({}, environ)
        assert "give one of them" in problem

    @pytest.mark.parametrize(
        "url", ["https://a:{}@h/?q", "https://a:{}@/", "htps://a:{}@h/", "https://a:{}@h:x/", "{}"]
    )
    def test_a_bad_url_is_not_quoted(self, url: str) -> None:
        problems({}, {"MIRROR_UPSTREAM_URL": url.format(CANARY)})

    def test_no_representation_holds_the_secret(self) -> None:
        loaded = load({}, {"MIRROR_UPSTREAM_URL": f"https://a:{CANARY}@h/"})
        assert CANARY not in repr(loaded)
        for name, setting in SETTINGS.items():
            value = getattr(loaded.config, name)
            assert CANARY not in setting.show(value)
            assert CANARY not in json.dumps(setting.plain(value))


def test_names_follow_by_one_rule() -> None:
    for name, setting in SETTINGS.items():
        assert setting.key == name.replace("_", "-")
        assert setting.variable == "MIRROR_" + name.upper()
        assert setting.flag in (None, f"--{setting.key}", "--upstream")
        assert setting.meaning.endswith(".")
        assert setting.example or setting.secret


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"MIRROR_STORAGE": "s3"}, "s3-bucket"),
        ({"MIRROR_S3_BUCKET": "some-bucket"}, "s3-bucket (from environment MIRROR_S3_BUCKET)"),
        ({"MIRROR_DIST_CACHE_DIR": "/var/cache/x"}, "dist-cache-dir (from environment MIRROR_DIST_CACHE_DIR)"),
        (S3 | {"MIRROR_S3_BUCKET": "s3://some-bucket/prefix"}, "s3-bucket (from environment MIRROR_S3_BUCKET)"),
        (S3 | {"MIRROR_S3_PREFIX": "../x"}, "s3-prefix"),
        (S3 | {"MIRROR_S3_ACCESS_KEY_ID": "id"}, "s3-access-key-id and s3-secret-access-key"),
        (S3 | {"MIRROR_S3_SSE_KMS_KEY_ID": "key"}, "s3-sse-kms-key-id"),
        (S3 | {"MIRROR_S3_CLIENT_OPTIONS": "[1]"}, "s3-client-options"),
        (S3 | {"MIRROR_REDIRECT_NETWORKS": "10.0.0.1/8"}, "redirect-networks"),
        (
            S3 | {"MIRROR_METADATA_CACHE_DIR": "/var/cache/x", "MIRROR_DIST_CACHE_DIR": "/var/cache/x/y"},
            "metadata-cache-dir and dist-cache-dir",
        ),
    ],
)
def test_settings_of_s3_that_do_not_go_together_are_refused_by_name(environ: dict[str, str], named: str) -> None:
    [problem] = problems({}, environ)
    assert problem.startswith(named)


def test_a_prefix_of_keys_ends_with_a_slash() -> None:
    for text in ("mirror", "mirror/", "/mirror/"):
        assert load({}, S3 | {"MIRROR_S3_PREFIX": text}).config.s3_prefix == "mirror/"
    assert load({}, S3).config.s3_prefix == ""
