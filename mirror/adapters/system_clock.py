"""The clock of this machine."""

from __future__ import annotations

import time


class SystemClock:
    """A `mirror.ports.Clock` that tells the real time."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
