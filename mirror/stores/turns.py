"""Who is at work on which key, so that a copy is kept only of what is surely the last version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Turn:
    """One call at work on a key."""

    writes: bool
    alone: bool = True
    """False if another call wrote the same key meanwhile: nobody can say then which version came last."""


@dataclass(slots=True)
class _Key:
    turns: list[Turn] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Turns:
    """The calls at work, by key."""

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}

    @asynccontextmanager
    async def take(self, key: str, *, writes: bool) -> AsyncIterator[Turn]:
        """A turn for as long as the block runs. Nobody waits for anybody; see `settling`."""
        entry = self._keys.setdefault(key, _Key())
        turn = Turn(writes, alone=not any(t.writes for t in entry.turns))
        if writes:
            for other in entry.turns:
                other.alone = False
        entry.turns.append(turn)
        try:
            yield turn
        finally:
            entry.turns.remove(turn)
            if not entry.turns:
                del self._keys[key]

    @asynccontextmanager
    async def settling(self, key: str) -> AsyncIterator[None]:
        """One at a time for each key. For who has a turn: what `Turn.alone` says holds until the block ends, or else
        the block of the call that ended it comes later.
        """
        async with self._keys[key].lock:
            yield
