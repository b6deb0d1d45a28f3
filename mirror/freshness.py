"""Fresh, stale or expired: arithmetic only (RFC 9111 §4.2, RFC 5861)."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Freshness(enum.Enum):
    """What may be done with a copy of a page."""

    FRESH = "fresh"
    """Serve it."""
    STALE = "stale"
    """Serve it, and revalidate it behind."""
    EXPIRED = "expired"
    """Revalidate first; serve it only if upstream fails."""
    DEAD = "dead"
    """Too old to be served even then."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long pages live; all in seconds."""

    ttl: float
    """A page is fresh this long, or as long as upstream's max-age where that is less."""
    stale: float
    """After that it may be served for so long while it is revalidated behind."""
    max_stale: float = 0
    """A page past its ttl by more than this is not served at all; 0 = no limit."""
    floor: float = 30
    """A client's wish for an end-to-end reload is honoured only for copies older than this: installers before
    pip 26.2 send it with every page request."""

    def ttl_for(self, max_age: int | None) -> float:
        """Lifetime of a page for which upstream gave `max_age`."""
        return self.ttl if max_age is None else min(self.ttl, max_age)

    def judge(self, age: float, max_age: int | None, *, newest: bool = False) -> Freshness:
        """State of a copy confirmed `age` seconds ago.

        A negative age means that the clock was set back: nothing is known of the true age, so such a copy is
        revalidated behind, and no clock jump makes all pages expire at once.
        """
        ttl = self.ttl_for(max_age)
        if newest and age > self.floor:
            return Freshness.EXPIRED
        if 0 <= age < ttl:
            return Freshness.FRESH
        if age < ttl + self.stale:
            return Freshness.STALE
        if self.max_stale and age >= ttl + self.max_stale:
            return Freshness.DEAD
        return Freshness.EXPIRED

    def remaining(self, age: float, max_age: int | None) -> int:
        """Whole seconds for which a client may reuse the page without asking."""
        ttl = self.ttl_for(max_age)
        return max(0, int(ttl - age)) if age >= 0 else 0
