"""Where the bytes of one file come from: the store as long as it delivers them, then upstream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, Protocol

import structlog

from mirror.counters import Counters
from mirror.errors import (
    IntegrityError,
    NotFound,
    StoreFailure,
    UnsatisfiableSpan,
    UpstreamDown,
    UpstreamMisbehaved,
)
from mirror.model import WHOLE, ByteSource, ByteStream, File, Origin, Span, UpstreamStream
from mirror.ports import Lease, Upstream
from mirror.spool import Spool

RESUMES: Final = 2
"""How often a body that broke off is taken up again where it stopped, from the same place."""
NAMES: Final = {Origin.STORE: "store"}
"""What failures call a source that is not upstream."""

log = structlog.get_logger()


class Place(Protocol):
    """Where the store has one file, or will have it."""

    @property
    def takes_streams(self) -> bool:
        """Whether `pour` may be called."""
        ...

    async def reopen(self, span: Span) -> ByteStream | None:
        """The stored bytes, unverified; None if there are none. Raises `StoreFailure`, `UnsatisfiableSpan`."""
        ...

    async def damaged(self, error: IntegrityError, *, proven: bool) -> None:
        """What `reopen` gave is not the file, or, if that is not `proven`, had a part in what is not. Raises nothing."""
        ...

    async def admit(self, spool: Spool, size: int) -> None:
        """Keeps a copy of what the store has, where it is nearer; may consume `spool.path`. Raises `StoreFailure`."""
        ...

    async def pour(self, size: int, body: ByteSource) -> None:
        """Stores a body on its way, as `mirror.ports.Sink.pour`."""
        ...

    async def lead(self) -> Lease | None:
        """As `mirror.ports.Leases.lead`; to be asked for at most once for each `Course`."""
        ...


class Incoming:
    """One body on its way."""

    def __init__(self, stream: UpstreamStream | ByteStream, origin: Origin, name: str) -> None:
        self.size = stream.size
        """Of the whole file; None where its source does not say."""
        self.origin, self.name = origin, name
        self._stream = stream

    async def pieces(self, position: int) -> AsyncGenerator[bytes, None]:
        """The body from `position` on; what a source that ignores ranges sends before it is dropped."""
        skip = position - self._stream.start
        if skip < 0:
            why = f"it answered from byte {self._stream.start} where {position} was asked for"
            raise UpstreamMisbehaved(self.name, why)
        async for piece in self._stream.body:
            if skip >= len(piece):
                skip -= len(piece)
                continue
            yield piece[skip:] if skip else piece
            skip = 0

    def broken_off(self, filename: str, have: int, size: int) -> StoreFailure | UpstreamDown:
        """The failure of a body that has ended too early."""
        why = f"the body ended after {have} of {size} bytes"
        return StoreFailure("read", filename, why) if self.origin is Origin.STORE else UpstreamDown(self.name, why)

    async def aclose(self) -> None:
        await self._stream.aclose()


class Sources:
    """What the readers of one file share of its sources."""

    def __init__(
        self,
        file: File,
        upstream: Upstream,
        counters: Counters,
        *,
        bypass_caches: bool = False,
        online: bool = True,
        place: Place | None = None,
        opened: ByteStream | None = None,
        lost: StoreFailure | None = None,
    ) -> None:
        """`online`: upstream may be asked. `opened`: what `place` has; without it, it has nothing yet, or `lost` says
        why nobody knows."""
        self.file, self.counters, self.place, self.online = file, counters, place, online
        self.lost = lost
        self.stored = opened is not None
        """Whether the store had the file when it was asked."""
        self.origin = Origin.UPSTREAM if opened is None else Origin.STORE
        """Where the file's first byte comes from."""
        self.name = NAMES.get(self.origin, upstream.name)
        self.bypass_caches = bypass_caches
        self._upstream, self._opened = upstream, opened

    async def from_store(self, position: int) -> ByteStream | None:
        """Raises `StoreFailure`, and `IntegrityError` if the object ends before `position`."""
        if position == 0 and self._opened is not None:
            opened, self._opened = self._opened, None
            return opened
        if self.place is None:
            return None
        try:
            return await self.place.reopen(Span(first=position) if position else WHOLE)
        except UnsatisfiableSpan as e:
            raise IntegrityError(NAMES[Origin.STORE], self.file.filename, f"has only {e.size} bytes now") from e

    async def from_upstream(self, position: int) -> UpstreamStream:
        """As `mirror.ports.Upstream.fetch_file`, but a file that ends before `position` is an `IntegrityError`."""
        span = Span(first=position) if position else WHOLE
        try:
            return await self._upstream.fetch_file(self.file, span, bypass_caches=self.bypass_caches)
        except UnsatisfiableSpan as e:
            raise IntegrityError(self._upstream.name, self.file.filename, f"has only {e.size} bytes now") from e

    def upstream_body(self, stream: UpstreamStream) -> Incoming:
        return Incoming(stream, Origin.UPSTREAM, self._upstream.name)

    async def aclose(self) -> None:
        """Closes what was opened and nobody has read."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()


class Course:
    """One way through the sources of a file, from its first byte to its last."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._from_store = sources.stored
        self._used: set[Origin] = set()
        self._breaks = {Origin.STORE: 0, Origin.UPSTREAM: 0}
        self._lost = sources.lost
        """Why the store is not read from any more."""
        self._vanished = False

    @property
    def is_stored(self) -> bool:
        """Whether the store has the file, as far as is known."""
        return Origin.STORE in self._used and not self._vanished

    async def lead(self) -> Lease | None:
        """Asks for leave to download a file that the store lacked, or learns that the store has it now.

        None also where there is nothing to agree on. Who asks upstream anew has asked for leave a moment ago.
        """
        if self._from_store or self._sources.place is None or self._sources.bypass_caches:
            return None
        lease = await self._sources.place.lead()
        self._from_store = lease is None
        return lease

    async def fetch(self, position: int) -> Incoming:
        """The body from `position` on, from the first source that still has it. Raises what the last one raised."""
        if self._from_store:
            stream = await self._stored(position)
            if stream is not None:
                return self._begun(Incoming(stream, Origin.STORE, NAMES[Origin.STORE]), position)
        try:
            upstream = await self._sources.from_upstream(position)
        except NotFound as e:
            if self._lost is not None:  # somebody has the file, and could not be asked: that is no 404
                raise self._lost from e
            raise
        return self._begun(self._sources.upstream_body(upstream), position)

    def _begun(self, incoming: Incoming, position: int) -> Incoming:
        self._used.add(incoming.origin)
        if position == 0:
            self._sources.origin = incoming.origin
        return incoming

    async def _stored(self, position: int) -> ByteStream | None:
        try:
            stream = await self._sources.from_store(position)
        except StoreFailure as e:
            self._give_up_store(e)
            return None
        except IntegrityError:
            self._used.add(Origin.STORE)
            raise
        if stream is None:
            self._vanished = True
            self._give_up_store(StoreFailure("read", self._sources.file.filename, "it has vanished"))
        return stream

    def _give_up_store(self, error: StoreFailure) -> None:
        self._sources.counters.count("store_failures")
        if not self._sources.online:
            raise error
        log.warning("store left for upstream", file=self._sources.file.filename, reason=str(error))
        self._from_store, self._lost = False, error

    def broke_off(self, error: StoreFailure | UpstreamDown, have: int, *, proves: bool) -> None:
        """The body broke off when there were `have` bytes. Raises `error` if there is no use in fetching the rest.

        `proves`: there is a digest, so that parts from several answers can be told to be of one file.
        """
        if have and not proves:
            raise error
        origin = Origin.STORE if isinstance(error, StoreFailure) else Origin.UPSTREAM
        self._breaks[origin] += 1
        if isinstance(error, StoreFailure):
            # Once more by range, as far as the store will go; then upstream has it as well.
            if self._breaks[origin] >= (2 if self._sources.online else RESUMES + 1):
                self._give_up_store(error)
            else:
                self._sources.counters.count("store_failures")
        elif self._breaks[origin] > RESUMES or not have:
            raise error
        log.info("download broke off, resuming", file=self._sources.file.filename, have=have, reason=error.why)

    async def blame(self, error: IntegrityError) -> None:
        """What was fetched is not the file: the store's part in it must not be read again."""
        proven = self._used == {Origin.STORE}
        if not proven:
            self._sources.counters.count("integrity_failures")
        if Origin.STORE in self._used and self._sources.place is not None:
            await self._sources.place.damaged(error, proven=proven)

    async def body(self, position: int, size: int | None, *, proves: bool) -> AsyncGenerator[bytes, None]:
        """All bytes from `position` on. What the store breaks off goes on as `broke_off` says."""
        while True:
            incoming = await self.fetch(position)
            try:
                async with aclosing(incoming.pieces(position)) as pieces:
                    async for piece in pieces:
                        position += len(piece)
                        yield piece
                if size is None or position >= size or incoming.origin is Origin.UPSTREAM:
                    return  # whoever checks it finds out if it is too short
                raise incoming.broken_off(self._sources.file.filename, position, size)
            except StoreFailure as e:
                self.broke_off(e, position, proves=proves)
            finally:
                await incoming.aclose()
