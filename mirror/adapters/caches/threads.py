"""A few threads for the disk of a cache: whoever waits for them waits a bounded time, and a disk that hangs fills no queue."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_CLOSING_PATIENCE: Final = 5.0


class CacheThreads:
    """`count` threads. Once as many jobs are overdue as there are threads, no further job is taken until one ends."""

    def __init__(self, count: int, name: str, *, waiting: int = 64) -> None:
        """`waiting`: jobs that may be under way or in line."""
        self._pool = ThreadPoolExecutor(count, name)
        self._count, self._waiting = count, waiting
        self._jobs: set[asyncio.Future[Any]] = set()
        self._overdue: set[asyncio.Future[Any]] = set()

    @property
    def load(self) -> int:
        """Jobs under way or in line."""
        return len(self._jobs)

    def submit(self, function: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        """Puts a job in line; it runs to its end whoever leaves. Raises `OSError` if the line is full or stands still."""
        if len(self._overdue) >= self._count:
            raise OSError(errno.EBUSY, "its disk does not answer")
        if len(self._jobs) >= self._waiting:
            raise OSError(errno.EBUSY, "too much waits for its disk")
        job = asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        self._jobs.add(job)
        job.add_done_callback(self._ended)
        return job

    async def wait(self, job: asyncio.Future[Any], patience: float) -> bool:
        """Waits for a job of `submit`, not longer than `patience` seconds; whether it has ended."""
        done, _ = await asyncio.wait({job}, timeout=patience)
        if not done:
            self._overdue.add(job)
        return bool(done)

    async def aclose(self) -> None:
        """Waits for what is under way; threads that a dead disk holds are left behind."""
        if self._jobs:
            await asyncio.wait(set(self._jobs), timeout=_CLOSING_PATIENCE)
        if self._jobs:
            self._pool.shutdown(wait=False, cancel_futures=True)
        else:
            await asyncio.to_thread(self._pool.shutdown)

    def _ended(self, job: asyncio.Future[Any]) -> None:
        self._jobs.discard(job)
        self._overdue.discard(job)
        if not job.cancelled():
            job.exception()  # marks it as seen: nobody may be left to look


def overdue() -> OSError:
    """What to report of a job that did not end in time."""
    return OSError(errno.ETIMEDOUT, "its disk does not answer")
