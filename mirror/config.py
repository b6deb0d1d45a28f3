"""Every setting, once: its type, default, meaning, unit, flag and example; `load` finds the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

import platformdirs
from distlib.index import DEFAULT_INDEX

from mirror.errors import ConfigError
from mirror.settings.addresses import Address, TcpAddress
from mirror.settings.definition import Setting, setting, settings_of
from mirror.settings.kinds import Choice, Count, Duration, Size, Switch, Text
from mirror.settings.local_caches import CacheSettings
from mirror.settings.object_store import S3Settings
from mirror.settings.places import FilePath, HostPattern, Listen, SourceName, Url
from mirror.settings.sources import FlagValue, Origin, gather

DEFAULT_UPSTREAM: Final[str] = DEFAULT_INDEX.rstrip("/").rpartition("/")[0] + "/simple/"
"""PyPI's simple index, which is a sibling of the address that distlib knows."""

_KIB, _MIB = 2**10, 2**20


@dataclass(frozen=True, kw_only=True)
class Config(CacheSettings, S3Settings):
    """The settings of one mirror. Durations are seconds, sizes bytes. `load` makes it, and checks it."""

    listen: tuple[Address, ...] = setting(
        "Serving",
        Listen(),
        (TcpAddress("127.0.0.1", 8080),),
        "Where to listen: HOST:PORT, [IPv6]:PORT, :PORT for every interface, or unix:PATH; port 0 is any free port.",
        example="0.0.0.0:8080",
    )
    public_url: str | None = setting(
        "Serving",
        Url(),
        None,
        "The mirror's own address as its clients see it, for the absolute URLs of the legacy JSON API and the lines "
        "that are printed at start. Without it they follow from the request and the listening address.",
        example="https://packages.example.com/",
    )
    drain_delay: float = setting(
        "Serving",
        Duration(maximum=3600),
        0.0,
        "How long after SIGTERM new requests are still answered while /readyz says 503, so that load balancers turn "
        "away before the mirror stops listening.",
        example="10",
        flag=False,
    )
    drain_timeout: float = setting(
        "Serving",
        Duration(maximum=86400),
        60.0,
        "How long transfers on their way may take to finish after SIGTERM.",
        example="2m",
    )

    upstream_url: str = setting(
        "Upstream",
        Url(userinfo=True),
        DEFAULT_UPSTREAM,
        "The simple index to mirror. A user name and password in it are taken as upstream-username and "
        "upstream-password.",
        default_label="PyPI's simple index",
        flag="--upstream",
        example="https://index.example.com/simple/",
    )
    upstream_name: str = setting(
        "Upstream",
        SourceName(),
        "pypi",
        "The name under which the packages of the upstream are kept. Another upstream on the same store needs "
        "another name.",
        example="company",
    )
    upstream_username: str | None = setting(
        "Upstream", Text(forbidden=":"), None, "The user name for upstream (Basic authentication).", example="ci"
    )
    upstream_password: str | None = setting(
        "Upstream", Text(), None, "The password or token for upstream.", example="", flag=False, secret=True
    )
    upstream_ca_bundle: Path | None = setting(
        "Upstream",
        FilePath(),
        None,
        "Certificates (PEM) that are trusted for upstream in place of the system's.",
        example="/etc/ssl/corporate.pem",
    )
    upstream_file_hosts: tuple[str, ...] = setting(
        "Upstream",
        HostPattern(),
        ("*",),
        "Hosts from which archives may be fetched, besides upstream's own: host names, *.suffix, or * for every "
        "host with a public address.",
        example="files.example.com,*.cdn.example.com",
    )
    upstream_connect_timeout: float = setting(
        "Upstream",
        Duration(minimum=0.001, maximum=3600),
        3.0,
        "How long a connection to upstream may take.",
        example="10",
        flag=False,
    )
    upstream_read_timeout: float = setting(
        "Upstream",
        Duration(minimum=0.001, maximum=3600),
        20.0,
        "How long upstream may be silent in the middle of an answer.",
        example="60",
        flag=False,
    )
    upstream_min_rate: int = setting(
        "Upstream",
        Size(unit="bytes per second"),
        _KIB,
        "The rate below which an answer of upstream is given up after one and a half read timeouts; 0 for none.",
        example="10KiB",
        flag=False,
    )
    upstream_max_connections: int = setting(
        "Upstream", Count(1, 10_000), 64, "Connections to upstream at one time.", example="16", flag=False
    )
    upstream_retries: int = setting(
        "Upstream", Count(0, 10), 2, "How often a failed request to upstream is repeated.", example="0", flag=False
    )
    offline: bool = setting(
        "Upstream", Switch(), False, "Never ask upstream: answer from the store, or not at all.", example="on"
    )

    storage: Literal["directory", "s3", "memory"] = setting(
        "Storage",
        Choice(("directory", "s3", "memory")),
        "directory",
        "Where packages are kept: in data-dir, in a bucket of an S3-compatible service, or in memory until the mirror "
        "ends.",
        example="s3",
    )
    data_dir: Path = setting(
        "Storage",
        FilePath(metavar="DIR"),
        platformdirs.user_data_path("mirror", appauthor=False),
        "The folder of the store and of downloads on their way.",
        default_label="the platform's user data folder",
        example="/var/lib/mirror",
    )
    memory_limit: int = setting(
        "Storage",
        Size(minimum=_MIB),
        256 * _MIB,
        "How much storage = memory may hold (what was used longest ago is dropped first). A quarter of it is "
        "for downloads on their way; the other storages use that quarter, too, where there is no disk or no room on it.",
        example="1GiB",
    )
    keep_unverified: bool = setting(
        "Storage",
        Switch(),
        False,
        "Also keep archives for which the index gives no strong digest.",
        example="on",
    )
    finish_abandoned: int = setting(
        "Storage",
        Size(),
        64 * _MIB,
        "A download whose clients have all left is finished if at most this much is missing, or half is there.",
        example="0",
        flag=False,
    )
    derive_metadata: bool = setting(
        "Storage",
        Switch(),
        True,
        "Read core metadata out of wheels where upstream does not offer it, and offer it: out of those that are "
        "stored, and by ranges of those that a client asks for in parts.",
        example="off",
    )

    page_ttl: float = setting(
        "Freshness",
        Duration(),
        600.0,
        "How long a project page is served without asking upstream; less where upstream's max-age is less.",
        example="1h",
    )
    page_stale: float = setting(
        "Freshness",
        Duration(),
        600.0,
        "How long after page-ttl the old page is served at once while it is revalidated behind.",
        example="0",
    )
    page_max_stale: float = setting(
        "Freshness",
        Duration(),
        0.0,
        "How old a project page may be served while upstream fails; 0 for any age.",
        example="7d",
    )
    missing_ttl: float = setting(
        "Freshness",
        Duration(),
        60.0,
        "How long it is remembered that upstream does not know a project.",
        example="10s",
    )
    list_ttl: float = setting(
        "Freshness",
        Duration(),
        3600.0,
        "How long the list of all projects is served without asking upstream.",
        example="1d",
    )
    page_cache: int = setting(
        "Freshness",
        Size(minimum=_MIB),
        128 * _MIB,
        "Memory for project pages, parsed and ready to send.",
        example="512MiB",
        flag=False,
    )

    log_format: Literal["auto", "text", "json"] = setting(
        "Logs",
        Choice(("auto", "text", "json")),
        "auto",
        "Text for people, or one JSON object a line; auto is text in a terminal and JSON elsewhere.",
        example="json",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "Logs",
        Choice(("debug", "info", "warning", "error")),
        "info",
        "The least level that is logged.",
        example="debug",
    )


