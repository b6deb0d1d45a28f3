from __future__ import annotations

import asyncio

import pytest

from mirror.maintenance.work import each, one_by_one
from tests.maintenance.stocked import some_tasks


async def test_never_more_than_asked_for_and_every_item_once() -> None:
    running = highest = 0
    done: list[int] = []

    async def work(number: int) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0)
        running -= 1
        done.append(number)

    async with some_tasks() as tasks:
        await each(tasks, one_by_one(range(100)), work, at_once=7)
    assert sorted(done) == list(range(100))
    assert highest == 7


async def test_the_first_failure_stops_the_others_and_is_raised() -> None:
    cancelled: list[int] = []
    hanging = asyncio.Event()

    async def work(number: int) -> None:
        if number == 3:
            await hanging.wait()
            raise LookupError("three")
        try:
            if number == 2:
                hanging.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    tasks_left = 0
    async with some_tasks() as tasks:
        with pytest.raises(LookupError):
            await each(tasks, one_by_one(range(10)), work, at_once=4)
        tasks_left = len(tasks)
    assert tasks_left == 0
    assert sorted(cancelled) == [0, 1, 2]


async def test_who_leaves_takes_the_workers_with_it() -> None:
    begun = asyncio.Event()

    async def work(number: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with some_tasks() as tasks:
        run = tasks.spawn(each(tasks, one_by_one(range(10)), work, at_once=4), name="run")
        await begun.wait()
        run.cancel()
        await asyncio.wait([run])
        assert len(tasks) == 0
