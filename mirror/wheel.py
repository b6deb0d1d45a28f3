"""Core metadata out of a wheel or a source archive, bounded in memory, reads and time."""

from __future__ import annotations

import asyncio
import posixpath
import re
from collections.abc import Awaitable, Callable
from typing import BinaryIO, Final

from packaging.utils import canonicalize_version

from mirror.errors import UnreadableArchive
from mirror.names import MAX_FILENAME
from mirror.tar_reader import TarReader
from mirror.zip_reader import Reads, ZipReader

MAX_METADATA: Final = 4 * 1024 * 1024
"""Largest METADATA or PKG-INFO, in bytes, unpacked; the largest known are some hundred KiB."""
MAX_RANGES: Final = 6
MAX_RANGE_BYTES: Final = 8 * 1024 * 1024


def metadata_from_file(handle: BinaryIO, filename: str) -> bytes:
    """METADATA of the wheel `filename` that lies complete in `handle`; blocking.

    Raises `UnreadableArchive` if the bytes are no such wheel (PEP 427, PEP 491) or go beyond the bounds.
    """
    steps = _wheel_metadata(filename, handle.seek(0, 2))
    step = _advance(steps, None)
    while isinstance(step, tuple):
        start, stop = step
        handle.seek(start)
        step = _advance(steps, handle.read(stop - start))
    return step


async def metadata_from_ranges(filename: str, size: int, fetch: Callable[[int, int], Awaitable[bytes]]) -> bytes:
    """METADATA of a wheel of `size` bytes that lies elsewhere; `fetch(start, stop)` reads a half-open range.

    Reads at most `MAX_RANGES` ranges, one after the other, and `MAX_RANGE_BYTES` in all; for nearly every
    wheel it is one of 64 KiB. Raises `UnreadableArchive`, also if a range comes back with another length
    than asked for, and whatever `fetch` raises.
    """
    steps = _wheel_metadata(filename, size)
    step = _advance(steps, None)
    ranges = received = 0
    while isinstance(step, tuple):
        start, stop = step
        ranges, received = ranges + 1, received + stop - start
        if ranges > MAX_RANGES or received > MAX_RANGE_BYTES:
            raise UnreadableArchive(filename, "its metadata cannot be reached within the bounds on partial reads")
        data = await fetch(start, stop)
        step = await asyncio.to_thread(_advance, steps, data)
    return step


def metadata_from_sdist(handle: BinaryIO, filename: str) -> bytes:
    """PKG-INFO of the source archive `filename` that lies complete in `handle`; blocking.

    The archive is read to its end once and never unpacked to disk. Raises `UnreadableArchive` if the bytes are
    no `.tar.gz` with exactly one `{name}-{version}/PKG-INFO` (PEP 625, PEP 643) or go beyond the bounds.
    """
    release = filename.removesuffix(".tar.gz")
    if release == filename or "-" not in release or len(filename) > MAX_FILENAME:
        raise UnreadableArchive(filename, "its name is not that of a source archive")

    def wanted(path: bytes) -> bool:
        # `a//b` and `a/./b` are one file for whoever unpacks the archive.
        folder, _, rest = posixpath.normpath(path).partition(b"/")
        return rest == b"PKG-INFO" and _same_release(folder, release)

    handle.seek(0)
    found = TarReader(filename, handle).contents(wanted, MAX_METADATA)
    if len(found) != 1:
        raise UnreadableArchive(filename, f"it has {len(found)} PKG-INFO for its release, where there must be one")
    return found[0]


def _advance(steps: Reads[bytes], data: bytes | None) -> tuple[int, int] | bytes:
    """The next range wanted, or the result."""
    try:
        return next(steps) if data is None else steps.send(data)
    except StopIteration as stop:
        result: bytes = stop.value
        return result


def _wheel_metadata(filename: str, size: int) -> Reads[bytes]:
    archive = ZipReader(filename, size)
    parts = filename.removesuffix(".whl").split("-")
    if not filename.endswith(".whl") or len(parts) < 5 or len(filename) > MAX_FILENAME:
        archive.refuse("its name is not that of a wheel")
    members = yield from archive.members()
    # Folders deeper down are copies of other projects, which many wheels carry.
    folders = {top for top in {m.name.partition(b"/")[0] for m in members} if top.endswith(b".dist-info")}
    found = [m for m in members if m.name.count(b"/") == 1 and m.name.endswith(b".dist-info/METADATA")]
    if len(folders) != 1 or len(found) != 1:
        archive.refuse(f"it has {len(folders)} .dist-info folders and {len(found)} METADATA, not one of each")
    if not _same_release(folders.pop().removesuffix(b".dist-info"), f"{parts[0]}-{parts[1]}"):
        archive.refuse("its .dist-info folder is that of another release")
    return (yield from archive.content(found[0], MAX_METADATA))


def _same_release(folder: bytes, release: str) -> bool:
    """Whether two spellings of `{name}-{version}` mean the same; names as in PEP 503, versions as in PEP 440."""
    return len(folder) <= MAX_FILENAME and _normal(folder.decode("ascii", "replace")) == _normal(release)


def _normal(release: str) -> tuple[str, str]:
    name, _, version = release.rpartition("-")
    return re.sub(r"[-_.]+", "-", name).lower(), canonicalize_version(version)
