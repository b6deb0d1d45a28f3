"""One download per cluster: replicas agree by leases in the store on who fetches a file that all of them lack."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.flight import Tasks
from mirror.model import Blob
from mirror.ports import Clock, Store
from mirror.stores.lease import LIMIT, PREFIX, USUAL, Claim, Holding, Lease, Times, lease_key
from mirror.stores.presence import holds
from mirror.stores.rounds import Rounds

SWEEP: Final = 3600.0
"""Seconds between two sweeps."""
SWEPT: Final = 10_000
"""Leases that one sweep looks at."""

log = structlog.get_logger()


class Leases:
    """Leases of this replica in `store`. Clocks of replicas are never compared: what counts is how long, by its own
    monotonic clock, a follower has seen one version of a lease.

    With leases nothing gets worse than without: where the store is not exact, fails or is slow, everybody downloads.
    A lease whose holder dies is taken over by the next who wants the file, or swept.
    """

    def __init__(
        self,
        store: Store,
        tasks: Tasks,
        clock: Clock,
        counters: Counters,
        replica: str,
        wait: float,
        *,
        stored: Callable[[str], Awaitable[None]] | None = None,
        times: Times = USUAL,
    ) -> None:
        """`store`: the one that the replicas share, without caches in front. `wait`: seconds that a follower waits at
        most; 0 for no leases. `stored` waits until the store has what was adopted as a key, or has failed to take it,
        where adopting returns before that.
        """
        self._store, self._tasks, self._clock, self._counters = store, tasks, clock, counters
        self._replica, self._wait, self._stored, self._times = replica, wait, stored, times
        self._listed: dict[str, float] = {}
        self._rounds = Rounds(tasks, SWEEP, self.sweep, "sweep leases")

    def start(self) -> None:
        """Sweeps now and then what dead holders left and nobody has asked for since."""
        if self._wait:
            self._rounds.start()

    def stop(self) -> None:
        """To be called before `Tasks.drain`."""
        self._rounds.stop()

    async def lead(self, key: str) -> Lease | None:
        """Leave to download `key`, which the store was seen to lack; None if it has it now.

        Waits as long as another replica is at it, but no longer than `wait`. Raises nothing that the store does.
        Who finds after None that what the store has is of no use downloads without asking again.
        """
        if not self._wait or not self._store.exact:
            return Lease()
        try:
            # For calls that hang; else `_follow` ends in time by itself. A lease that was on its way then is an orphan.
            async with asyncio.timeout(self._wait + self._times.longest_look):
                return await self._lead(key)
        except StoreFailure as e:
            self._counters.count("store_failures")
            log.warning("no lease, downloading without", key=key, reason=str(e))
            return Lease()
        except TimeoutError:
            return self._overdue(key)

    async def sweep(self) -> None:
        """Removes the leases that have not changed since the last sweep."""
        listed: dict[str, float] = {}
        try:
            async for found in self._store.list(PREFIX):
                if self._listed.get(found.key) == found.modified:
                    await self._store.delete(found.key)
                    log.info("abandoned lease removed", key=found.key)
                elif len(listed) < SWEPT:
                    listed[found.key] = found.modified
        except StoreFailure as e:
            self._counters.count("store_failures")
            log.warning("leases not swept", reason=str(e))
        self._listed = listed

    async def _lead(self, key: str) -> Lease | None:
        claim = Claim(self._replica, secrets.token_hex(8))
        begun = self._clock.monotonic()
        if await self._store.create(lease_key(key), msgspec.json.encode(claim)):
            return await self._begin(key, claim, begun)
        return await self._follow(key, claim, begun)

    async def _follow(self, key: str, claim: Claim, begun: float) -> Lease | None:
        name, body = lease_key(key), msgspec.json.encode(claim)
        version, since = "", begun
        pause = self._times.first_look
        while True:
            asked = self._clock.monotonic()  # not when it was answered: a slow answer tells of an earlier time
            found = await self._store.reread(name, LIMIT, version)
            won = False
            if found is None:
                if await holds(self._store, key):
                    self._counters.count("leases_awaited")
                    return None
                won = await self._store.create(name, body)
            elif isinstance(found, Blob):
                version, since = found.version, self._clock.monotonic()
            elif asked - since >= self._times.dead:
                log.warning("holder of a lease is gone, taking over", key=key)
                won = await self._store.replace(name, body, version)
            if won:
                return await self._begin(key, claim, asked)
            left = begun + self._wait - self._clock.monotonic()
            if left <= 0:
                if not await holds(self._store, key):
                    return self._overdue(key)
                self._counters.count("leases_awaited")
                return None
            jitter = 1 - random.random() / 4  # noqa: S311 - so that followers do not come in step
            await asyncio.sleep(min(left, pause * jitter))
            pause = min(self._times.longest_look, pause * 1.5)

    async def _begin(self, key: str, claim: Claim, written_at: float) -> Lease | None:
        """The lease is ours. The file may have come between the caller's look and this."""
        holding = Holding(self._store, self._clock, self._counters, self._times, lease_key(key), claim, written_at)
        self._tasks.spawn(holding.hold(), name=f"lease {key}")
        try:
            has = await holds(self._store, key)
        except BaseException:  # also cancelled: nobody will release it
            holding.done.set()
            raise
        if has:
            holding.done.set()
            self._counters.count("leases_awaited")
            return None
        self._counters.count("leases_taken")
        return Lease(self._releasing(key, holding))

    def _releasing(self, key: str, holding: Holding) -> Callable[[], None]:
        released = False

        def release() -> None:
            nonlocal released
            if not released:
                released = True
                self._tasks.spawn(self._release(key, holding), name=f"release {key}")

        return release

    async def _release(self, key: str, holding: Holding) -> None:
        try:
            if self._stored is not None:
                await self._stored(key)
        finally:
            holding.done.set()

    def _overdue(self, key: str) -> Lease:
        self._counters.count("leases_overdue")
        log.warning("another replica did not deliver in time, downloading", key=key)
        return Lease()
