"""The list of all projects of one upstream: kept as a file of lines, because it is far too long for memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import msgspec
import structlog

from mirror.counters import Counters
from mirror.errors import NotHeld, StoreFailure, UpstreamFailure
from mirror.flight import Flights, Tasks
from mirror.freshness import Freshness, Lifetime
from mirror.model import ByteSource, ByteStream, Content, Origin, Span
from mirror.names import ProjectName, project_list_key
from mirror.ports import Clock, ProjectListAnswer, Store, Upstream
from mirror.repositories.content import close, read
from mirror.repositories.pages import SOFT_TIMEOUT
from mirror.repositories.spooled_list import SpooledList, dispose
from mirror.simple.project_list import parse_names
from mirror.spool import Spool, Spools

TRAILER: Final = 512
"""Bytes at the end of the stored list that surely hold its last line."""

log = structlog.get_logger()


class _Facts(msgspec.Struct, omit_defaults=True):
    """The last line of the stored list, as JSON: one object holds names and facts, so they cannot disagree."""

    fetched_at: float
    revision: str
    names: int
    stop: int
    """Length of the lines before this one, in bytes."""
    length: int = 0
    """Of this line, in bytes; known only to who reads it."""


class ProjectLists:
    """Answers the list of all projects."""

    def __init__(
        self,
        upstream: Upstream,
        store: Store,
        spools: Spools,
        clock: Clock,
        tasks: Tasks,
        counters: Counters,
        lifetime: Lifetime,
        *,
        offline: bool,
    ) -> None:
        self._upstream, self._store, self._spools, self._clock = upstream, store, spools, clock
        self._counters, self._lifetime, self._offline = counters, lifetime, offline
        self._key = project_list_key(upstream.name)
        self._known: _Facts | None = None
        """What was last read of a remote store's list: a look at its end is a round trip of its own."""
        self._unkept: tuple[_Facts, SpooledList] | None = None
        """The list that a remote store has not taken."""
        self._refreshes: Flights[str, None] = Flights(tasks, "refresh list")

    async def answer(self) -> ProjectListAnswer:
        """As `Repository.project_list`."""
        facts = await self._facts()
        freshness = self._judge(facts)
        if self._offline:
            if facts is None:
                raise NotHeld("the list of all projects")
            return await self._open(facts)
        if freshness is Freshness.STALE:
            self._refreshes.launch("", self._refresh)
        elif freshness is not Freshness.FRESH:
            try:
                async with asyncio.timeout(None if freshness is Freshness.DEAD else SOFT_TIMEOUT):
                    await self._refreshes.run("", self._refresh)
                facts = await self._facts()
            except (UpstreamFailure, StoreFailure, TimeoutError) as e:
                if freshness is Freshness.DEAD:
                    raise
                log.warning("project list not confirmed, serving the copy held", reason=str(e) or "too slow")
        try:
            return await self._open_known(facts)
        except StoreFailure as e:
            if not self._store.remote:
                raise
            self._refused(e, "project list not read")
        self._known = None  # the store has gone away since; upstream has the list as well
        await self._refreshes.run("", self._refresh)
        return await self._open_known(await self._facts())

    async def _open_known(self, facts: _Facts | None) -> ProjectListAnswer:
        if facts is None:
            raise StoreFailure("keep", "the list of all projects", "it is not there after it was written")
        return await self._open(facts)

    def _judge(self, facts: _Facts | None) -> Freshness:
        if facts is None:
            return Freshness.DEAD
        return self._lifetime.judge(self._clock.now() - facts.fetched_at, None)

    async def _open(self, facts: _Facts) -> ProjectListAnswer:
        content = await self._opened(facts)
        if content is None:
            raise StoreFailure("read", "the list of all projects", "it has vanished")
        if content.size != facts.stop + facts.length:
            # another list has taken its place between two reads
            await close(content)
            self._known = None
            again = await self._facts()
            if again is None or again == facts:
                raise StoreFailure("read", "the list of all projects", "it keeps changing")
            return await self._open(again)
        if not facts.stop:
            await close(content)
            content = ByteStream(_nothing(), content.size, 0, 0, Origin.STORE)
        remaining = self._lifetime.remaining(self._clock.now() - facts.fetched_at, None)
        stale = not self._offline and self._judge(facts) is not Freshness.FRESH
        return ProjectListAnswer(content, facts.revision, remaining, stale)

    async def _opened(self, facts: _Facts) -> Content | None:
        if self._unkept is not None and self._unkept[0] is facts:
            return self._unkept[1].open(facts.stop)
        return await self._store.open(self._key, Span(0, max(0, facts.stop - 1)))

    async def _facts(self) -> _Facts | None:
        """Of the list that is held, wherever; of a remote store's as it was a moment ago, as long as that is fresh.

        A remote store that cannot be read has none: the list is at upstream as well.
        """
        if self._unkept is None and self._known is not None and self._judge(self._known) is Freshness.FRESH:
            return self._known
        unkept = None if self._unkept is None else self._unkept[0]
        try:
            stored = await self._stored_facts()
        except StoreFailure as e:
            if not self._store.remote or (self._offline and unkept is None):
                raise
            self._refused(e, "project list not read")
            return unkept
        self._known = stored if self._store.remote else None
        if unkept is not None and (stored is None or stored.fetched_at < unkept.fetched_at):
            return unkept
        return stored

    async def _stored_facts(self) -> _Facts | None:
        content = await self._store.open(self._key, Span(suffix=TRAILER))
        if content is None:
            return None
        size = content.size
        line = (await read(content)).rpartition(b"\n")[2]
        try:
            facts = msgspec.json.decode(line, type=_Facts)
        except (msgspec.DecodeError, UnicodeDecodeError):
            facts = None
        if facts is not None and size == facts.stop + len(line):
            facts.length = len(line)
            return facts
        self._counters.count("store_quarantined")
        log.error("stored project list damaged", size=size)
        await self._store.quarantine(self._key)
        return None

    async def _refresh(self) -> None:
        content_type, body = await self._upstream.fetch_project_list()
        try:
            await self._keep(parse_names(content_type, body, self._upstream.name))
        except OSError as e:
            raise self._refused(StoreFailure("keep", "the list of all projects", e.strerror or str(e))) from e
        except StoreFailure as e:
            raise self._refused(e) from e.__cause__
        finally:
            if isinstance(body, ByteSource):
                await body.aclose()

    def _refused(self, error: StoreFailure, what: str = "project list not kept") -> StoreFailure:
        self._counters.count("store_failures")
        log.error(what, reason=str(error))
        return error

    async def _keep(self, names: AsyncIterator[list[ProjectName]]) -> None:
        spool = await asyncio.to_thread(self._spools.create, None)
        unkept = None
        try:
            facts = await self._spool(names, spool)
            try:
                await self._give(spool)
            except StoreFailure as e:
                if not self._store.remote:
                    raise
                self._refused(e)
                unkept = facts, SpooledList(spool)
        finally:
            if unkept is None:
                await asyncio.to_thread(dispose, spool)
        before, self._unkept = self._unkept, unkept
        self._known = None
        if before is not None:
            await before[1].retire()

    async def _give(self, spool: Spool) -> None:
        if spool.path is None:
            await self._store.put(self._key, await asyncio.to_thread(spool.read, 0, spool.size))
        else:
            await self._store.adopt(self._key, spool.path)
            spool.path = None

    def close(self) -> None:
        """Lets go of the list that no store has taken."""
        if self._unkept is not None:
            self._unkept[1].close()
            self._unkept = None

    async def _spool(self, batches: AsyncIterator[list[ProjectName]], spool: Spool) -> _Facts:
        digest = hashlib.sha256()
        count = 0
        last = ""

        def append(batch: list[ProjectName]) -> None:
            nonlocal count, last
            lines = []
            for name in batch:
                if name != last:  # spellings of one name stand side by side in sorted lists
                    lines.append(f"{name}\n")
                    last = name
            count += len(lines)
            text = "".join(lines).encode()
            digest.update(text)
            spool.append([text])

        async for batch in batches:
            await asyncio.to_thread(append, batch)
        facts = _Facts(self._clock.now(), digest.hexdigest(), count, spool.size)
        line = msgspec.json.encode(facts)
        await asyncio.to_thread(spool.append, [line])
        facts.length = len(line)
        return facts


async def _nothing() -> AsyncGenerator[bytes, None]:
    for piece in list[bytes]():
        yield piece
