"""Spools of one kind, and of another where the first has no room."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

import structlog

from mirror.counters import Counters
from mirror.spool.kinds import Spool, Spools

COPY: Final = 1024 * 1024
"""Bytes that move at a time."""

log = structlog.get_logger()


class FallbackSpools:
    """Spools of `first`; those that it has no room for, or no more, are of `second`."""

    def __init__(self, first: Spools, second: Spools, counters: Counters) -> None:
        self._first, self._second, self._counters = first, second, counters

    def create(self, expected: int | None) -> Spool:
        try:
            return _Fallback(self._first.create(expected), self, expected)
        except OSError as e:
            return self.instead(expected, e)

    def instead(self, expected: int | None, error: OSError) -> Spool:
        """A spool of `second`, because of `error`. Raises `OSError`."""
        spool = self._second.create(expected)
        self._counters.count("fills_in_memory")
        log.warning("spool cannot be written, going on elsewhere", reason=error.strerror or str(error))
        return spool


class _Fallback:
    """A spool of the first kind until it cannot be written, then of the second."""

    def __init__(self, spool: Spool, owner: FallbackSpools, expected: int | None) -> None:
        self._now, self._owner, self._expected = spool, owner, expected
        self._before: Spool | None = None
        """Where it was first; open to the end, because somebody may be reading there."""

    @property
    def size(self) -> int:
        return self._now.size

    @size.setter
    def size(self, value: int) -> None:
        self._now.size = value

    @property
    def path(self) -> Path | None:
        return self._now.path

    @path.setter
    def path(self, value: Path | None) -> None:
        self._now.path = value

    def append(self, pieces: list[bytes]) -> None:
        try:
            self._now.append(pieces)
        except OSError as e:
            if self._before is not None:
                raise
            self._move(pieces, e)

    def _move(self, pieces: list[bytes], error: OSError) -> None:
        size = self._now.size
        needed = size + sum(map(len, pieces))
        spool = self._owner.instead(max(needed, self._expected or 0), error)
        try:
            while spool.size < size:
                piece = self._now.read(spool.size, min(COPY, size - spool.size))
                if not piece:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                spool.append([piece])
            spool.append(pieces)
        except BaseException:  # whatever went wrong, the new spool has no other owner yet
            spool.close()
            raise
        self._before, self._now = self._now, spool
        try:
            self._before.discard()
        except OSError as e:
            log.warning("spool file left behind", reason=e.strerror or str(e))

    def peek(self, position: int, length: int) -> bytes | None:
        return self._now.peek(position, length)

    def read(self, position: int, length: int) -> bytes:
        return self._now.read(position, length)

    def discard(self) -> None:
        self._now.discard()

    def close(self) -> None:
        self._now.close()
        if self._before is not None:
            self._before.close()
