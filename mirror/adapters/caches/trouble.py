"""What goes wrong in a local cache: each time counted, and logged now and then."""

from __future__ import annotations

from typing import Final

import structlog

from mirror.counters import Counters
from mirror.ports import Clock

_PERIOD: Final = 60.0
"""Seconds between two lines of the same kind: a full disk fails at every write."""

_log = structlog.get_logger(__name__)


class Trouble:
    """Counts events of one cache on the event loop's thread. It raises nothing: a cache only ever makes things faster."""

    def __init__(self, cache: str, counters: Counters, clock: Clock) -> None:
        """`cache`: how log lines call it."""
        self._cache, self._counters, self._clock = cache, counters, clock
        self._told: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def failed(self, error: BaseException) -> None:
        """A read or write was refused."""
        self._report("cache_failures", "cache failing", error)

    def damaged(self, error: BaseException) -> None:
        """An entry was not as it had been written, or tried to lead elsewhere."""
        self._report("cache_damaged", "cache entry damaged", error)

    def rebuilt(self, reason: str) -> None:
        """The cache was emptied and begun anew."""
        self._counters.count("cache_rebuilt")
        _log.warning("cache rebuilt", cache=self._cache, reason=reason)

    def evicted(self, entries: int) -> None:
        """Entries were removed to make room, which is no trouble at all."""
        if entries:
            self._counters.count("cache_evicted", entries)

    def _report(self, event: str, line: str, error: BaseException) -> None:
        self._counters.count(event)
        now = self._clock.monotonic()
        if event in self._told and now - self._told[event] < _PERIOD:
            self._untold[event] = self._untold.get(event, 0) + 1
            return
        self._told[event] = now
        _log.warning(line, cache=self._cache, reason=reason_of(error), more=self._untold.pop(event, 0))


def reason_of(error: BaseException) -> str:
    """One line without a path of this machine where the system gives one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
