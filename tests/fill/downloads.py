"""What the tests of downloads are made with: upstreams and spools with faults, and a place where fills run."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mirror.counters import Counters
from mirror.errors import MirrorError, StoreFailure
from mirror.fill.download import Fill
from mirror.fill.fills import Fills
from mirror.fill.reader import FillReader
from mirror.flight import Tasks
from mirror.model import WHOLE, File, Span, UpstreamStream
from mirror.spool import DiskSpools, MemorySpools, Spool, Spools
from mirror.testing import MemoryUpstream, MovableClock

LARGE = 1_000_000
SMALL = 40_000


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that look like nothing else."""
    return random.Random(seed).randbytes(size)


class ScriptedUpstream(MemoryUpstream):
    """Notes the spans it was asked for, and has a cache in front that can be damaged."""

    def __init__(self) -> None:
        super().__init__(MovableClock())
        self.spans: list[Span] = []
        self.bypassed: list[bool] = []
        self.cached: dict[str, bytes] = {}
        """What the cache delivers, by URL; requests that bypass caches do not see it."""
        self.cuts: list[int] = []
        """After how many bytes the next bodies break off, one after the other."""

    async def fetch_file(self, file: File, span: Span = WHOLE, *, bypass_caches: bool = False) -> UpstreamStream:
        self.spans.append(span)
        self.bypassed.append(bypass_caches)
        self.cut_after = self.cuts.pop(0) if self.cuts else None
        origin = self.files.get(file.url)
        if file.url in self.cached and not bypass_caches:
            self.files[file.url] = self.cached[file.url]
        try:
            stream = await super().fetch_file(file, span)
        finally:
            if origin is not None:
                self.files[file.url] = origin
        cut = self.cut_after
        self.cut_after = None
        return UpstreamStream(self._cutting(stream, cut), stream.size, stream.start, stream.stop)

    async def _cutting(self, stream: UpstreamStream, cut: int | None) -> AsyncGenerator[bytes, None]:
        passed = 0
        async for piece in stream.body:
            if cut is not None and passed + len(piece) > cut:
                if cut > passed:
                    yield piece[: cut - passed]
                raise self._cut()
            passed += len(piece)
            yield piece


class ShortSpool:
    """A spool on a disk that has room for `room` bytes."""

    def __init__(self, inner: Spool, room: int) -> None:
        self._inner, self._room = inner, room

    @property
    def size(self) -> int:
        return self._inner.size

    @size.setter
    def size(self, value: int) -> None:
        self._inner.size = value

    @property
    def path(self) -> Path | None:
        return self._inner.path

    @path.setter
    def path(self, value: Path | None) -> None:
        self._inner.path = value

    def append(self, pieces: list[bytes]) -> None:
        if self._inner.size + sum(map(len, pieces)) > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._inner.append(pieces)

    def peek(self, position: int, length: int) -> bytes | None:
        return self._inner.peek(position, length)

    def read(self, position: int, length: int) -> bytes:
        return self._inner.read(position, length)

    def discard(self) -> None:
        self._inner.discard()

    def close(self) -> None:
        self._inner.close()


class ShortSpools:
    """Spools with room for `room` bytes each; negative: none can be created."""

    def __init__(self, inner: Spools, room: int) -> None:
        self._inner, self.room = inner, room

    def create(self, expected: int | None) -> Spool:
        if self.room < 0:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return ShortSpool(self._inner.create(expected), self.room)


class Downloads:
    """Fills over one upstream, and a store that is a dictionary."""

    def __init__(self, upstream: ScriptedUpstream, spools: Spools, *, finish_abandoned: int = 0) -> None:
        self.upstream, self.counters = upstream, Counters()
        self.tasks = Tasks(self.counters)
        self.fills = Fills(upstream, spools, self.tasks, self.counters, finish_abandoned=finish_abandoned)
        self.stored: dict[str, bytes] = {}
        self.refuses = False

    async def keep(self, file: File, spool: Spool, size: int) -> None:
        if self.refuses:
            raise StoreFailure("write", file.filename, os.strerror(errno.EDQUOT))
        self.stored[file.filename] = await asyncio.to_thread(spool.read, 0, size)

    def join(self, file: File, *, bypass_caches: bool = False) -> tuple[Fill, FillReader]:
        fill = self.fills.join(file, self.keep, bypass_caches=bypass_caches)
        return fill, FillReader(fill)

    async def whole(self, file: File, span: Span = WHOLE) -> bytes:
        _, reader = self.join(file)
        await reader.begin(span)
        return await rest(reader)

    async def ended(self) -> None:
        """Waits until no download runs."""
        assert await self.tasks.drain(20) == 0


async def rest(reader: FillReader) -> bytes:
    """All that a reader still gets; closes it."""
    try:
        return b"".join([piece async for piece in reader])
    finally:
        await reader.aclose()


async def got(reader: FillReader) -> tuple[bytes, Exception | None]:
    """What a reader gets before it fails, and how; closes it."""
    pieces: list[bytes] = []
    try:
        async for piece in reader:
            pieces.append(piece)  # noqa: PERF401 - what came before a failure counts
    except MirrorError as e:
        return b"".join(pieces), e
    finally:
        await reader.aclose()
    return b"".join(pieces), None


def file_of(upstream: MemoryUpstream, body: bytes, filename: str = "p-1.tar.gz", **changed: object) -> File:
    """Publishes `body` and says of it what `changed` says."""
    file = upstream.publish("p", filename, body)
    facts = {"filename": file.filename, "url": file.url, "path": file.path, "hashes": file.hashes, "size": file.size}
    return File(**(facts | changed))  # type: ignore[arg-type]


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@asynccontextmanager
async def disk(folder: Path) -> AsyncIterator[DiskSpools]:
    """Spools in `folder`, which are all gone at the end."""
    spools = DiskSpools(folder)
    spools.prepare()
    try:
        yield spools
        left = [p for p in folder.rglob("*") if p.is_file()]
        assert left == []
    finally:
        spools.close()


def memory(limit: int = 64 << 20) -> MemorySpools:
    return MemorySpools(limit)
