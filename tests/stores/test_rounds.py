"""Work that comes round again and again."""

from __future__ import annotations

import asyncio

from mirror.counters import Counters
from mirror.flight import Tasks
from mirror.stores.rounds import Rounds, heard


class Counted:
    """An action that counts its calls and can be waited for."""

    def __init__(self) -> None:
        self.calls = 0
        self.called = asyncio.Event()

    async def __call__(self) -> None:
        self.calls += 1
        self.called.set()


async def test_it_comes_round_until_it_is_stopped() -> None:
    tasks, action = Tasks(Counters()), Counted()
    rounds = Rounds(tasks, 0.001, action, "round")
    rounds.start()
    while action.calls < 3:
        await asyncio.sleep(0.001)
    rounds.stop()
    assert await tasks.drain(10) == 0
    calls = action.calls
    await asyncio.sleep(0.02)
    assert action.calls == calls


async def test_between_two_rounds_nobody_waits_for_it() -> None:
    tasks, action = Tasks(Counters()), Counted()
    rounds = Rounds(tasks, 3600, action, "round")
    rounds.start()
    assert await tasks.drain(10) == 0
    assert len(tasks) == 0
    rounds.stop()
    assert action.calls == 0


async def test_a_hurried_round_begins_at_once() -> None:
    tasks, action = Tasks(Counters()), Counted()
    rounds = Rounds(tasks, 3600, action, "round")
    rounds.start()
    rounds.hurry()
    await asyncio.wait_for(action.called.wait(), 60)
    assert await tasks.drain(10) == 0
    rounds.stop()
    rounds.hurry()
    await asyncio.sleep(0.01)
    assert action.calls == 1


async def test_heard_tells_whether_there_was_news() -> None:
    news = asyncio.Event()
    assert not await heard(news, 0.001)
    news.set()
    assert await heard(news, 60)
