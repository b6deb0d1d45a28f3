"""A circuit breaker: after some failures in a row, calls are refused for a while instead of tried."""

from __future__ import annotations

import random
from collections.abc import Callable

from mirror.ports import Clock

_PROBE_PATIENCE = 1.0
_SHORTEST_STREAK = 1.0
"""Seconds that failures must go on before they open the breaker: a handful of parallel requests that meet one
hiccup are no outage, and each of them tries again."""


class Breaker:
    """Decides whether one origin may be asked now. Pure: whoever calls says what came of it.

    Closed until `threshold` calls in a row have failed within no less than a second; then open for `first_pause` seconds, after which one
    call is let through as a probe. If the probe fails too, the next pause is twice as long, up to
    `longest_pause`; any success closes the breaker. A random part of up to a fifth is taken off each pause, so
    that many replicas do not come back in step.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        threshold: int = 5,
        first_pause: float = 5.0,
        longest_pause: float = 60.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`chance` gives numbers from 0 to 1."""
        self._clock = clock
        self._threshold = threshold
        self._first_pause, self._longest_pause = first_pause, longest_pause
        self._chance = chance
        self._failures = 0
        self._since: float | None = None
        """When the first call after the last success began."""
        self._pause = 0.0
        self._open_until: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the origin counts as down; probes are how that ends."""
        return self._open_until is not None

    @property
    def refusal(self) -> float:
        """Seconds for which calls are refused; 0 if one may be made now."""
        if self._open_until is None:
            return 0.0
        left = self._open_until - self._clock.monotonic()
        return left if left > 0 else _PROBE_PATIENCE if self._probing else 0.0

    def begin(self) -> None:
        """A call begins, which `refusal` does not forbid; it ends in `succeeded`, `failed` or `abandoned`."""
        self._probing = self._open_until is not None
        if self._since is None:
            self._since = self._clock.monotonic()

    def succeeded(self) -> None:
        """The origin answered; what it answered does not matter."""
        self._failures = 0
        self._since = None
        self._pause = 0.0
        self._open_until = None
        self._probing = False

    def failed(self) -> bool:
        """The origin could not be asked, or gave no answer. True if that has opened the breaker."""
        now = self._clock.monotonic()
        self._failures += 1
        late = self._open_until is not None and not self._probing  # began before the breaker opened
        lasting = self._threshold == 1 or now - (self._since or now) >= _SHORTEST_STREAK
        enough = self._failures >= self._threshold and lasting
        if late or not (enough or self._probing):
            return False
        self._probing = False
        self._pause = min(self._longest_pause, 2 * self._pause or self._first_pause)
        self._open_until = now + self._pause * (1 - self._chance() / 5)
        return True

    def abandoned(self) -> None:
        """The call was given up before it could show anything."""
        self._probing = False
