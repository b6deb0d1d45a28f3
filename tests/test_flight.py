"""One call per key; every task has an owner."""

from __future__ import annotations

import asyncio

import pytest

from mirror.counters import Counters
from mirror.errors import ShuttingDown, UpstreamDown
from mirror.flight import Flights, Tasks


def flights() -> tuple[Flights[str, int], Tasks, Counters]:
    counters = Counters()
    tasks = Tasks(counters)
    return Flights(tasks, "test"), tasks, counters


async def test_callers_of_one_key_share_one_call() -> None:
    shared, _, _ = flights()
    gate, calls = asyncio.Event(), 0

    async def call() -> int:
        nonlocal calls
        calls += 1
        await gate.wait()
        return 42

    callers = [asyncio.ensure_future(shared.run("k", call)) for _ in range(50)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*callers) == [42] * 50
    assert calls == 1
    assert await shared.run("k", call) == 42
    assert calls == 2, "a result is not remembered"


async def test_p5_a_failure_reaches_every_caller_and_is_not_remembered() -> None:
    shared, _, counters = flights()
    gate = asyncio.Event()

    async def fail() -> int:
        await gate.wait()
        raise UpstreamDown("test", "it is down")

    async def succeed() -> int:
        return 1

    callers = [asyncio.ensure_future(shared.run("k", fail)) for _ in range(100)]
    await asyncio.sleep(0)
    gate.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(o) for o in outcomes] == [UpstreamDown] * 100
    assert await shared.run("k", succeed) == 1
    assert counters["background_failures"] == 0


async def test_p4_the_first_caller_leaves_and_the_others_get_their_answer() -> None:
    shared, _, _ = flights()
    gate = asyncio.Event()

    async def call() -> int:
        await gate.wait()
        return 7

    leader = asyncio.ensure_future(shared.run("k", call))
    others = [asyncio.ensure_future(shared.run("k", call)) for _ in range(99)]
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    gate.set()
    assert await asyncio.gather(*others) == [7] * 99


async def test_drain_finishes_what_can_finish_and_drops_the_rest() -> None:
    shared, tasks, _ = flights()
    done = []

    async def second() -> None:
        done.append("second")

    async def first() -> None:
        await asyncio.sleep(0.01)
        done.append("first")
        tasks.spawn(second(), name="second")

    async def endless() -> int:
        await asyncio.Event().wait()
        return 0

    tasks.spawn(first(), name="first")
    waiting = asyncio.ensure_future(shared.run("k", endless))
    await asyncio.sleep(0)
    assert await tasks.drain(0.2) == 1
    assert done == ["first", "second"]
    with pytest.raises(ShuttingDown):
        await waiting
    assert len(tasks) == 0


async def test_an_unforeseen_failure_is_counted() -> None:
    _, tasks, counters = flights()

    async def broken() -> None:
        raise RuntimeError("a bug")

    tasks.spawn(broken(), name="broken")
    await tasks.drain(1)
    assert counters["background_failures"] == 1
