"""A verified body on its way to one client, given to the store as well, where there is no room to keep it meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from mirror.counters import Counters
from mirror.errors import MirrorError, StoreFailure
from mirror.flight import Tasks
from mirror.model import ByteSource

QUEUE: Final = 2 * 1024 * 1024
"""Bytes that may wait for the store before the client is made to wait too."""
PATIENCE: Final = 2.0
"""Seconds, all in all, for which one client waits for the store."""
AT_ONCE: Final = 8
"""Bodies on their way to the store at the same time."""

Pour = Callable[[int, ByteSource], Awaitable[None]]
"""Stores a body of so many bytes, as `mirror.ports.Sink.pour`."""

log = structlog.get_logger()


class Tee:
    """Takes pieces from a client's reader and is the body that the store reads."""

    def __init__(self, filename: str, size: int, counters: Counters, patience: float) -> None:
        self.filename, self.size = filename, size
        self.failure: StoreFailure | None = None
        """Why the store gets no more, if that was decided here."""
        self._counters, self._patience = counters, patience
        self._missing = size
        """Bytes that the client's reader has not given yet."""
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._unread = False
        """Whether the store has stopped reading."""
        self._change = asyncio.Event()

    # --- the client's side -----------------------------------------------------------------------

    async def give(self, piece: bytes) -> None:
        """Takes the next piece of a verified body, and gives up on the store rather than wait too long for it."""
        if self._over:
            return
        loop = asyncio.get_running_loop()
        if self._full(piece):
            began = loop.time()
            try:
                async with asyncio.timeout(self._patience):
                    while self._full(piece):
                        await self._news()
            except TimeoutError:
                self._give_up("it is too slow")
                return
            finally:
                self._patience -= loop.time() - began
        if not self._over:
            self._missing -= len(piece)
            self._queue.append(piece)
            self._queued += len(piece)
            self._announce()

    def end(self) -> None:
        """The client's reader has ended. If it has not given everything, the store gets nothing."""
        if self._missing and not self._over:
            self._give_up("the body ended early")

    def _full(self, piece: bytes) -> bool:
        return not self._over and self._queued > 0 and self._queued + len(piece) > QUEUE

    @property
    def _over(self) -> bool:
        return self._unread or self.failure is not None

    def _give_up(self, why: str) -> None:
        self.failure = StoreFailure("keep", self.filename, why)
        self._counters.count("store_uploads_dropped")
        log.warning("upload given up", file=self.filename, reason=why)
        self._drop_queue()

    def _drop_queue(self) -> None:
        self._queue.clear()
        self._queued = 0
        self._announce()

    def _announce(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def _news(self) -> None:
        await self._change.wait()

    # --- the store's side ------------------------------------------------------------------------

    def __aiter__(self) -> Tee:
        return self

    async def __anext__(self) -> bytes:
        while not self._queue:
            if self.failure is not None:
                raise self.failure
            if self._unread or not self._missing:
                raise StopAsyncIteration
            await self._news()
        piece = self._queue.popleft()
        self._queued -= len(piece)
        self._announce()
        return piece

    async def aclose(self) -> None:
        self._unread = True
        self._drop_queue()


class Tees:
    """Starts uploads beside clients: at most one for each file, and few at a time."""

    def __init__(self, tasks: Tasks, counters: Counters, *, patience: float = PATIENCE) -> None:
        self._tasks, self._counters, self._patience = tasks, counters, patience
        self._running: set[str] = set()

    def start(self, path: str, size: int, pour: Pour) -> Tee | None:
        """A tee for the file with that public path; None if it is on its way to the store already, or too many are."""
        if path in self._running:
            return None
        filename = path.rpartition("/")[2]
        if len(self._running) >= AT_ONCE:
            self._counters.count("store_uploads_dropped")
            log.warning("upload not begun", file=filename, reason="too many are on their way")
            return None
        self._running.add(path)
        tee = Tee(filename, size, self._counters, self._patience)
        task = self._tasks.spawn(self._upload(tee, pour), name=f"upload {filename}")
        task.add_done_callback(lambda _: self._running.discard(path))
        return tee

    async def _upload(self, tee: Tee, pour: Pour) -> None:
        try:
            await pour(tee.size, tee)
        except MirrorError as e:
            if tee.failure is None:  # else it has been counted
                self._counters.count("store_uploads_dropped")
                log.error("archive not kept", file=tee.filename, reason=str(e))
        finally:
            await tee.aclose()
