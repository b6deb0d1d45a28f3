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
        if (expected or 0) > self._limit - self._used:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return MemorySpool(self)

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

    def __init__(self, owner: MemorySpools) -> None:
        self._owner = owner
        self.path: Path | None = None
        self._bytes = bytearray()
        self.size = 0

    def append(self, pieces: list[bytes]) -> None:
        self._owner.take(sum(map(len, pieces)))
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
        self._owner.give_back(len(self._bytes))
        self._bytes = bytearray()
        self.size = 0
