"""Archives on this machine's disk, in a plain folder; what the store lacks still is kept there for it."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from mirror.adapters.breaker import Breaker
from mirror.adapters.caches.archive_folder import ArchiveFolder, Claim
from mirror.adapters.caches.archive_owed import Spoilt
from mirror.adapters.caches.archive_room import NoRoom
from mirror.adapters.caches.folder import MOUNTS
from mirror.adapters.caches.threads import CacheThreads, overdue
from mirror.adapters.caches.trouble import Trouble
from mirror.adapters.store_keys import checked_key
from mirror.counters import Counters
from mirror.errors import MirrorError, StartError
from mirror.model import WHOLE, LocalFile, Span
from mirror.ports import Clock

_T = TypeVar("_T")
_WRITE_PATIENCE: Final = 5
"""How many times longer a caller waits for a write: it may have to wait for room to be made. For a copy, this long
without any progress."""
_START_PATIENCE: Final = 5.0
_TRAPS: Final = (errno.ELOOP, errno.EINVAL)
"""What a link, a pipe or a device in place of a file gives."""


class DiskArchiveCache:
    """A `mirror.ports.ArchiveCache` in `root`, which the processes of one host may share.

    Archives lie in `root/archives` under their keys. The folder `root/spool` is not its own; a file that is adopted
    from there is moved, one from another disk is copied. What was used longest ago is evicted.
    """

    def __init__(
        self,
        root: Path,
        *,
        size: int,
        free_space: int,
        counters: Counters,
        clock: Clock,
        mounts: Path = MOUNTS,
        patience: float = 2.0,
        readers: int = 4,
        writers: int = 4,
    ) -> None:
        """`size`: bytes that it may hold; `free_space`: bytes of its disk that it leaves to others.

        `patience`: seconds that a caller waits for the disk to open a file.
        """
        self._patience = patience
        self._folder = ArchiveFolder(root.absolute(), size=size, free_space=free_space, clock=clock, mounts=mounts)
        self._trouble = Trouble("archives", counters, clock)
        self._breaker = Breaker(clock)
        # Two pools, so that a disk that hangs in a write still answers reads.
        self._readers = CacheThreads(readers, "archive-read", waiting=256)
        self._writers = CacheThreads(writers, "archive-write", waiting=256)
        self._stopping = threading.Event()

    @property
    def usable(self) -> bool:
        """Whether it takes files."""
        return not self._breaker.is_open

    async def start(self) -> None:
        """Sweeps what a crash left, and counts what is there; a large folder is gone through behind.

        Raises `StartError` where the folder is insecure or on a network; if it is merely of no use now, the mirror
        starts without, and tries again at each file.
        """
        job = self._writers.submit(self._folder.prepare, self._stopping)
        job.add_done_callback(self._prepared)
        done, _ = await asyncio.wait({job}, timeout=max(_START_PATIENCE, self._patience))
        if done and isinstance(error := job.exception(), StartError):
            raise error

    async def open(self, key: str, span: Span = WHOLE) -> LocalFile | None:
        checked_key(key)
        try:
            opening = self._readers.submit(self._folder.open, key, span)
        except OSError as busy:
            self._trouble.failed(busy)
            return None
        try:
            in_time = await self._readers.wait(opening, self._patience)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unclaimed)
            raise
        self._tell()
        if not in_time:
            opening.add_done_callback(_close_unclaimed)
            self._trouble.failed(overdue())
        elif (error := opening.exception()) is None:
            return opening.result()
        elif isinstance(error, MirrorError) and not isinstance(error, StartError):
            raise error  # the span
        elif isinstance(error, OSError) and error.errno in _TRAPS:
            self._trouble.damaged(error)
        else:
            self._trouble.failed(error)
        return None

    async def adopt(self, key: str, path: Path, *, owed: bool = False) -> bool:
        checked_key(key)
        claim = Claim()
        job = self._submit(self._folder.adopt, key, path, owed, claim)
        if job is None:
            return False
        progress = -1
        while not await self._writers.wait(job, _WRITE_PATIENCE * self._patience):
            if progress == claim.progress and claim.decide():
                self._failed(overdue())
                return False
            progress = claim.progress
        return job.exception() is None and job.result()

    async def owed(self) -> list[str]:
        return await self._in_time(self._submit(self._folder.owed), [])

    async def lend(self, key: str) -> Path | None:
        claim = Claim()
        return await self._in_time(self._submit(self._folder.lend, checked_key(key), claim), None, claim)

    async def settled(self, key: str) -> None:
        await self._in_time(self._submit(self._folder.settled, checked_key(key)), None)

    async def forget(self, key: str) -> None:
        await self._in_time(self._submit(self._folder.forget, checked_key(key)), None)

    async def size(self) -> int | None:
        """Bytes held; None if it cannot be told now."""
        return await self._in_time(self._submit(self._folder.held), None)

    async def aclose(self) -> None:
        """Waits for what is under way, unless the disk hangs."""
        self._stopping.set()
        await self._readers.aclose()
        await self._writers.aclose()
        if not self._readers.load and not self._writers.load:
            await asyncio.to_thread(self._folder.close)

    def _submit(self, function: Callable[..., _T], *args: object) -> asyncio.Future[_T] | None:
        try:
            if self._breaker.refusal:
                raise OSError("it is out of service for a while")
            job = self._writers.submit(function, *args)
        except OSError as error:
            self._trouble.failed(error)
            return None
        self._breaker.begin()
        job.add_done_callback(self._ended)
        return job

    async def _in_time(self, job: asyncio.Future[_T] | None, otherwise: _T, claim: Claim | None = None) -> _T:
        """`claim` tells of the progress of a job that may take longer."""
        if job is None:
            return otherwise
        progress = 0
        while not await self._writers.wait(job, _WRITE_PATIENCE * self._patience):
            if claim is None or claim.progress == progress:
                self._failed(overdue())
                return otherwise
            progress = claim.progress
        return job.result() if job.exception() is None else otherwise

    def _prepared(self, job: asyncio.Future[None]) -> None:
        self._tell()
        if not job.cancelled() and (error := job.exception()) is not None:
            self._trouble.failed(error)

    def _ended(self, job: asyncio.Future[Any]) -> None:
        self._tell()
        if job.cancelled():
            self._breaker.abandoned()
        elif (error := job.exception()) is None:
            self._breaker.succeeded()
        elif isinstance(error, NoRoom | FileNotFoundError):
            # Nothing is wrong with the disk, so what is there stays in service.
            self._trouble.failed(error)
            self._breaker.abandoned()
        elif isinstance(error, Spoilt):
            self._trouble.damaged(error)
            self._breaker.abandoned()
        else:
            self._failed(error)

    def _tell(self) -> None:
        while self._folder.begun_anew:
            self._trouble.rebuilt(self._folder.begun_anew.popleft())
        evicted = 0
        while self._folder.evicted:
            self._folder.evicted.popleft()
            evicted += 1
        self._trouble.evicted(evicted)

    def _failed(self, error: BaseException) -> None:
        self._trouble.failed(error)
        if not self._breaker.is_open:
            self._breaker.begin()
        self._breaker.failed()


def _close_unclaimed(opening: asyncio.Future[LocalFile | None]) -> None:
    """Closes the file that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None and (file := opening.result()) is not None:
        file.close()