SETTINGS: Final[dict[str, Setting]] = settings_of(Config)
"""By field name, in the order of `Config`."""


@dataclass(frozen=True)
class Loaded:
    """A configuration, and for every setting where its value came from."""

    config: Config
    origins: dict[str, Origin]


def load(flags: Mapping[str, FlagValue], environ: Mapping[str, str], file: Path | None = None) -> Loaded:
    """The settings from, later wins: defaults, the TOML file, `environ`, `flags` (by field name).

    `file` is the TOML file; without it `MIRROR_CONFIG` names it, without that there is none. A user name and
    password in the upstream's URL are moved to their own settings, so that no URL holds a secret from here on.

    Raises `ConfigError` with all problems that were found; none of them quotes a secret.
    """
    gathered = gather(SETTINGS, flags, environ, file)
    values, origins = gathered.values, gathered.origins
    problems = list(gathered.problems)
    if "upstream_url" in values:
        parts = urlsplit(values["upstream_url"])
        values["upstream_url"] = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        for name, part in (("upstream_username", parts.username), ("upstream_password", parts.password)):
            if not part:
                continue
            if values.get(name) is not None:
                problems.append(
                    f"{SETTINGS[name].key} (from {origins[name]}): the upstream URL (from {origins['upstream_url']}) "
                    "holds it too; give one of them"
                )
                continue
            try:
                values[name] = SETTINGS[name].kind.parse(unquote(part, errors="strict"))
            except ValueError as error:
                # A decoding error quotes the bytes.
                why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
                problems.append(f"{SETTINGS[name].key} (from the URL from {origins['upstream_url']}): {why}")
            origins[name] = origins["upstream_url"]
    if values.get("upstream_password") and not values.get("upstream_username") and not problems:
        problems.append(f"upstream-password (from {origins['upstream_password']}): give upstream-username too")
    problems += _object_store_problems(values, origins) if not problems else []
    addresses = [each for each in values.get("listen", ()) if not (isinstance(each, TcpAddress) and each.port == 0)]
    problems += [
        f"listen (from {origins['listen']}): {each} is given twice; give each address once"
        for each in dict.fromkeys(addresses)
        if addresses.count(each) > 1
    ]
    if problems:
        raise ConfigError(*problems)
    return Loaded(Config(**values), origins)


def _object_store_problems(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> list[str]:
    """What is wrong with the settings of S3 and of the caches, taken together."""
    s3 = values.get("storage", "directory") == "s3"
    problems = []
    if s3 and not values.get("s3_bucket"):
        problems.append("s3-bucket: storage = s3 needs a bucket; give its name")
    if not s3:
        unused = ["s3_bucket", "metadata_cache_dir", "dist_cache_dir", "redirect_networks"]
        problems += [
            f"{SETTINGS[name].key} (from {origins[name]}): it has no effect without storage = s3; give both or neither"
            for name in unused
            if values.get(name)
        ]
    if bool(values.get("s3_access_key_id")) != bool(values.get("s3_secret_access_key")):
        problems.append("s3-access-key-id and s3-secret-access-key belong together; give both or neither")
    if values.get("s3_sse_kms_key_id") and values.get("s3_sse") != "aws:kms":
        problems.append("s3-sse-kms-key-id: it has no effect without s3-sse = aws:kms")
    records, archives = values.get("metadata_cache_dir"), values.get("dist_cache_dir")
    if records and archives and (records == archives or records in archives.parents or archives in records.parents):
        problems.append(
            "metadata-cache-dir and dist-cache-dir: one lies within the other; give two folders side by side"
        )
    return problems
