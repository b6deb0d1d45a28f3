"""What the documents say of the project is true, as far as that can be checked."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from distlib.index import DEFAULT_INDEX

from mirror.cli.hints import client_lines
from mirror.config import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks/README.md"])
FLAGS = {setting.flag for setting in SETTINGS.values() if setting.flag}
VARIABLES = {setting.variable for setting in SETTINGS.values()} | {"MIRROR_CONFIG"}


def of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in names.decode().split("\0") if name]


@pytest.mark.parametrize("document", DOCUMENTS, ids=of)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=of)
def test_every_setting_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    for variable in re.findall(r"`(MIRROR_[A-Z_]+[A-Z])`", text):
        assert variable.removesuffix("_FILE") in VARIABLES, variable
    if document.name == "README.md" and document.parent == ROOT:
        for flag in re.findall(r"`(--[a-z-]+)", text):
            assert flag in FLAGS, flag


def test_the_readme_shows_the_lines_that_the_mirror_prints() -> None:
    readme = (ROOT / "README.md").read_text()
    lines = client_lines("http://127.0.0.1:8080/").splitlines()
    assert lines[0] in readme
    assert lines[1] in readme


def test_the_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        word
        for document in DOCUMENTS
        for words in re.findall(
            r"(?:`|^\$ )make ([a-z ]+?)(?: [A-Z]+=[^`]*)?(?:`|$)", document.read_text(), re.MULTILINE
        )
        for word in words.split()
    }
    assert named <= targets
    assert {"run", "test"} <= named


def test_the_architecture_page_names_what_there_is() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    listed = set(re.findall(r"^  ([a-z_]+)(?:/|\.py)  ", page, re.MULTILINE))
    there = {p.stem for p in (ROOT / "mirror").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert there - {"__init__", "__main__"} == listed


def test_no_address_of_a_package_registry_is_written_anywhere() -> None:
    host = (urlsplit(DEFAULT_INDEX).hostname or "").encode()
    assert host
    assert [of(path) for path in tracked() if path.is_file() and host in path.read_bytes()] == []
