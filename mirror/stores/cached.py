"""A remote store with caches on this machine's disk in front of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import structlog

from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.flight import Tasks
from mirror.model import WHOLE, Blob, ByteSource, Content, LocalFile, Span, Unchanged
from mirror.ports import ArchiveCache, Clock, RecordCache, Sink, Store, StoredKey
from mirror.stores.keys import Kind, kind_of
from mirror.stores.records import Records
from mirror.stores.write_behind import USUAL, Pace, WriteBehind

LIFETIME: Final = 600.0
"""Seconds for which a record is read from the cache before the store is asked whether it has another."""
OWED: Final = 2 << 30
"""Bytes of archives that may wait for the store."""

log = structlog.get_logger()


class Remote(Store, Sink, Protocol):
    """A store that also takes bodies on their way, as an object store does."""


class CachedStore:
    """A `Remote` that keeps records and archives nearer, each where there is a cache for them.

    Archives (`files/…`) are immutable: the copy answers first. A new one is kept here and uploaded behind; until then
    it is this machine's debt, which outlives restarts. Records (`meta/…/<project>.json`, sidecars) are confirmed now
    and then; see `Records`. The list of all projects is the store's, and kept here only while the store cannot take
    it. Everything else goes straight to the store.

    A copy of an archive that the store lacks is always owed to it: what cannot be owed, because too much is already,
    is given to the store at once or not kept at all, so that the next request finds out.
    """

    def __init__(
        self,
        remote: Remote,
        records: RecordCache | None,
        archives: ArchiveCache | None,
        tasks: Tasks,
        counters: Counters,
        clock: Clock,
        *,
        lifetime: float = LIFETIME,
        owed_limit: int = OWED,
        refusal: Callable[[], float] = lambda: 0.0,
        pace: Pace = USUAL,
    ) -> None:
        """`lifetime` as for `Records`; `owed_limit`, `refusal`, `pace` as for `WriteBehind`."""
        self._remote, self._records, self._archives = remote, records, archives
        self._counters, self._clock = counters, clock
        self._kept = None if records is None else Records(remote, records, counters, clock, lifetime)
        self._behind = (
            None
            if archives is None
            else WriteBehind(remote, archives, tasks, counters, clock, limit=owed_limit, refusal=refusal, pace=pace)
        )

    async def start(self) -> None:
        """Takes up the uploads that an earlier process owed."""
        if self._behind is not None:
            await self._behind.start()

    def stop(self) -> None:
        """To be called before `Tasks.drain`: uploads that have failed before are left to the next process."""
        if self._behind is not None:
            self._behind.stop()

    @property
    def remote(self) -> bool:
        return True

    @property
    def exact(self) -> bool:
        return self._remote.exact

    async def tried(self, key: str) -> None:
        """Waits until the store has what was last adopted as `key`, or has failed to take it once."""
        if self._behind is not None:
            await self._behind.tried(key)

    async def open(self, key: str, span: Span = WHOLE) -> Content | None:
        copy = await self._open_copy(key, span)
        return await self._remote.open(key, span) if copy is None else copy

    async def read(self, key: str, limit: int) -> bytes | None:
        if (kept := self._records_for(key)) is not None:
            return await kept.read(key, limit)
        copy = await self._open_copy(key, WHOLE)
        return await self._remote.read(key, limit) if copy is None else await _read(key, copy, limit)

    async def reread(self, key: str, limit: int, version: str) -> Blob | Unchanged | None:
        if (kept := self._records_for(key)) is not None:
            return await kept.reread(key, limit, version)
        return await self._remote.reread(key, limit, version)

    async def put(self, key: str, body: bytes) -> None:
        """Where the store refuses a record, a stand-in is kept all the same; see `Records`."""
        if (kept := self._records_for(key)) is not None:
            await kept.put(key, body)
            return
        async with self._replacing(key):
            await self._remote.put(key, body)

    async def create(self, key: str, body: bytes) -> bool:
        if (kept := self._records_for(key)) is not None:
            return await kept.create(key, body)
        if self._owes(key) or not await self._remote.create(key, body):
            return False
        await self._forget(key)
        return True

    async def replace(self, key: str, body: bytes, version: str) -> bool:
        if (kept := self._records_for(key)) is not None:
            return await kept.replace(key, body, version)
        if self._owes(key) or not await self._remote.replace(key, body, version):
            return False
        await self._forget(key)
        return True

    async def adopt(self, key: str, path: Path) -> None:
        """Returns once the file is in the archive cache, where there is one, else once the store has it."""
        kind = kind_of(key)
        if self._behind is not None and kind is Kind.ARCHIVE and await self._behind.adopt(key, path):
            return
        try:
            async with self._replacing(key):
                await self._remote.adopt(key, path)
        except StoreFailure as e:
            if self._behind is None or kind not in (Kind.ARCHIVE, Kind.LIST):
                raise
            if kind is Kind.LIST and await self._behind.adopt(key, path):
                self._counters.count("store_failures")
                log.warning("list of projects waits for the store", key=key, reason=e.why)
                return
            self._counters.count("store_writes_dropped")
            raise

    async def pour(self, key: str, size: int, body: ByteSource) -> None:
        """As `Sink.pour`."""
        async with self._replacing(key):
            await self._remote.pour(key, size, body)

    async def admit(self, key: str, path: Path) -> bool:
        if self._archives is None or kind_of(key) is not Kind.ARCHIVE:
            return await self._remote.admit(key, path)
        return not self._owes(key) and await self._archives.adopt(key, path)

    async def delete(self, key: str) -> None:
        async with self._replacing(key):
            await self._remote.delete(key)

    async def quarantine(self, key: str) -> None:
        """An archive's copy goes first, and alone, with what it may owe; a record as `Records.quarantine` says."""
        if (kept := self._records_for(key)) is not None:
            await kept.quarantine(key)
            return
        if (copy := await self._open_copy(key, WHOLE)) is None:
            await self._remote.quarantine(key)
            return
        copy.close()
        async with self._replacing(key):
            log.warning("damaged copy removed from the cache", key=key)

    async def list(self, prefix: str) -> AsyncIterator[StoredKey]:
        """What is owed is listed too, as modified just now."""
        owed = self._behind.keys(prefix) if self._behind is not None else []
        owed.reverse()
        async for found in self._remote.list(prefix):
            while owed and owed[-1] < found.key:
                if (copy := await self._listed(owed.pop())) is not None:
                    yield copy
            if owed and owed[-1] == found.key:
                yield await self._listed(owed.pop()) or found
            else:
                yield found
        while owed:
            if (copy := await self._listed(owed.pop())) is not None:
                yield copy

    async def check(self) -> None:
        await self._remote.check()

    async def aclose(self) -> None:
        """Closes the remote store and the caches too; nothing may be under way."""
        async with AsyncExitStack() as stack:
            for part in (self._remote, self._records, self._archives):
                if part is not None:
                    stack.push_async_callback(part.aclose)

    def _records_for(self, key: str) -> Records | None:
        return self._kept if kind_of(key) is Kind.RECORD else None

    def _owes(self, key: str) -> bool:
        return self._behind is not None and self._behind.owes(key)

    async def _open_copy(self, key: str, span: Span) -> LocalFile | None:
        # A list in the cache may be older than the store's, unless the store still lacks it.
        if self._archives is None or not (kind_of(key) is Kind.ARCHIVE or self._owes(key)):
            return None
        return await self._archives.open(key, span)

    async def _listed(self, key: str) -> StoredKey | None:
        copy = await self._open_copy(key, WHOLE)
        if copy is None:
            return None
        copy.close()
        return StoredKey(key, copy.size, self._clock.now())

    @asynccontextmanager
    async def _replacing(self, key: str) -> AsyncIterator[None]:
        """Round a call that changes what the store has: nothing older is uploaded over it, no copy outlives it."""
        if self._behind is not None:
            await self._behind.withdraw(key)
        try:
            yield
        finally:
            await self._forget(key)

    async def _forget(self, key: str) -> None:
        if self._archives is not None and kind_of(key) in (Kind.ARCHIVE, Kind.LIST):
            await self._archives.forget(key)
        if (kept := self._records_for(key)) is not None:
            await kept.forget(key)


async def _read(key: str, copy: LocalFile, limit: int) -> bytes:
    try:
        if copy.size > limit:
            raise StoreFailure("read", key, f"it has {copy.size} bytes, and at most {limit} were expected")
        return await asyncio.to_thread(os.pread, copy.handle.fileno(), copy.size, 0)
    except OSError as e:
        raise StoreFailure("read", key, e.strerror or type(e).__name__) from e
    finally:
        copy.close()
