"""Where a remote store has one archive, or will have it: what a download asks of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from mirror.errors import IntegrityError, StoreFailure
from mirror.model import ByteSource, ByteStream, File, LocalFile, Origin, Span
from mirror.names import ProjectName
from mirror.ports import Lease, Leases, Sink, Store
from mirror.repositories.archives import Archives
from mirror.spool import Spool

PIECE: Final = 256 * 1024
"""Bytes read from a file at a time."""

Kept = Callable[[int], None]
"""Told that the store has the archive now, of so many bytes."""


class NoLease:
    """Leave to download that nobody else knows of."""

    async def release(self) -> None:
        """There is nothing to give back."""


class ArchivePlace:
    """A `mirror.fill.sources.Place` for one archive."""

    def __init__(
        self,
        archives: Archives,
        store: Store,
        leases: Leases | None,
        sink: Sink | None,
        project: ProjectName,
        file: File,
        settle: Callable[[], Awaitable[None]],
        kept: Kept,
    ) -> None:
        """`settle` is awaited before a streamed archive is stored."""
        self._archives, self._store, self._leases, self._sink = archives, store, leases, sink
        self._project, self._file = project, file
        self._settle, self._kept = settle, kept
        self._key = archives.key(project, file.filename)
        self._blamed = False

    @property
    def takes_streams(self) -> bool:
        return self._sink is not None and self._archives.storable(self._file)

    async def reopen(self, span: Span) -> ByteStream | None:
        content = await self._store.open(self._key, span)
        if isinstance(content, LocalFile):  # another process of this machine has kept a copy meanwhile
            return ByteStream(FilePieces(content), content.size, content.start, content.stop, Origin.CACHE)
        return content

    async def damaged(self, error: IntegrityError, *, proven: bool) -> None:
        if self._blamed:  # whatever lies there by now may be sound
            return
        self._blamed = True
        if proven:
            await self._archives.damaged(self._key, error)
        else:
            self._archives.distrust(self._key)

    async def admit(self, spool: Spool, size: int) -> None:
        await self._archives.admit(self._project, self._file, spool)

    async def pour(self, size: int, body: ByteSource) -> None:
        if self._sink is None:
            raise StoreFailure("keep", self._file.filename, "it takes no bodies on their way")
        await self._settle()
        await self._sink.pour(self._key, size, body)
        self._archives.replaced(self._key)
        self._kept(size)

    async def lead(self) -> Lease | None:
        if self._leases is None or self._archives.distrusts(self._key):
            return NoLease()
        return await self._leases.lead(self._key)


class FilePieces:
    """The bytes of a `LocalFile`, read in threads; closes it."""

    def __init__(self, file: LocalFile) -> None:
        self._file, self._at = file, file.start

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await asyncio.to_thread(self._read, min(PIECE, self._file.stop - self._at))
        except (OSError, ValueError) as e:  # ValueError: it has been closed
            raise StoreFailure("read", "a copy on this machine", str(e)) from e
        if not piece:
            raise StopAsyncIteration
        self._at += len(piece)
        return piece

    def _read(self, length: int) -> bytes:
        # By the file object, whose lock makes `close` wait for it, rather than by a handle that may be another's then.
        self._file.handle.seek(self._at)
        return self._file.handle.read(length)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._file.close)
