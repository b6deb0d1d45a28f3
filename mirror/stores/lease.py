"""One lease in the store: held, renewed and given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
import xxhash

from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.model import Blob
from mirror.ports import Clock, Store
from mirror.stores.rounds import heard

PREFIX: Final = "leases/"
LIMIT: Final = 4096
"""Bytes of a lease; more is none."""

log = structlog.get_logger()


def lease_key(key: str) -> str:
    """The key of the lease on downloading `key`. Two that share one wait for each other now and then, no more."""
    return f"{PREFIX}{xxhash.xxh3_64_hexdigest(key.encode())}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds. `dead` is several times `renew`, and less than the wait for a download."""

    renew: float = 3.0
    """How often a holder writes its lease anew."""
    dead: float = 8.0
    """For how long a follower must have seen no change to hold the holder for dead."""
    first_look: float = 0.1
    """A follower's first pause between two looks; the next ones are longer."""
    longest_look: float = 1.0


USUAL: Final = Times()


class Claim(msgspec.Struct, frozen=True):
    """What a lease in the store says."""

    replica: str
    nonce: str
    """Of this lease alone."""
    renewed: int = 0
    """So that no two versions are ever equal."""


class Lease:
    """Leave to download a file. Where leases cannot be had it is an empty one, which holds nobody back."""

    def __init__(self, release: Callable[[], None] | None = None) -> None:
        self._release = release

    @property
    def held(self) -> bool:
        """Whether other replicas wait for this one."""
        return self._release is not None

    async def release(self) -> None:
        """To be called when the download has been stored, or has failed; may be repeated.

        It is given back behind, once the store has what was adopted or has failed to take it.
        """
        if self._release is not None:
            self._release()


class Holding:
    """A lease while this replica holds it."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        counters: Counters,
        times: Times,
        key: str,
        claim: Claim,
        written_at: float,
    ) -> None:
        """`key` is the lease's, `claim` what was written there; that was begun `written_at` (monotonic)."""
        self._store, self._clock, self._counters, self._times = store, clock, counters, times
        self._key, self._claim, self._written_at = key, claim, written_at
        self.done = asyncio.Event()
        """To be set when it is to be given back."""

    async def hold(self) -> None:
        """Renews it until it is done with, then gives it back. Ends too if it is lost: the download goes on."""
        try:
            while not await heard(self.done, self._times.renew):
                if not await self._renewed():
                    log.warning("lease lost, another replica may download too", key=self._key)
                    return
            # Nobody takes over within `dead` of the last renewal, so a young lease is ours without a look.
            young = self._clock.monotonic() - self._written_at < self._times.dead / 2
            if young or await self._version() is not None:
                await self._store.delete(self._key)
        except StoreFailure as e:  # whoever wants it takes over when it has not changed for long enough
            self._counters.count("store_failures")
            log.warning("lease not given back", key=self._key, reason=e.why)

    async def _renewed(self) -> bool:
        """False if it is another's now."""
        now = self._clock.monotonic()
        claim = msgspec.structs.replace(self._claim, renewed=self._claim.renewed + 1)
        try:
            version = await self._version()
            if version is None or not await self._store.replace(self._key, msgspec.json.encode(claim), version):
                return False
        except StoreFailure as e:
            self._counters.count("store_failures")
            log.warning("lease not renewed", key=self._key, reason=e.why)
            return True  # perhaps the next time
        self._claim, self._written_at = claim, now
        return True

    async def _version(self) -> str | None:
        """The version of the lease in the store if it is still this one."""
        found = await self._store.reread(self._key, LIMIT, "")
        if not isinstance(found, Blob):
            return None
        try:
            claim = msgspec.json.decode(found.body, type=Claim)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return found.version if claim.nonce == self._claim.nonce else None
