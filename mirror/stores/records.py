"""Records of a remote store, kept on this machine's disk for a while and then confirmed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.lru import LRU
from mirror.model import Blob, Unchanged
from mirror.ports import Clock, RecordCache, Store
from mirror.stores.turns import Turn, Turns

MAX_RECORD: Final = 8 << 20
"""Bytes; what is larger is not kept here."""
CONFIRMED: Final = 50_000
"""Records of which it is remembered when the store confirmed them."""

log = structlog.get_logger()


class _Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    at: float
    """When the store had it: seconds since the epoch."""
    version: str = ""
    """As the store names it; "" after a write, which tells none."""
    unwritten: bool = False
    """The store refused it."""


@dataclass(frozen=True, slots=True)
class _Held:
    facts: _Facts
    body: bytes


class Records:
    """The records of `remote` with a cache in front.

    `read` answers from the cache for `lifetime` seconds after the store was last asked; then the store is asked
    whether it has another version, and the copy serves if it cannot be asked. Core metadata is its own proof, so
    it needs no confirmation. `reread` always asks the store.

    A record that the store refuses is kept as a stand-in: each `read` of it asks the store first, whose own record
    wins if it has one; if it has none, it is given this one (by `create`, which overwrites nothing). So nothing
    that was refused stays here alone, and nothing here passes for newer than the store.
    """

    def __init__(self, remote: Store, cache: RecordCache, counters: Counters, clock: Clock, lifetime: float) -> None:
        self._remote, self._cache, self._counters, self._clock = remote, cache, counters, clock
        self._lifetime = lifetime
        self._turns = Turns()
        self._confirmed: LRU[str, tuple[str, float]] = LRU(CONFIRMED)
        """By key: the version, and when the store confirmed it, by the monotonic clock."""

    async def read(self, key: str, limit: int) -> bytes | None:
        """As `Store.read`."""
        held = await self._recall(key)
        if held is not None and self._is_fresh(key, held.facts):
            return _bounded(key, held.body, limit)
        try:
            found = await self._ask(key, limit, "", held)
            if found is None and held is not None and held.facts.unwritten:
                return await self._catch_up(key, held.body, limit)
        except StoreFailure as e:
            if held is None:
                raise
            self._counters.count("store_failures")
            log.warning("stored record not confirmed, serving the copy held", key=key, reason=e.why)
            return _bounded(key, held.body, limit)
        return found.body if isinstance(found, Blob) else None

    async def reread(self, key: str, limit: int, version: str) -> Blob | Unchanged | None:
        """As `Store.reread`. Without a version, that of the copy is what the store is asked about."""
        return await self._ask(key, limit, version, None if version else await self._recall(key))

    async def put(self, key: str, body: bytes) -> None:
        """As `Store.put`; where the store refuses, a stand-in is kept."""
        async with self._turns.take(key, writes=True) as turn:
            try:
                await self._remote.put(key, body)
            except StoreFailure:
                await self._keep(key, turn, _Facts(self._clock.now(), unwritten=True), body)
                raise
            await self._keep(key, turn, _Facts(self._clock.now()), body)

    async def create(self, key: str, body: bytes) -> bool:
        """As `Store.create`."""
        async with self._turns.take(key, writes=True):
            created = await self._remote.create(key, body)
            await self._forget(key)
            return created

    async def replace(self, key: str, body: bytes, version: str) -> bool:
        """As `Store.replace`."""
        async with self._turns.take(key, writes=True):
            replaced = await self._remote.replace(key, body, version)
            await self._forget(key)
            return replaced

    async def forget(self, key: str) -> None:
        """For who has changed the object past this: the copy is gone, and no call under way brings it back."""
        async with self._turns.take(key, writes=True):
            await self._forget(key)

    async def quarantine(self, key: str) -> None:
        """As `Store.quarantine`; the store's own record goes only if it is the one that was read here."""
        held = await self._recall(key)
        await self.forget(key)
        if held is not None:
            found = await self._remote.reread(key, MAX_RECORD, "")
            if not isinstance(found, Blob) or found.body != held.body:
                return  # somebody has written a sound one since
        await self._remote.quarantine(key)

    async def _ask(self, key: str, limit: int, version: str, held: _Held | None) -> Blob | Unchanged | None:
        """What the store says, kept; `held` serves where it says that nothing has changed since."""
        known = version or (held.facts.version if held else "")
        async with self._turns.take(key, writes=False) as turn:
            found = await self._remote.reread(key, limit, known)
            if isinstance(found, Blob):
                await self._keep(key, turn, _Facts(self._clock.now(), found.version), found.body)
                return found
            if found is None:
                # What was refused is not older than its absence; `read` sees to it.
                if turn.alone and not (held is not None and held.facts.unwritten):
                    await self._forget(key)
                return None
            if turn.alone:
                self._confirmed.put(key, (known, self._clock.monotonic()))
            if version or held is None:
                return found
            return Blob(_bounded(key, held.body, limit), known)

    async def _catch_up(self, key: str, body: bytes, limit: int) -> bytes | None:
        """The store lacks a record that it once refused."""
        async with self._turns.take(key, writes=True) as turn:
            created = await self._remote.create(key, body)
            if created:
                log.info("record written that the store had refused", key=key)
                await self._keep(key, turn, _Facts(self._clock.now()), body)
                return _bounded(key, body, limit)
            await self._forget(key)
        found = await self._ask(key, limit, "", None)
        return found.body if isinstance(found, Blob) else None

    def _is_fresh(self, key: str, facts: _Facts) -> bool:
        if facts.unwritten:
            return False
        if key.endswith(".metadata"):
            return True
        version, at = self._confirmed.get(key) or ("", 0.0)
        if version and version == facts.version and self._clock.monotonic() - at < self._lifetime:
            return True
        return 0 <= self._clock.now() - facts.at < self._lifetime  # a clock that was set back confirms nothing

    async def _recall(self, key: str) -> _Held | None:
        blob = await self._cache.recall(key)
        if blob is None:
            return None
        line, _, body = blob.partition(b"\n")
        try:
            return _Held(msgspec.json.decode(line, type=_Facts), body)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            self._counters.count("cache_damaged")
            log.warning("cached record cannot be read", key=key, reason=str(e))
            await self._cache.forget(key)
            return None

    async def _keep(self, key: str, turn: Turn, facts: _Facts, body: bytes) -> None:
        """Remembers what was read or written, unless something else may have been written since."""
        async with self._turns.settling(key):
            if turn.alone and len(body) <= MAX_RECORD:
                await self._cache.remember(key, msgspec.json.encode(facts) + b"\n" + body)
            elif turn.writes or turn.alone:
                self._confirmed.drop(key)
                await self._cache.forget(key)

    async def _forget(self, key: str) -> None:
        async with self._turns.settling(key):
            self._confirmed.drop(key)
            await self._cache.forget(key)


def _bounded(key: str, body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise StoreFailure("read", key, f"it has {len(body)} bytes, and at most {limit} were expected")
    return body
