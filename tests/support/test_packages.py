"""The archives that tests are made of are real: complete, consistent and always the same."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.packages import Archive, Project, archive_of, sdist, wheel


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def _check_record(members: dict[str, bytes]) -> None:
    (record,) = [name for name in members if name.endswith(".dist-info/RECORD")]
    rows = {path: (digest, size) for path, digest, size in csv.reader(members[record].decode().splitlines())}
    assert rows.keys() == members.keys()
    assert rows.pop(record) == ("", "")
    for path, (digest, size) in rows.items():
        body = members[path]
        assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
        assert int(size) == len(body)


@pytest.mark.parametrize("version", ["1.0", "2.0+cpu"])
def test_a_wheel_is_complete_and_its_record_right(version: str) -> None:
    made = wheel("Foo._Bar", version, requires=["beta>=1", "gamma"], requires_python=">=3.8", blob=1000)
    assert made.filename == f"foo_bar-{version}-py3-none-any.whl"
    members = _members(made.content)
    _check_record(members)
    assert members[f"foo_bar-{version}.dist-info/METADATA"] == made.metadata
    assert b"\nRequires-Dist: beta>=1\nRequires-Dist: gamma\n" in made.metadata
    assert b"\nRequires-Python: >=3.8\n" in made.metadata
    assert len(members["foo_bar/blob.bin"]) == 1000


def test_a_source_archive_has_one_folder_and_builds_without_any_requirement(tmp_path: Path) -> None:
    made = sdist("Foo._Bar", "1.0", requires=["beta"], blob=100)
    assert made.filename == "foo_bar-1.0.tar.gz"
    assert made.metadata_sha256 is None
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(made.content))) as archive:
        for member in archive.getmembers():
            handle = archive.extractfile(member)
            assert handle is not None
            path = tmp_path / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(handle.read())
    (root,) = tmp_path.iterdir()
    assert root.name == "foo_bar-1.0"
    assert (root / "PKG-INFO").read_bytes() == made.metadata
    assert "requires = []" in (root / "pyproject.toml").read_text()
    script = "import sys; sys.path.insert(0, '_build'); import backend; print(backend.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-I", "-c", script, str(tmp_path)]
    built = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()
    assert built == "foo_bar-1.0-py3-none-any.whl"
    members = _members((tmp_path / built).read_bytes())
    _check_record(members)
    assert members["foo_bar-1.0.dist-info/METADATA"] == made.metadata
    assert len(members["foo_bar/blob.bin"]) == 100


@pytest.mark.parametrize("make", [wheel, sdist])
def test_the_same_arguments_make_the_same_bytes_and_another_seed_others(make: Callable[..., Archive]) -> None:
    first, again, other = (make("alpha", "1.0", blob=100, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.filename == other.filename
    assert first.sha256 != other.sha256


def test_digests_and_path_are_those_of_the_content() -> None:
    made = archive_of("x-1.0-py3-none-any.whl", "1.0", b"body", b"metadata")
    assert made.sha256 == hashlib.sha256(b"body").hexdigest()
    assert made.metadata_sha256 == hashlib.sha256(b"metadata").hexdigest()
    digest = hashlib.blake2b(b"body", digest_size=32).hexdigest()
    assert made.path == f"packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/x-1.0-py3-none-any.whl"
    assert len(made.path.split("/")[3]) == 60


def test_a_project_knows_its_normalised_name() -> None:
    assert Project("Foo._Bar", ()).normal == "foo-bar"
