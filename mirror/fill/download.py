"""One download on its way: fetched once, spooled, verified, kept."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import structlog

from mirror.errors import (
    IntegrityError,
    MirrorError,
    ShuttingDown,
    StoreFailure,
    UnsatisfiableSpan,
    UpstreamDown,
    UpstreamMisbehaved,
)
from mirror.fill.spooling import BATCH, Spooling
from mirror.fill.tools import Tools
from mirror.model import WHOLE, File, Span, UpstreamStream
from mirror.spool import Spool
from mirror.verify import HOLD_BACK, Check, held_back

RESUMES: Final = 2
"""How often a download that broke off is taken up again where it stopped."""

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

    def __init__(
        self, file: File, tools: Tools, keep: Keep, forget: Callable[[Fill], None], *, bypass_caches: bool
    ) -> None:
        self.file = file
        self.size = file.size
        self.state = State.ARRIVING
        self.check = Check(file, tools.upstream.name)
        """Has seen exactly the bytes in the spool."""
        self._tools, self._keep, self._forget, self._bypass = tools, keep, forget, bypass_caches
        self._error: MirrorError | None = None
        self._news = asyncio.Event()
        self._spooling = Spooling(tools, self.check, self._announce)
        self._readers = 0
        self._unwanted = False
        self._poured = False

    # --- for readers ---------------------------------------------------------------------------

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

    async def direct(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """What the spool's end cuts off or holds back, from upstream for this reader alone, verified all the same."""
        check, before = self.check.copy(), b""
        while (at := self.readable + len(before)) < self.have:
            before += await self.read(at, self.have - at)
        stream = await self._fetch(check.position)
        try:
            async with (
                aclosing(self._from(stream, check.position)) as body,
                aclosing(held_back(body, check, self.size, start, stop, before)) as pieces,
            ):
                async for piece in pieces:
                    yield piece
        except IntegrityError:
            self._tools.counters.count("integrity_failures")
            raise
        finally:
            await stream.aclose()

    def leave(self) -> None:
        """A reader is gone."""
        self._readers -= 1
        if self._readers:
            return
        self._unwanted = True
        if self._poured:
            self._spooling.release()

    # --- the download --------------------------------------------------------------------------

    async def pour(self) -> None:
        """Downloads, verifies and keeps. Ends by itself; its failures are its readers' matter."""
        try:
            await self._download()
        except OSError as e:
            self._tools.counters.count("fills_unspooled")
            log.warning("spool cannot be written", file=self.file.filename, reason=e.strerror or str(e))
            self._end(State.UNSPOOLED)
        except MirrorError as e:
            if isinstance(e, IntegrityError):
                self._tools.counters.count("integrity_failures")
            log.warning("download failed", file=self.file.filename, have=self.have, reason=str(e))
            self._error = e
        else:
            self._end(State.VERIFIED)
            await self._store()
        finally:
            self._forget(self)  # first: who hears of a failure and tries again shall not meet this one
            if self.state is State.ARRIVING:
                self._end(State.FAILED)
            try:
                await self._spooling.discard()
            finally:
                self._poured = True
                if not self._readers:
                    self._spooling.release()

    async def _download(self) -> None:
        if self.size is not None:  # before upstream is asked: without room, each reader asks for itself
            await self._spooling.open(self.size)
        resumes = 0
        try:
            while self.size is None or not self.have or self.have < self.size:
                stream = await self._fetch(self.have)
                try:
                    await self._begin(stream)
                    await self._follow(stream)
                    break
                except UpstreamDown as e:
                    await self._flush()
                    resumes += 1
                    if resumes > RESUMES or not self.have or not self.check.proves:
                        raise
                    log.info("download broke off, resuming", file=self.file.filename, have=self.have, reason=e.why)
                finally:
                    await stream.aclose()
        finally:
            await self._spooling.settle()  # what comes next counts on it that no thread writes any more
        self.check.finish(self.size)
        self.size = self.have

    async def _fetch(self, position: int) -> UpstreamStream:
        span = Span(first=position) if position else WHOLE
        try:
            return await self._tools.upstream.fetch_file(self.file, span, bypass_caches=self._bypass)
        except UnsatisfiableSpan as e:
            why = f"has only {e.size} bytes now"
            raise IntegrityError(self._tools.upstream.name, self.file.filename, why) from e

    async def _begin(self, stream: UpstreamStream) -> None:
        if self.size is None:
            self.size = stream.size
        elif stream.size is not None and stream.size != self.size:
            why = f"has {stream.size} bytes where {self.size} were promised"
            raise IntegrityError(self._tools.upstream.name, self.file.filename, why)
        if not self._spooling.is_open:
            await self._spooling.open(self.size)
        self._announce()

    async def _follow(self, stream: UpstreamStream) -> None:
        async with aclosing(self._from(stream, self.have)) as pieces:
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
            raise UpstreamDown(self._tools.upstream.name, f"the body ended after {self.have} of {self.size} bytes")

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

    async def _from(self, stream: UpstreamStream, position: int) -> AsyncGenerator[bytes, None]:
        """The body from `position` on; what an upstream that ignores ranges sends before it is dropped."""
        skip = position - stream.start
        if skip < 0:
            why = f"it answered from byte {stream.start} where {position} was asked for"
            raise UpstreamMisbehaved(self._tools.upstream.name, why)
        async for piece in stream.body:
            if skip >= len(piece):
                skip -= len(piece)
                continue
            yield piece[skip:] if skip else piece
            skip = 0
