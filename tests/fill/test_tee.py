"""A body given to the store beside its client: complete or not at all, and never at the client's cost for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.fill.tee import AT_ONCE, PATIENCE, QUEUE, Tees
from mirror.flight import Tasks
from mirror.model import ByteSource


class Sink:
    """Keeps what it is given, as a store does; reads on while `gate` is set."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refuses_after: int | None = None

    async def pour(self, size: int, body: ByteSource) -> None:
        taken = b""
        try:
            await self.gate.wait()
            async for piece in body:
                taken += piece
                if self.refuses_after is not None and len(taken) > self.refuses_after:
                    raise StoreFailure("write", "a", "full")
                await self.gate.wait()
            assert len(taken) == size
            self.bodies.append(taken)
        except Exception as e:
            self.failures.append(e)
            raise
        finally:
            await body.aclose()


class Bench:
    def __init__(self, patience: float = PATIENCE) -> None:
        self.counters = Counters()
        self.tasks = Tasks(self.counters)
        self.tees = Tees(self.tasks, self.counters, patience=patience)
        self.sink = Sink()

    async def ended(self) -> None:
        assert await self.tasks.drain(20) == 0


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.sink.gate.set()
    await bench.ended()
    assert bench.counters["background_failures"] == 0


@pytest.mark.parametrize("pieces", [[], [b"a"], [b"a" * QUEUE, b"b" * QUEUE, b"c"], [b"a" * 3 * QUEUE]])
async def test_all_that_was_given_arrives(bench: Bench, pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    tee = bench.tees.start("files/a", len(body), bench.sink.pour)
    assert tee is not None
    for piece in pieces:
        await tee.give(piece)
    tee.end()
    await bench.ended()
    assert bench.sink.bodies == [body]
    assert bench.counters["store_uploads_dropped"] == 0


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_body_that_ends_early_is_none(bench: Bench, hangs: bool) -> None:
    if hangs:
        bench.sink.gate.clear()
    tee = bench.tees.start("files/a", 10, bench.sink.pour)
    assert tee is not None
    await tee.give(b"123456789")
    tee.end()
    bench.sink.gate.set()
    await bench.ended()
    assert bench.sink.bodies == []
    assert [type(e) for e in bench.sink.failures] == [StoreFailure]
    assert bench.counters["store_uploads_dropped"] == 1


async def test_s2_a_slow_store_makes_the_client_wait_until_its_patience_ends() -> None:
    bench = Bench(patience=0)
    bench.sink.gate.clear()
    tee = bench.tees.start("files/a", 3 * QUEUE, bench.sink.pour)
    assert tee is not None
    await tee.give(b"a" * QUEUE)
    assert bench.counters["store_uploads_dropped"] == 0, "what the queue takes costs no patience"
    await tee.give(b"b" * QUEUE)
    assert bench.counters["store_uploads_dropped"] == 1
    await tee.give(b"c" * QUEUE)
    tee.end()
    bench.sink.gate.set()
    await bench.ended()
    assert bench.sink.bodies == []
    assert bench.counters["store_uploads_dropped"] == 1


async def test_a_store_that_goes_on_in_time_is_waited_for(bench: Bench) -> None:
    bench.sink.gate.clear()
    bench.tees._patience = 3600
    tee = bench.tees.start("files/a", 2 * QUEUE, bench.sink.pour)
    assert tee is not None
    await tee.give(b"a" * QUEUE)
    giving = asyncio.ensure_future(tee.give(b"b" * QUEUE))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not giving.done()
    bench.sink.gate.set()
    await giving
    tee.end()
    await bench.ended()
    assert bench.sink.bodies == [b"a" * QUEUE + b"b" * QUEUE]


async def test_a_store_that_refuses_in_the_middle_holds_nobody_up(bench: Bench) -> None:
    bench.tees._patience = 3600
    bench.sink.refuses_after = QUEUE
    tee = bench.tees.start("files/a", 9 * QUEUE, bench.sink.pour)
    assert tee is not None
    for _ in range(9):
        await tee.give(b"a" * QUEUE)
    tee.end()
    await bench.ended()
    assert bench.counters["store_uploads_dropped"] == 1


async def test_one_upload_for_each_file_and_few_at_a_time(bench: Bench) -> None:
    tees = [bench.tees.start(f"files/{n}", 1, bench.sink.pour) for n in range(AT_ONCE)]
    assert None not in tees
    assert bench.tees.start("files/0", 1, bench.sink.pour) is None
    assert bench.counters["store_uploads_dropped"] == 0
    assert bench.tees.start("files/x", 1, bench.sink.pour) is None
    assert bench.counters["store_uploads_dropped"] == 1
    for tee in tees:
        assert tee is not None
        await tee.give(b"a")
        tee.end()
    await bench.ended()
    again = bench.tees.start("files/0", 1, bench.sink.pour)
    assert again is not None
    await again.give(b"b")
    await bench.ended()
    assert bench.sink.bodies == [b"a"] * AT_ONCE + [b"b"]


async def test_p2_an_upload_that_is_cancelled_holds_nobody_up(bench: Bench) -> None:
    bench.tees._patience = 3600
    bench.sink.gate.clear()
    tee = bench.tees.start("files/a", 9 * QUEUE, bench.sink.pour)
    assert tee is not None
    await tee.give(b"a" * QUEUE)
    giving = asyncio.ensure_future(tee.give(b"b" * QUEUE))
    await asyncio.sleep(0)
    assert await bench.tasks.drain(0) == 1
    await giving
    tee.end()
