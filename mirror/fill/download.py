"""One download on its way: fetched once, spooled, verified, kept."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import structlog

from mirror.errors import IntegrityError, MirrorError, ShuttingDown, StoreFailure, UpstreamDown, UpstreamMisbehaved
from mirror.fill.sources import Course, Incoming, Sources
from mirror.fill.spooling import BATCH, Spooling
from mirror.fill.tools import Tools
from mirror.fill.unspooled import unspooled
from mirror.model import File, Origin
from mirror.ports import Lease
from mirror.spool import Spool
from mirror.verify import HOLD_BACK, Check

UNLED: Final = 64 * 1024
"""Bytes up to which a file is downloaded without agreeing with other replicas: that takes as long."""

Keep = Callable[[File, Spool, int], Awaitable[None]]
"""Stores a verified spool of so many bytes; may consume `spool.path`. Raises `StoreFailure`."""

log = structlog.get_logger()


class State(enum.Enum):
    """How far a fill is."""

    ARRIVING = enum.auto()
    VERIFIED = enum.auto()
    UNSPOOLED = enum.auto()
    """The spool cannot be written any more: each reader goes on by itself from where the spool ends."""
    FAILED = enum.auto()


class Fill:
    """One download: spool, verify, keep. Made by `Fills`, which also runs `pour`."""

    def __init__(self, sources: Sources, tools: Tools, keep: Keep, forget: Callable[[Fill], None]) -> None:
        self.file = file = sources.file
        self.size = file.size
        self.state = State.ARRIVING
        self.check = Check(file, sources.name)
        """Has seen exactly the bytes in the spool."""
        self._sources, self._tools, self._keep, self._forget = sources, tools, keep, forget
        self._course = Course(sources)
        self._lease: Lease | None = None
        self._error: MirrorError | None = None
        self._news = asyncio.Event()
        self._spooling = Spooling(tools, self.check, self._announce)
        self._readers = 0
        self._unwanted = False
        self._pouring = False

    # --- for readers ---------------------------------------------------------------------------

    @property
    def origin(self) -> Origin:
        """Where the file comes from, as soon as its first byte is there."""
        return self._sources.origin

    @property
    def have(self) -> int:
        """Bytes that have arrived and can be read again."""
        return self._spooling.have

    @property
    def readable(self) -> int:
        """Bytes from the beginning that a client may have now."""
        if self.state is State.VERIFIED:
            return self.have
        total = self.have if self.size is None else self.size
        return max(0, min(self.have, total - HOLD_BACK))

    def enter(self) -> None:
        """A reader has come; it will `leave`."""
        self._readers += 1
        self._unwanted = False

    async def opened(self) -> int:
        """The file's size, as soon as it is known: at upstream's head, or at the end where that says nothing.

        Raises what kept the download from getting that far.
        """
        while self.state is State.ARRIVING and self.size is None:
            await self.news()
        if self.state is State.FAILED:
            raise self.failure()
        if self.size is None:
            why = "it does not say how long the file is, and there is no room here to find out"
            raise UpstreamMisbehaved(self._tools.upstream.name, why)
        return self.size

    async def news(self) -> None:
        """Waits until anything changes."""
        await self._news.wait()

    def failure(self) -> MirrorError:
        """Why the state is FAILED."""
        return self._error or ShuttingDown()

    async def read(self, position: int, length: int) -> bytes:
        """At most `length` spooled bytes from `position`, which lies before `have`."""
        # who waits for upstream wants what has just arrived, as all the others do
        return await self._spooling.read(position, length, shared=self._readers > 1)

    async def direct(self, start: int, stop: int, *, proven: bool = False) -> AsyncGenerator[bytes, None]:
        """What the spool's end cuts off or holds back, fetched for this reader alone, verified all the same."""
        check, before = self.check.copy(), b""
        begin = min(start, self.readable)
        while (at := begin + len(before)) < self.have:
            before += await self.read(at, self.have - at)
        rest = unspooled(self._sources, self._tools, check, self.size, start, stop, before, proven=proven)
        async with aclosing(rest) as pieces:
            async for piece in pieces:
                yield piece

    async def leave(self) -> None:
        """A reader is gone."""
        self._readers -= 1
        if self._readers:
            return
        self._unwanted = True
        if not self._pouring:
            await self._put_away()

    async def _put_away(self) -> None:
        """Nobody reads it any more, and nobody will."""
        self._spooling.release()
        await self._sources.aclose()

    # --- the download --------------------------------------------------------------------------

    async def pour(self) -> None:
        """Downloads, verifies and keeps. Ends by itself; its failures are its readers' matter."""
        self._pouring = True
        try:
            await self._pour()
        finally:
            self._forget(self)  # first: who hears of a failure and tries again shall not meet this one
            if self.state is State.ARRIVING:
                self._end(State.FAILED)
            try:
                await self._spooling.discard()
            finally:
                self._pouring = False
                if not self._readers:
                    await self._put_away()
                if self._lease is not None:
                    await self._lease.release()

    async def _pour(self) -> None:
        try:
            if self.size is not None:  # before anybody is asked: without room, each reader asks for itself
                await self._spooling.open(self.size)
            if self.size is None or self.size > UNLED:
                self._lease = await self._course.lead()
            await self._download()
        except OSError as e:
            self._tools.counters.count("fills_unspooled")
            log.warning("spool cannot be written", file=self.file.filename, reason=e.strerror or str(e))
            self._end(State.UNSPOOLED)
        except MirrorError as e:
            if isinstance(e, IntegrityError):
                await self._course.blame(e)  # before anybody hears of it: the store must not be read again as it is
            log.warning("download failed", file=self.file.filename, have=self.have, reason=str(e))
            self._error = e
        else:
            self._end(State.VERIFIED)
            await self._store()

    async def _download(self) -> None:
        try:
            while self.size is None or not self.have or self.have < self.size:
                incoming = await self._course.fetch(self.have)
                try:
                    await self._begin(incoming)
                    await self._follow(incoming)
                    break
                except (UpstreamDown, StoreFailure) as e:
                    await self._flush()
                    self._course.broke_off(e, self.have, proves=self.check.proves)
                finally:
                    await incoming.aclose()
        finally:
            await self._spooling.settle()  # what comes next counts on it that no thread writes any more
        self.check.finish(self.size)
        self.size = self.have

    async def _begin(self, incoming: Incoming) -> None:
        if not self.have:
            self.check.source = incoming.name
        if self.size is None:
            self.size = incoming.size
        elif incoming.size is not None and incoming.size != self.size:
            why = f"has {incoming.size} bytes where {self.size} were promised"
            raise IntegrityError(incoming.name, self.file.filename, why)
        if not self._spooling.is_open:
            await self._spooling.open(self.size)
        self._announce()

    async def _follow(self, incoming: Incoming) -> None:
        async with aclosing(incoming.pieces(self.have)) as pieces:
            async for piece in pieces:
                if self._unwanted and not self._worth_finishing:
                    self._forget(self)
                    self._tools.counters.count("fills_abandoned")
                    raise ShuttingDown
                await self._spooling.add(piece)
                self._check_spool()
                if self.size is not None and self._spooling.arrived > self.size + 2 * BATCH:
                    break  # far too long already; the exact test is below
        await self._flush()
        if self.size is not None and self.have > self.size:
            raise self.check.longer(self.size)
        if self.size is not None and self.have < self.size:
            raise incoming.broken_off(self.file.filename, self.have, self.size)

    @property
    def _worth_finishing(self) -> bool:
        """Whether a download that nobody reads goes on: little is missing, or most is there (Squid's quick_abort)."""
        if self.size is None:
            return self.have <= self._tools.finish_abandoned
        missing = self.size - self.have
        return missing <= self._tools.finish_abandoned or missing <= self.have

    async def _flush(self) -> None:
        """Waits until what has arrived is in the spool. Raises what kept it out."""
        await self._spooling.settle()
        self._check_spool()

    def _check_spool(self) -> None:
        if self._spooling.error is None:
            return
        if self.size is not None and self.have >= self.size:
            raise self.check.longer(self.size)  # all of it is there: what could not be written is too much
        raise self._spooling.error

    async def _store(self) -> None:
        try:
            if self._course.is_stored and self._sources.place is not None:
                await self._sources.place.admit(self._spooling.spool, self.have)
            else:
                await self._keep(self.file, self._spooling.spool, self.have)
        except StoreFailure as e:
            self._tools.counters.count("store_failures")
            log.error("archive not kept", file=self.file.filename, reason=str(e))

    def _end(self, state: State) -> None:
        self.state = state
        self._announce()

    def _announce(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
