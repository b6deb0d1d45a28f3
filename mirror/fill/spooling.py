"""The spool of one download: written in a thread, one batch at a time, and read by many meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from mirror.fill.tools import Tools
from mirror.lru import LRU
from mirror.spool import Spool
from mirror.verify import Check

BATCH: Final = 1024 * 1024
"""Bytes that may wait for the disk before upstream is made to wait too."""
SHARED: Final = 2 * 1024 * 1024
"""Bytes of one download that its readers, if they are several, find in memory: the pieces that came last."""

log = structlog.get_logger()


class Spooling:
    """What has arrived of one file. `check` sees exactly the bytes that are in the spool."""

    def __init__(self, tools: Tools, check: Check, announce: Callable[[], None]) -> None:
        """`announce` is called whenever there is more to read."""
        self.have = 0
        """Bytes in the spool."""
        self.error: OSError | None = None
        """Why nothing more can be written."""
        self._tools, self._check, self._announce = tools, check, announce
        self._spool: Spool | None = None
        self._recent: LRU[int, bytes] = LRU(SHARED)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._writing: asyncio.Future[int] | None = None

    @property
    def is_open(self) -> bool:
        return self._spool is not None

    @property
    def arrived(self) -> int:
        """Bytes in the spool or on their way there."""
        return self.have + self._pending_bytes

    @property
    def spool(self) -> Spool:
        """To be asked for only while it is open."""
        assert self._spool is not None
        return self._spool

    async def open(self, expected: int | None) -> None:
        """Takes a spool for about `expected` bytes. Raises `OSError` if there is no room."""
        self._spool = await self._tools.new_spool(expected)

    async def add(self, piece: bytes) -> None:
        """Hands a piece on to the disk; waits only where more than `BATCH` bytes are ahead of it."""
        self._pending.append(piece)
        self._pending_bytes += len(piece)
        if self._writing is None:
            self._write_pending()
        elif self._pending_bytes >= BATCH:
            await asyncio.wait([self._writing])

    async def settle(self) -> None:
        """Waits until no thread writes any more."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    def _write_pending(self) -> None:
        """One batch at a time, so that the check sees the bytes in order."""
        batch, self._pending, self._pending_bytes = self._pending, [], 0
        self._writing = self._tools.in_thread(self._append, batch)
        self._writing.add_done_callback(self._written)

    def _append(self, batch: list[bytes]) -> int:
        self.spool.append(batch)
        for piece in batch:
            self._check.update(piece)
        return sum(map(len, batch))

    def _written(self, done: asyncio.Future[int]) -> None:
        self._writing = None
        error = None if done.cancelled() else done.exception()
        if isinstance(error, OSError):
            self.error = error
        elif error is not None or done.cancelled():
            self.error = OSError(str(error))
        else:
            self.have += done.result()
            self._announce()
            if self._pending:
                self._write_pending()

    async def read(self, position: int, length: int, *, shared: bool) -> bytes:
        """At most `length` bytes from `position`, which lies before `have`; `shared`: others will want them too."""
        if (recent := self._recent.get(position)) is not None:
            return recent[:length]
        piece = self.spool.peek(position, length)
        if piece is None:
            piece = await self._tools.in_thread(self.spool.read, position, length)
        if shared:
            self._recent.put(position, piece, len(piece))
        return piece

    async def discard(self) -> None:
        """Removes the file, unless it has been adopted; whoever reads it may go on."""
        try:
            if self._spool is not None and self._spool.path is not None:
                await self._tools.in_thread(self._spool.discard)
        except OSError as e:
            log.warning("spool file left behind", reason=e.strerror)

    def release(self) -> None:
        """Lets go of it: nobody reads it any more."""
        if self._spool is not None:
            self._tools.release(self._spool)
            self._spool = None
