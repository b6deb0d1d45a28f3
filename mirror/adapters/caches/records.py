"""Small records on this machine's disk, which only ever make the mirror faster."""

from __future__ import annotations

import asyncio
import functools
import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mirror.adapters.breaker import Breaker
from mirror.adapters.caches.folder import MOUNTS
from mirror.adapters.caches.record_database import NoRoom, RecordDatabase, Vanished, is_damage
from mirror.adapters.caches.record_disk import Damaged
from mirror.adapters.caches.threads import CacheThreads, overdue
from mirror.adapters.caches.trouble import Trouble, reason_of
from mirror.counters import Counters
from mirror.errors import StartError
from mirror.ports import Clock

_READERS: Final = 2
_START_PATIENCE: Final = 5.0
_MOST_PENDING: Final = 32 << 20
"""Bytes of records that may wait for the disk."""
_MOST_UNSETTLED: Final = 10_000
_NO_KEY: Final = ""
"""What is removed only to see whether that can be done."""


class DiskRecordCache:
    """A `mirror.ports.RecordCache` in `root/records`, which the processes of one host may share.

    It survives restarts, and is emptied and begun anew where it is damaged or keeps failing. What this process could
    not write or remove it does not read either, so that it never recalls an older record than it remembered last.
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
        patience: float = 1.0,
    ) -> None:
        """`size`: bytes that it may hold; `free_space`: bytes of its disk that it leaves to others.

        `patience`: seconds that a caller waits for the disk.
        """
        self._patience = patience
        self._database = RecordDatabase(root, size=size, free_space=free_space, mounts=mounts)
        self._trouble = Trouble("metadata", counters, clock)
        self._breaker = Breaker(clock)
        # One thread each, since a connection to SQLite belongs to its thread; and because a write that hangs in
        # fsync must not keep readers waiting.
        self._writer = CacheThreads(1, "record-write")
        self._readers = [CacheThreads(1, f"record-read-{n}") for n in range(_READERS)]
        self._tickets = itertools.count()
        self._unsettled: dict[str, int] = {}
        """Keys whose row is not what was remembered last, or not yet; the number of their last write."""
        self._distrusted = False
        self._pending = 0

    @property
    def usable(self) -> bool:
        """Whether it is open and takes writes."""
        return self._database.is_open and not self._breaker.is_open

    async def start(self) -> None:
        """Opens it. Raises `StartError` where the folder is insecure or on a network; else it goes on without."""
        job = self._submit_opening()
        if job is None or not await self._writer.wait(job, max(_START_PATIENCE, self._patience)):
            self._failed(overdue())
        elif isinstance(error := job.exception(), StartError):
            raise error

    async def recall(self, key: str) -> bytes | None:
        if key in self._unsettled or self._distrusted:
            return None
        if not self._database.is_open:
            self._submit_opening()
            return None
        threads = min(self._readers, key=lambda r: r.load)
        try:
            job = threads.submit(self._database.get, key)
        except OSError as busy:
            self._failed(busy)
            return None
        if not await threads.wait(job, self._patience):
            self._failed(overdue())
            return None
        if (error := job.exception()) is None:
            # Written or forgotten while this was read: what was read may be the older one.
            return None if key in self._unsettled else job.result()
        if isinstance(error, Damaged):
            self._trouble.damaged(error)
            self._submit(key, 0, self._database.delete, key)
        else:
            self._failed(error)
            if isinstance(error, Vanished) or is_damage(error) or self._breaker.is_open:
                self._submit_opening(reason_of(error) if is_damage(error) else "")
        return None

    async def remember(self, key: str, body: bytes) -> None:
        """Waits for the disk for a bounded time; what is not written then is written behind."""
        if len(body) > self._database.largest:
            await self.forget(key)
        else:
            await self._write(key, len(body), self._database.put, key, body)

    async def forget(self, key: str) -> None:
        await self._write(key, 0, self._database.delete, key)

    async def size(self) -> int | None:
        """Bytes on disk, about; None if it cannot be told now."""
        threads = self._readers[0]
        try:
            job = threads.submit(self._database.volume)
        except OSError:
            return None
        return job.result() if await threads.wait(job, self._patience) and job.exception() is None else None

    async def aclose(self) -> None:
        """Waits for what is under way, unless the disk hangs."""
        for threads in (*self._readers, self._writer):
            try:
                await threads.wait(threads.submit(self._database.leave), self._patience)
            except OSError as error:
                self._trouble.failed(error)
            await threads.aclose()

    async def _write(self, key: str, size: int, function: Callable[..., int], *args: object) -> None:
        job = self._submit(key, size, function, *args)
        if job is not None and not await self._writer.wait(job, self._patience):
            self._failed(overdue())

    def _submit_opening(self, afresh: str = "") -> asyncio.Future[int] | None:
        """Opens the database again behind, unless a writer is about to, or that was tried a moment ago."""
        if self._writer.load or self._breaker.refusal:
            return None
        return self._submit(_NO_KEY, 0, self._database.delete, _NO_KEY, afresh=afresh)

    def _submit(
        self, key: str, size: int, function: Callable[..., int], *args: object, afresh: str = ""
    ) -> asyncio.Future[int] | None:
        ticket = next(self._tickets)
        self._unsettled[key] = ticket
        self._distrusted = self._distrusted or len(self._unsettled) > _MOST_UNSETTLED
        if self._breaker.is_open or self._distrusted:
            afresh = afresh or "it kept failing"
        try:
            if self._breaker.refusal:
                raise OSError("it is out of service for a while")
            if self._pending + size > _MOST_PENDING:
                raise OSError("too much waits for its disk")
            job = self._writer.submit(self._work, afresh, function, *args)
        except OSError as error:
            self._trouble.failed(error)
            return None
        self._breaker.begin()
        self._pending += size
        job.add_done_callback(functools.partial(self._written, key, ticket, size))
        return job

    def _work(self, afresh: str, function: Callable[..., int], *args: object) -> int:
        """In the writer's thread; returns how many records had to go."""
        if afresh or not self._database.is_open:
            self._database.open(afresh=afresh)
        try:
            return function(*args)
        except Vanished:
            self._database.open()
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self._database.open(afresh=reason_of(error))
        return function(*args)

    def _written(self, key: str, ticket: int, size: int, job: asyncio.Future[int]) -> None:
        self._pending -= size
        while self._database.begun_anew:
            self._trouble.rebuilt(self._database.begun_anew.popleft())
            self._unsettled.clear()
            self._distrusted = False
        if job.cancelled():
            self._breaker.abandoned()
        elif (error := job.exception()) is None:
            self._breaker.succeeded()
            self._trouble.evicted(job.result())
            if self._unsettled.get(key) == ticket:
                del self._unsettled[key]
        else:
            self._unsettled[key] = ticket
            if isinstance(error, NoRoom) and not self._breaker.is_open:
                # Nothing is wrong with the cache, so what it has stays in service.
                self._trouble.failed(error)
                self._breaker.abandoned()
            else:
                self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._trouble.failed(error)
        if not self._breaker.is_open:
            self._breaker.begin()
        self._breaker.failed()
