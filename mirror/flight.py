"""One shared call per key, and one owner for every background task.

The idea is that of groupcache's singleflight, with asyncio's additions: a caller that leaves stops nobody,
a failure reaches every caller that waits and is not remembered, and no task is ever without an owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

import structlog

from mirror.counters import Counters
from mirror.errors import MirrorError, ShuttingDown

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

log = structlog.get_logger()


class Tasks:
    """Owns every background task of the process: none is lost, none fails unseen, all end at shutdown."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, coro: Coroutine[Any, Any, V], *, name: str) -> asyncio.Task[V]:
        """Starts `coro`. A foreseen failure (`MirrorError`) is its waiters' matter; any other is logged and counted."""
        task = asyncio.create_task(coro, name=name)  # noqa: TID251 - this is the owner
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()  # also marks it as seen: a flight whose callers have all left is no leak
        if error is not None and not isinstance(error, MirrorError):
            self._counters.count("background_failures")
            log.error("background task failed", task=task.get_name(), exc_info=error)

    def __len__(self) -> int:
        return len(self._running)

    async def drain(self, timeout: float) -> int:
        """Waits up to `timeout` seconds for all tasks, cancels the rest, and returns how many those were."""
        deadline = asyncio.get_running_loop().time() + timeout
        while self._running and (left := deadline - asyncio.get_running_loop().time()) > 0:
            # in rounds, because a task that ends may have started another (a download starts the write behind it)
            await asyncio.wait(self._running, timeout=left)
        unfinished = list(self._running)
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)
        return len(unfinished)


class Flights(Generic[K, V]):
    """Shares one running call among all callers with the same key."""

    def __init__(self, tasks: Tasks, name: str) -> None:
        self._tasks, self._name = tasks, name
        self._flying: dict[K, asyncio.Task[V]] = {}

    def launch(self, key: K, factory: Callable[[], Awaitable[V]]) -> asyncio.Task[V]:
        """The running call for `key`, started if there is none; not awaited."""
        task = self._flying.get(key)
        if task is None or task.done():  # done and still here: it was cancelled before its first step
            task = self._tasks.spawn(self._fly(key, factory), name=f"{self._name} {key}")
            self._flying[key] = task
        return task

    async def _fly(self, key: K, factory: Callable[[], Awaitable[V]]) -> V:
        try:
            return await factory()
        finally:
            self._flying.pop(key, None)

    async def run(self, key: K, factory: Callable[[], Awaitable[V]]) -> V:
        """Joins the running call for `key` or launches it; returns or raises what it does.

        Cancelling the caller leaves the call running for the others. Raises `ShuttingDown` if the call was cut
        short by `Tasks.drain`.
        """
        return await landed(self.launch(key, factory))

    def __contains__(self, key: K) -> bool:
        return key in self._flying


async def landed(task: asyncio.Task[V]) -> V:
    """The result of a shared task. A waiter that is cancelled does not take the task with it."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        me = asyncio.current_task()
        if task.cancelled() and me is not None and not me.cancelling():
            raise ShuttingDown from None
        raise
