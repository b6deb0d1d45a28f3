"""Many things at once, but not too many: a bounded number of workers over an asynchronous iterator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from mirror.flight import Tasks

T = TypeVar("T")


async def each(tasks: Tasks, items: AsyncIterator[T], work: Callable[[T], Awaitable[None]], *, at_once: int) -> None:
    """Calls `work` with every item, at most `at_once` at the same time; items are taken as workers come free.

    The first failure stops all workers and is raised, also a failure of `items`.
    """
    turn = asyncio.Lock()  # an asynchronous generator cannot be asked twice at once

    async def worker() -> None:
        while True:
            async with turn:
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
            await work(item)

    workers = [tasks.spawn(worker(), name=f"worker {number}") for number in range(at_once)]
    try:
        await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        for finished in [w for w in workers if w.done()]:
            finished.result()
    finally:
        for unfinished in workers:
            unfinished.cancel()
        await asyncio.wait(workers)


async def one_by_one(items: Iterable[T]) -> AsyncGenerator[T, None]:
    """`items` for `each`."""
    for item in items:
        yield item
