"""Spools in memory, for small files where there is no disk to write."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path


class MemorySpools:
    """Spools in memory, bounded together by `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def create(self, expected: int | None) -> MemorySpool:
        # At once, or of many downloads that begin together each would find room, and none enough.
        reserved = expected or 0
        self.take(reserved)
        return MemorySpool(self, reserved)

    def take(self, count: int) -> None:
        """Reserves `count` bytes or raises `OSError`."""
        with self._lock:
            if count > self._limit - self._used:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._used += count

    def give_back(self, count: int) -> None:
        """Returns what `take` reserved."""
        with self._lock:
            self._used -= count


class MemorySpool:
    """One spool in memory."""

    def __init__(self, owner: MemorySpools, reserved: int) -> None:
        self._owner, self._reserved = owner, reserved
        self.path: Path | None = None
        self._bytes = bytearray()
        self.size = 0

    def append(self, pieces: list[bytes]) -> None:
        lacking = self.size + sum(map(len, pieces)) - self._reserved
        if lacking > 0:
            self._owner.take(lacking)
            self._reserved += lacking
        for piece in pieces:
            self._bytes += piece
        self.size = len(self._bytes)

    def peek(self, position: int, length: int) -> bytes:
        # A copy, not a view: a bytearray with a view on it cannot grow, and `append` runs in another thread.
        return bytes(self._bytes[position : position + length])

    def read(self, position: int, length: int) -> bytes:
        return self.peek(position, length)

    def discard(self) -> None:
        """Memory has no name to remove."""

    def close(self) -> None:
        self._owner.give_back(self._reserved)
        self._reserved = 0
        self._bytes = bytearray()
        self.size = 0
