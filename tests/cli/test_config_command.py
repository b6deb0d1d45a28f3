from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from distlib.index import DEFAULT_INDEX

from mirror.cli.config import command
from mirror.cli.main import main
from mirror.cli.reference import reference_page
from mirror.config import SETTINGS

CANARY = "canary-7f3a"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS.values():
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.delenv("MIRROR_CONFIG", raising=False)


def test_the_table_shows_every_setting_and_its_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text('listen = ["[::1]:80", "unix:/run/m.sock"]\noffline = true\n')
    monkeypatch.setenv("MIRROR_MISSING_TTL", "90")
    assert main(["config", "--config", str(file), "--page-ttl", "2h", "--no-offline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}
    assert list(rows) == ["setting", *(setting.key for setting in SETTINGS.values())]
    assert rows["listen"] == ["[::1]:80,unix:/run/m.sock", f"file {file}"]
    assert rows["missing-ttl"] == ["90s", "environment MIRROR_MISSING_TTL"]
    assert rows["page-ttl"] == ["2h", "flag --page-ttl"]
    assert rows["offline"] == ["off", "flag --offline"]
    assert rows["public-url"] == ["none", "default"]
    assert len({line.index("default") for line in lines if line.endswith("default")}) == 1


def test_json_has_numbers_units_and_origins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--json", "--listen", "a:1", "--listen", "b:2", "--upstream-username", "ci"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {setting.key for setting in SETTINGS.values()}
    assert found["listen"] == {"value": ["a:1", "b:2"], "unit": None, "source": "flag", "origin": "--listen"}
    assert found["page-ttl"] == {"value": 600.0, "unit": "seconds", "source": "default", "origin": None}
    assert found["offline"]["value"] is False
    assert found["upstream-password"]["value"] is None


@pytest.mark.parametrize("form", [[], ["--json"], ["--markdown"]])
@pytest.mark.parametrize("way", ["variable", "url", "file"])
def test_secrets_are_never_shown(
    form: list[str], way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    args = ["config", *form]
    match way:
        case "variable":
            monkeypatch.setenv("MIRROR_UPSTREAM_USERNAME", "ci")
            monkeypatch.setenv("MIRROR_UPSTREAM_PASSWORD", CANARY)
        case "url":
            args += ["--upstream", f"https://ci:{CANARY}@index.example.com/simple/"]
        case _:
            (tmp_path / "m.toml").write_text(f'upstream-username = "ci"\nupstream-password = "{CANARY}"\n')
            args += ["--config", str(tmp_path / "m.toml")]
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert CANARY not in out + err
    assert form == ["--markdown"] or "********" in out


@pytest.mark.parametrize(
    "args",
    [["--upstream", f"https://ci:{CANARY}@/"], [f"--upstream-password={CANARY}"], ["--upstream", f"ci:{CANARY}"]],
)
def test_secrets_are_never_part_of_a_complaint(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", *args]) == 2
    out, err = capsys.readouterr()
    assert err
    assert CANARY not in out + err


def test_problems_are_one_line_each(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_PAGE_TTI", "1")
    assert main(["config", "--upstream", "nonsense", "--listen", "x"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(" ")[:2] for line in err.splitlines()] == [
        ["mirror:", "the"],
        ["mirror:", "listen"],
        ["mirror:", "upstream-url"],
    ]


def test_json_and_markdown_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--json", "--markdown"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_the_reference_page_is_the_committed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text(encoding="utf-8"), (
        "run: mirror config --markdown > docs/reference/settings.md"
    )


def test_the_reference_page_names_everything_and_no_registry() -> None:
    page = reference_page()
    for setting in SETTINGS.values():
        assert f"### `{setting.key}`\n" in page
        assert f"`{setting.variable}`" in page
        assert setting.flag is None or f"`{setting.flag}`" in page
        assert setting.meaning in page
    assert DEFAULT_INDEX.split("/")[2] not in page


def test_help_names_variable_and_default_of_every_flag() -> None:
    help_of = {option.opts[0]: option.help for option in command.params if isinstance(option, click.Option)}
    for setting in SETTINGS.values():
        if setting.flag:
            assert f"[{setting.variable}; default: {setting.default_text}]" in (help_of.pop(setting.flag) or "")
    assert "[MIRROR_CONFIG]" in (help_of.pop("--config") or "")
    assert help_of.keys() == {"--json", "--markdown"}


def test_help_is_readable_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--help"]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for setting in SETTINGS.values():
        if setting.flag:
            assert f"[{setting.variable};" in text
    assert DEFAULT_INDEX.split("/")[2] not in text
