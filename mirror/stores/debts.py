"""The archives that the remote store still lacks, and when each of them is tried next."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field
from typing import Final

LEAST: Final = 4096
"""Bytes that every file counts for at least."""


@dataclass(eq=False, slots=True)
class Debt:
    """One archive that is owed to the store."""

    key: str
    size: int
    deferred: bool = False
    failures: int = 0
    edition: int = 0
    """How often another file has taken the place of the one that was owed first."""
    withdrawn: bool = False
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set for good when it is settled, or once it was put off."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Not set while an upload runs."""


class Debts:
    """All that is owed, at most `limit` bytes; what an earlier process left may exceed that."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.bytes = 0
        self._by_key: dict[str, Debt] = {}
        self._queue: list[tuple[float, int, Debt]] = []
        """A debt whose upload runs is not in it."""
        self._numbers = itertools.count()

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def get(self, key: str) -> Debt | None:
        return self._by_key.get(key)

    def keys(self, prefix: str) -> list[str]:
        """What is owed, in key order."""
        return sorted(k for k in self._by_key if k.startswith(prefix))

    @property
    def idle(self) -> list[Debt]:
        """Those whose upload does not run."""
        return [debt for debt in self._by_key.values() if debt.idle.is_set()]

    def reserve(self, size: int, *, beyond_limit: bool = False) -> bool:
        """Sets aside room for a file; False if there is none."""
        if not beyond_limit and self.bytes + self._weight(size) > self._limit:
            return False
        self.bytes += self._weight(size)
        return True

    def give_back(self, size: int) -> None:
        """Frees what was set aside for a file."""
        self.bytes -= self._weight(size)

    def add(self, key: str, size: int) -> Debt:
        """A debt for which room was set aside; in place of that for the same key, whose room is freed."""
        if (before := self._by_key.get(key)) is not None:
            self.give_back(before.size)
            before.size = size
            before.edition += 1
            return before
        debt = self._by_key[key] = Debt(key, size)
        return debt

    def remove(self, debt: Debt) -> None:
        """It is settled."""
        del self._by_key[debt.key]
        self.give_back(debt.size)
        debt.tried.set()

    def schedule(self, debt: Debt, due: float) -> None:
        """It may be tried from `due` (monotonic) on."""
        debt.idle.set()
        heapq.heappush(self._queue, (due, next(self._numbers), debt))

    def __len__(self) -> int:
        """How many wait for their upload."""
        return len(self._queue)

    def next_due(self) -> float | None:
        """When the next one may be tried; None if there is none."""
        while self._queue and self._queue[0][2].withdrawn:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def take(self) -> Debt:
        """The next one, whose upload begins now."""
        _, _, debt = heapq.heappop(self._queue)
        debt.idle.clear()
        return debt

    @staticmethod
    def _weight(size: int) -> int:
        return max(size, LEAST)
