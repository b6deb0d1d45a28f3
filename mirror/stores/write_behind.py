"""Archives that the remote store still lacks: kept in the archive cache and uploaded behind until the store has them."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.flight import Tasks, landed
from mirror.ports import ArchiveCache, Clock, Store
from mirror.stores.debts import Debt, Debts
from mirror.stores.keys import Kind, kind_of
from mirror.stores.presence import holds
from mirror.stores.rounds import heard
from mirror.stores.turns import Turns

_SLACK: Final = 1.0
"""Seconds by which the times of files and objects may be coarse."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How uploads go; times in seconds."""

    at_once: int = 4
    first_pause: float = 1.0
    """After the first failure of an archive; doubled after each further one. Up to a half is taken off at random."""
    longest_pause: float = 60.0
    look: float = 1.0
    """How often, at least, it is looked whether a pause is over."""


USUAL: Final = Pace()


class WriteBehind:
    """Pays what `archives` holds and `remote` lacks.

    A file is tried until the store takes it, also across restarts: a refusal that looks final today may be a policy
    that is corrected tomorrow. Pauses are each file's own, so that one which is refused does not keep others back.
    """

    def __init__(
        self,
        remote: Store,
        archives: ArchiveCache,
        tasks: Tasks,
        counters: Counters,
        clock: Clock,
        *,
        limit: int,
        refusal: Callable[[], float] = lambda: 0.0,
        pace: Pace = USUAL,
    ) -> None:
        """`limit`: bytes that may be owed. `refusal`: seconds for which the store's circuit breaker refuses every call;
        uploads wait them out.
        """
        self._remote, self._archives, self._tasks = remote, archives, tasks
        self._counters, self._clock = counters, clock
        self._refusal, self._pace = refusal, pace
        self._debts = Debts(limit)
        self._turns = Turns()
        self._news = asyncio.Event()
        self._workers = 0
        self._waiting = False
        self._stopping = False

    async def start(self) -> None:
        """Takes up what an earlier process left owing."""
        for key in await self._archives.owed():
            held = await self._archives.open(key)
            size = 0  # gone; that is found out when it is tried
            if held is not None:
                size = held.size
                held.close()
            self._debts.reserve(size, beyond_limit=True)
            debt = self._debts.add(key, size)
            self._put_off(debt)
            self._schedule(debt, 0.0)

    def stop(self) -> None:
        """From now on nobody waits to try again; to be called before `Tasks.drain`, which waits for uploads under way.

        What is new still has its first try. The rest stays owed, for the next process.
        """
        self._stopping = True
        self._news.set()

    def owes(self, key: str) -> bool:
        """Whether the store still lacks `key`, or the last file adopted as it."""
        return key in self._debts

    def keys(self, prefix: str) -> list[str]:
        """What is owed, in key order."""
        return self._debts.keys(prefix)

    async def adopt(self, key: str, path: Path) -> bool:
        """Takes a file over, to be uploaded; False if that cannot be, and the file is untouched then.

        Once begun it goes on, even if its caller is cancelled.
        """
        return await landed(self._tasks.spawn(self._adopt(key, path), name=f"keep {key}"))

    async def tried(self, key: str) -> None:
        """Waits until the store has `key`, or has failed to take it once."""
        debt = self._debts.get(key)
        if debt is not None:
            await debt.tried.wait()

    async def withdraw(self, key: str) -> None:
        """Forgets the debt. When this returns, no upload of `key` runs; one that ran may have come to its end.

        Once begun it goes on, even if its caller is cancelled.
        """
        if key in self._debts:
            await landed(self._tasks.spawn(self._withdraw(key), name=f"withdraw {key}"))

    async def _adopt(self, key: str, path: Path) -> bool:
        size = await asyncio.to_thread(_size, path)
        if size is None:
            return False
        async with self._turns.take(key, writes=True), self._turns.settling(key):
            if not self._debts.reserve(size):
                log.warning("too much waits for the store already", key=key, owed=self._debts.bytes)
                return False
            if not await self._archives.adopt(key, path, owed=True):
                self._debts.give_back(size)
                return False
            known = key in self._debts
            debt = self._debts.add(key, size)
        if not known:
            if self._refusal() > 0:
                self._put_off(debt)
            self._schedule(debt, 0.0)
        return True

    async def _withdraw(self, key: str) -> None:
        async with self._turns.take(key, writes=True), self._turns.settling(key):
            debt = self._debts.get(key)
            if debt is None:
                return
            debt.withdrawn = True
            await debt.idle.wait()
            await self._archives.settled(key)
            self._debts.remove(debt)

    def _schedule(self, debt: Debt, due: float) -> None:
        self._debts.schedule(debt, due)
        self._start_workers()

    def _start_workers(self) -> None:
        self._news.set()
        while self._workers < min(self._pace.at_once, len(self._debts)):
            self._workers += 1
            self._tasks.spawn(self._work(), name="upload owed archives")

    async def _work(self) -> None:
        broken = False
        try:
            while (debt := await self._next()) is not None:
                await self._pay(debt)
        except Exception:  # re-raised, for `Tasks` to count and log: no failure that is foreseen gets here
            broken = True
            raise
        finally:
            self._workers -= 1
            if broken:  # the others' uploads shall not suffer from that
                self._start_workers()

    async def _next(self) -> Debt | None:
        """The next file whose time has come; None if there is nothing to do, or another worker waits for it."""
        while (due := self._debts.next_due()) is not None:
            refusal = self._refusal()
            pause = max(due - self._clock.monotonic(), refusal)
            if pause <= 0:
                debt = self._debts.take()
                self._start_workers()
                return debt
            if refusal > 0:
                for waiting in self._debts.idle:
                    self._put_off(waiting)
            if self._stopping or self._waiting:
                return None
            self._waiting = True
            self._news.clear()
            try:
                await heard(self._news, min(pause, self._pace.look))
            finally:
                self._waiting = False
        return None

    async def _pay(self, debt: Debt) -> None:
        edition = debt.edition
        try:
            gone = not await self._upload(debt.key)
        except StoreFailure as e:
            self._failed(debt, e.why)
        except Exception as e:  # unforeseen: it is still owed, and the owner of this task tells of it
            self._failed(debt, type(e).__name__)
            raise
        else:
            debt.idle.set()  # for who withdraws it: the next step waits for him
            await self._settle(debt, edition, gone=gone)
        finally:
            debt.idle.set()

    async def _upload(self, key: str) -> bool:
        """False if the file is gone. Raises `StoreFailure` where it is to be tried again."""
        path = await self._archives.lend(key)
        if path is not None:
            if kind_of(key) is Kind.LIST and await self._is_superseded(key, path):
                log.info("list not uploaded, the store has been given a newer one", key=key)
            else:
                await self._remote.adopt(key, path)
            return True
        if await holds(self._remote, key):
            return True  # another worker on this folder has paid it
        held = await self._archives.open(key)
        if held is None:
            return False
        held.close()
        raise StoreFailure("write", key, "the cache cannot give it out now")

    async def _is_superseded(self, key: str, path: Path) -> bool:
        """Whether another replica has written what may be replaced since this one came; it is asked for anew anyway."""
        kept = await asyncio.to_thread(_modified, path)
        async for found in self._remote.list(key):
            if found.key == key:
                return found.modified > kept + _SLACK
        return False

    def _failed(self, debt: Debt, why: str) -> None:
        self._counters.count("store_failures")
        if debt.withdrawn:
            return
        tell = log.info if debt.deferred else log.warning
        tell("archive waits for the store", key=debt.key, failures=debt.failures, reason=why)
        self._put_off(debt)
        pause = 0.0
        if self._refusal() <= 0:  # else that is pause enough, and this may have been no real try
            pause = min(self._pace.longest_pause, self._pace.first_pause * 2 ** min(debt.failures, 30))
            pause *= 1 - random.random() / 2  # noqa: S311 - so that many replicas do not come in step
            debt.failures += 1
        self._schedule(debt, self._clock.monotonic() + pause)

    def _put_off(self, debt: Debt) -> None:
        if not debt.deferred:
            debt.deferred = True
            self._counters.count("store_writes_deferred")
        debt.tried.set()

    async def _settle(self, debt: Debt, edition: int, *, gone: bool) -> None:
        key = debt.key
        async with self._turns.take(key, writes=True), self._turns.settling(key):
            if debt.withdrawn:
                return
            if debt.edition != edition:  # another file has come while this one was on its way
                self._schedule(debt, 0.0)
                return
            await self._archives.settled(key)
            if kind_of(key) is not Kind.ARCHIVE:  # the store may soon have another
                await self._archives.forget(key)
            self._debts.remove(debt)
        if gone:
            self._counters.count("store_writes_dropped")
            log.error("archive that the store lacks has vanished from the cache", key=key)
        elif debt.deferred:
            self._counters.count("store_writes_caught_up")
            log.info("archive has reached the store", key=key, failures=debt.failures)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None  # whoever is given it next says why


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return math.inf  # likewise
