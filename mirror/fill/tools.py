"""What the downloads of one upstream share: the upstream, the spools, and threads for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

import structlog

from mirror.counters import Counters
from mirror.fill.tee import Tees
from mirror.flight import Tasks
from mirror.ports import Upstream
from mirror.spool import Spool, Spools

T = TypeVar("T")
Args = TypeVarTuple("Args")

log = structlog.get_logger()


class Tools:
    """What every download of one upstream needs."""

    def __init__(
        self, upstream: Upstream, spools: Spools, tasks: Tasks, counters: Counters, finish_abandoned: int
    ) -> None:
        self.upstream, self.spools, self.counters = upstream, spools, counters
        self.finish_abandoned = finish_abandoned
        self.tees = Tees(tasks, counters)
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="spool")

    def in_thread(self, call: Callable[[*Args], T], *args: *Args) -> asyncio.Future[T]:
        """Runs a blocking call of the spool."""
        return asyncio.get_running_loop().run_in_executor(self._threads, call, *args)

    async def new_spool(self, expected: int | None) -> Spool:
        """A spool for about `expected` bytes. Raises `OSError`. A caller that is cancelled meanwhile leaves none."""
        creating = self.in_thread(self.spools.create, expected)
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            creating.add_done_callback(self._unclaimed)
            raise

    def _unclaimed(self, created: asyncio.Future[Spool]) -> None:
        if not created.cancelled() and created.exception() is None:
            self.release(created.result())

    def release(self, spool: Spool) -> None:
        """Removes and closes a spool behind the scenes: for a large file that takes tens of milliseconds."""
        try:
            self._threads.submit(_put_away, spool)
        except RuntimeError:  # the threads have ended; so will the process
            _put_away(spool)

    def close(self) -> None:
        self._threads.shutdown()


def _put_away(spool: Spool) -> None:
    try:
        spool.discard()
    except OSError as e:
        log.warning("spool file left behind", reason=e.strerror)
    finally:
        spool.close()
