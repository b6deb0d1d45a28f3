"""Page documents in the store: read whole or not at all, written behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog
import xxhash

from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.flight import Flights, Tasks
from mirror.lru import LRU
from mirror.model import Blob, PageDocument
from mirror.names import ProjectName, page_key
from mirror.ports import Store
from mirror.repositories.envelope import MAX_BODY, DamagedDocument, pack, unpack

REMEMBERED: Final = 10_000
"""Projects of which it is remembered that the store refused their page."""

BEHIND: Final = 0.1
"""Seconds by which a page is written after it has come: its client's answer is made first, and what is learnt of
its files meanwhile costs no second write."""
MAX_UNWRITTEN: Final = 256 * 1024 * 1024
"""Bytes of pages that may wait for the store: one whose disk hangs shall not fill the memory."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Seen:
    """What this replica last saw of a page in the store; the fingerprint tells copies apart and vouches for nothing."""

    version: str = ""
    fingerprint: bytes | None = None


class StoredPages:
    """The page documents of one upstream. Its failures are counted and logged here, and raised only where asked."""

    def __init__(self, source: str, store: Store, tasks: Tasks, counters: Counters) -> None:
        self._source, self._store, self._counters = source, store, counters
        self._writes: Flights[ProjectName, None] = Flights(tasks, "write page")
        self._unwritten: dict[ProjectName, PageDocument] = {}
        self._unwritten_bytes = 0
        self._refused: LRU[ProjectName, bool] = LRU(REMEMBERED)
        self._seen: LRU[ProjectName, _Seen] = LRU(REMEMBERED)

    async def read(self, project: ProjectName, *, only_copy: bool = False) -> PageDocument | None:
        """The last document written; None if there is none, or none that can be read back as it was.

        Also None if the store cannot be read; but `StoreFailure` if that is the `only_copy` to be had.
        """
        if unwritten := self._unwritten.get(project):
            return unwritten
        try:
            blob = await self._store.read(page_key(self._source, project), MAX_BODY)
        except StoreFailure as e:
            self._not_read(project, e)
            if only_copy:
                raise
            return None
        return None if blob is None else await self._unpacked(project, blob, "")

    async def current(self, project: ProjectName) -> PageDocument | None:
        """The same as the store has it now, whatever a cache before it says: to be asked before it is written anew."""
        return self._unwritten.get(project) or await self._reread(project, "", None)

    async def news(self, project: ProjectName) -> PageDocument | None:
        """What another replica has written since this one last read or wrote the page; None if nothing is known of it.

        A page that the store has lost is `refused` from here on, so that it is written again.
        """
        if project in self._unwritten:
            return None
        seen = self._seen.get(project) or _Seen()
        return await self._reread(project, seen.version, seen.fingerprint)

    async def _reread(self, project: ProjectName, version: str, known: bytes | None) -> PageDocument | None:
        try:
            found = await self._store.reread(page_key(self._source, project), MAX_BODY, version)
        except StoreFailure as e:
            self._not_read(project, e)
            return None
        if found is None:
            self.distrust(project)
        if not isinstance(found, Blob):
            return None
        if known is not None and xxhash.xxh3_128_digest(found.body) == known:
            self._seen.put(project, _Seen(found.version, known))
            return None
        return await self._unpacked(project, found.body, found.version)

    async def _unpacked(self, project: ProjectName, blob: bytes, version: str) -> PageDocument | None:
        try:
            document = await asyncio.to_thread(unpack, blob)
        except DamagedDocument as e:
            self._counters.count("store_quarantined")
            log.error("stored page damaged", project=project, reason=str(e))
            await self._quarantine(page_key(self._source, project))
            return None
        self._seen.put(project, _Seen(version, xxhash.xxh3_128_digest(blob)))
        return document

    def _not_read(self, project: ProjectName, error: StoreFailure) -> None:
        self._counters.count("store_failures")
        log.error("stored page not read", project=project, reason=str(error))

    async def _quarantine(self, key: str) -> None:
        try:
            await self._store.quarantine(key)
        except StoreFailure as e:
            self._counters.count("store_failures")
            log.error("damaged page not quarantined", key=key, reason=str(e))

    def write(self, project: ProjectName, document: PageDocument) -> None:
        """Writes behind; of several versions in a row the last one is enough."""
        before = self._unwritten.get(project)
        size = self._unwritten_bytes + len(document.body) - (len(before.body) if before else 0)
        if size > MAX_UNWRITTEN:
            self._refuse(project, "too many pages wait for the store already")
            return
        self._unwritten[project], self._unwritten_bytes = document, size
        self._writes.launch(project, lambda: self._write_out(project))

    async def settle(self, project: ProjectName) -> None:
        """Waits until the last document is written, or refused."""
        if project in self._unwritten:
            await self._writes.run(project, lambda: self._write_out(project))

    def distrust(self, project: ProjectName) -> None:
        """The store has lost the page, or holds an older one: another replica was slow to write. See `refused`."""
        self._refused.put(project, True)

    def refused(self, project: ProjectName) -> bool:
        """Whether the store refused the last document; it would be right to write one again."""
        return self._refused.get(project) is not None

    async def _write_out(self, project: ProjectName) -> None:
        while (document := self._unwritten.get(project)) is not None:
            await asyncio.sleep(BEHIND)
            document = self._unwritten[project]
            try:
                blob = await asyncio.to_thread(pack, document)
                await self._store.put(page_key(self._source, project), blob)
                self._seen.put(project, _Seen("", xxhash.xxh3_128_digest(blob)))
                self._refused.drop(project)
            except StoreFailure as e:
                self._refuse(project, str(e))
            if self._unwritten[project] is document:
                del self._unwritten[project]
                self._unwritten_bytes -= len(document.body)

    def _refuse(self, project: ProjectName, why: str) -> None:
        self._counters.count("store_failures")
        log.error("page not kept", project=project, reason=why)
        self._refused.put(project, True)
