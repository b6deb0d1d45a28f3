"""Real wheels and source archives, built in memory, the same bytes for the same arguments."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import random
import re
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

UPLOAD_TIME = "2024-01-02T03:04:05.678901Z"
_ZIP_TIME = (2024, 1, 2, 3, 4, 6)
_TAR_TIME = 1_704_164_645
_PIECE = 1 << 27

_BACKEND = '''\
"""A build backend that packs the folder beside it; needs nothing but the standard library."""

import base64, hashlib, os, zipfile

RELEASE, WHEEL, INFO = {release!r}, {wheel!r}, {info!r}


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    members = {{}}
    for folder, _, names in os.walk({module!r}):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as handle:
                members[path.replace(os.sep, "/")] = handle.read()
    with open("PKG-INFO", "rb") as handle:
        members[INFO + "/METADATA"] = handle.read()
    members[INFO + "/WHEEL"] = b"Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    lines = []
    for path, body in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
        lines.append(path + ",sha256=" + digest + "," + str(len(body)) + "\\n")
    members[INFO + "/RECORD"] = ("".join(lines) + INFO + "/RECORD,,\\n").encode()
    with zipfile.ZipFile(os.path.join(wheel_directory, WHEEL), "w") as archive:
        for path, body in members.items():
            archive.writestr(path, body)
    return WHEEL
'''


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What an index says of one file; need not be true, and there need not be such a file."""

    filename: str
    version: str
    size: int
    sha256: str
    md5: str
    blake2b: str
    """BLAKE2b-256, out of which PyPI makes the path."""
    metadata_sha256: str | None = None
    """None where the index serves no `.metadata` for this file."""
    requires_python: str | None = None
    requires: tuple[str, ...] = ()
    yanked: bool | str = False
    upload_time: str = UPLOAD_TIME

    @property
    def path(self) -> str:
        """Path on the file host, without leading slash."""
        return f"packages/{self.blake2b[:2]}/{self.blake2b[2:4]}/{self.blake2b[4:]}/{self.filename}"


@dataclass(frozen=True, kw_only=True)
class Archive(Listing):
    """A wheel or source archive with its bytes."""

    content: bytes = field(repr=False)
    metadata: bytes = field(repr=False)


@dataclass(frozen=True)
class Project:
    """A project of an index: its name as its owner spells it, and its files."""

    name: str
    files: tuple[Listing, ...]
    status: str = "active"
    status_reason: str | None = None
    serial: int = 1000

    @cached_property
    def normal(self) -> str:
        return normal(self.name)


def normal(name: str) -> str:
    """The name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def core_metadata(name: str, version: str, requires: Sequence[str] = (), requires_python: str | None = None) -> bytes:
    """A METADATA or PKG-INFO file."""
    lines = ["Metadata-Version: 2.2", f"Name: {name}", f"Version: {version}", f"Summary: {name} for tests"]
    lines += [f"Requires-Python: {requires_python}"] if requires_python else []
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    return ("\n".join(lines) + f"\n\n{name}\n").encode()


def wheel(
    name: str,
    version: str,
    *,
    requires: Sequence[str] = (),
    requires_python: str | None = None,
    blob: int = 0,
    tag: str = "py3-none-any",
    yanked: bool | str = False,
    upload_time: str = UPLOAD_TIME,
    seed: int = 0,
) -> Archive:
    """An installable wheel whose package holds `__version__` and, if `blob`, that many incompressible bytes.

    Another `seed` makes other bytes of the same release.
    """
    escaped = _escaped(name)
    info = f"{escaped}-{version}.dist-info"
    metadata = core_metadata(name, version, requires, requires_python)
    members = _modules(escaped, version, blob, seed) | {
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b'=').decode()},{len(body)}\n"
        for path, body in members.items()
    )
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        for path, body in members.items():
            member = zipfile.ZipInfo(path, _ZIP_TIME)
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            member.compress_type = zipfile.ZIP_STORED if path.endswith(".bin") else zipfile.ZIP_DEFLATED
            archive.writestr(member, body)
    return archive_of(
        f"{escaped}-{version}-{tag}.whl",
        version,
        output.getvalue(),
        metadata,
        requires=requires,
        requires_python=requires_python,
        yanked=yanked,
        upload_time=upload_time,
    )


def sdist(
    name: str,
    version: str,
    *,
    requires: Sequence[str] = (),
    requires_python: str | None = None,
    blob: int = 0,
    yanked: bool | str = False,
    upload_time: str = UPLOAD_TIME,
    seed: int = 0,
) -> Archive:
    """A source archive (PEP 625) that builds without network: its backend lies inside it (PEP 517)."""
    escaped = _escaped(name)
    release = f"{escaped}-{version}"
    metadata = core_metadata(name, version, requires, requires_python)
    backend = _BACKEND.format(
        release=release, wheel=f"{release}-py3-none-any.whl", info=f"{release}.dist-info", module=_module(escaped)
    )
    members = {
        "PKG-INFO": metadata,
        "pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["_build"]\n',
        "_build/backend.py": backend.encode(),
    } | _modules(escaped, version, blob, seed)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, body in members.items():
            member = tarfile.TarInfo(f"{release}/{path}")
            member.size, member.mtime = len(body), _TAR_TIME
            archive.addfile(member, io.BytesIO(body))
    return archive_of(
        f"{release}.tar.gz",
        version,
        gzip.compress(plain.getvalue(), 6, mtime=0),
        metadata,
        requires=requires,
        requires_python=requires_python,
        yanked=yanked,
        upload_time=upload_time,
    )


def archive_of(
    filename: str,
    version: str,
    content: bytes,
    metadata: bytes,
    *,
    requires: Sequence[str] = (),
    requires_python: str | None = None,
    yanked: bool | str = False,
    upload_time: str = UPLOAD_TIME,
) -> Archive:
    """Any bytes under any file name, with the digests that an index would give them."""
    return Archive(
        filename=filename,
        version=version,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        blake2b=hashlib.blake2b(content, digest_size=32).hexdigest(),
        metadata_sha256=hashlib.sha256(metadata).hexdigest() if filename.endswith(".whl") else None,
        requires_python=requires_python,
        requires=tuple(requires),
        yanked=yanked,
        upload_time=upload_time,
        content=content,
        metadata=metadata,
    )


def _escaped(name: str) -> str:
    """The name as file names have it (the binary distribution format: normalised, dashes become underscores)."""
    return normal(name).replace("-", "_")


def _module(escaped: str) -> str:
    return escaped if not escaped[0].isdigit() else f"_{escaped}"


def _modules(escaped: str, version: str, blob: int, seed: int) -> dict[str, bytes]:
    module = _module(escaped)
    members = {f"{module}/__init__.py": f'__version__ = "{version}"\nSEED = {seed}\n'.encode()}
    if blob:
        source = random.Random(f"{escaped} {version} {seed}")
        # In pieces, because at most 256 MB can be asked for at a time.
        members[f"{module}/blob.bin"] = b"".join(
            source.randbytes(min(_PIECE, blob - at)) for at in range(0, blob, _PIECE)
        )
    return members
