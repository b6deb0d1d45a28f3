"""Work that comes round again and again, and ends when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mirror.flight import Tasks


class Rounds:
    """Calls `action` every so many seconds. Who starts it stops it before `Tasks.drain`.

    Between two rounds there is a timer and no task, so that nobody who waits for background work waits for it.
    """

    def __init__(self, tasks: Tasks, every: float, action: Callable[[], Awaitable[None]], name: str) -> None:
        self._tasks, self._every, self._action, self._name = tasks, every, action, name
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = True

    def start(self) -> None:
        self._stopped = False
        self._set(self._every)

    def hurry(self) -> None:
        """The next round begins now."""
        if self._timer is not None:
            self._timer.cancel()
            self._set(0)

    def stop(self) -> None:
        """No other round begins."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, pause: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(pause, self._begin)

    def _begin(self) -> None:
        self._timer = None  # a round that runs is not hurried
        self._tasks.spawn(self._round(), name=self._name)

    async def _round(self) -> None:
        try:
            await self._action()
        finally:
            if not self._stopped:
                self._set(self._every)


async def heard(news: asyncio.Event, patience: float) -> bool:
    """Waits for `news`, but no longer than `patience` seconds; whether it came."""
    try:
        async with asyncio.timeout(patience):
            await news.wait()
    except TimeoutError:
        return False
    return True
