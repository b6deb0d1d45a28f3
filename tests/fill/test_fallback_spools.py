"""Spools on a disk that fills up: what is small goes on in memory, and is still downloaded once for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.counters import Counters
from mirror.model import WHOLE
from mirror.spool import FallbackSpools, MemorySpools
from tests.fill.downloads import LARGE, Downloads, ScriptedUpstream, ShortSpools, content, disk, file_of
from tests.support.descriptors import open_files

ROOM = 2 * LARGE


class Bench:
    def __init__(self, first: ShortSpools, second: MemorySpools) -> None:
        self.first, self.second, self.counters = first, second, Counters()
        self.spools = FallbackSpools(first, second, self.counters)
        self.upstream = ScriptedUpstream()
        self.downloads = Downloads(self.upstream, self.spools)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    before = open_files()
    async with disk(tmp_path / "spool") as inner:
        bench = Bench(ShortSpools(inner, -1), MemorySpools(ROOM))
        yield bench
        await bench.downloads.ended()
        bench.downloads.fills.close()
    assert bench.second._used == 0
    assert open_files() == before


@pytest.mark.parametrize("room", [-1, 0, 20_000, 500_000, LARGE - 1])
@pytest.mark.parametrize("sized", [True, False])
async def test_l1_a_full_disk_still_shares_downloads(bench: Bench, room: int, sized: bool) -> None:
    bench.first.room = room
    body = content(LARGE)
    file = file_of(bench.upstream, body, size=LARGE if sized else None)
    assert set(await asyncio.gather(*(bench.downloads.whole(file) for _ in range(20)))) == {body}
    await bench.downloads.ended()
    assert len(bench.upstream.spans) == 1
    assert bench.downloads.stored == {file.filename: body}
    assert bench.counters["fills_in_memory"] == 1
    assert bench.downloads.counters["fills_unspooled"] == 0


@pytest.mark.parametrize("room", [-1, 500_000])
async def test_l1_what_is_too_large_for_both_is_streamed(bench: Bench, room: int) -> None:
    bench.first.room = room
    body = content(ROOM + LARGE)
    file = file_of(bench.upstream, body)
    assert await bench.downloads.whole(file) == body
    await bench.downloads.ended()
    assert bench.downloads.counters["fills_unspooled"] == 1
    assert bench.downloads.stored == {}


async def test_a_disk_with_room_is_all_that_is_used(bench: Bench) -> None:
    bench.first.room = LARGE
    body = content(LARGE)
    file = file_of(bench.upstream, body)
    assert await bench.downloads.whole(file) == body
    await bench.downloads.ended()
    assert bench.counters["fills_in_memory"] == 0


async def test_readers_go_on_while_it_moves(bench: Bench) -> None:
    bench.first.room = 500_000
    body = content(LARGE)
    bench.upstream.gate = asyncio.Event()
    file = file_of(bench.upstream, body)
    fill, early = bench.downloads.join(file)
    begun = asyncio.ensure_future(early.begin(WHOLE))
    while not fill.have:
        await fill.news()
    bench.upstream.gate.set()
    await begun
    late = [asyncio.ensure_future(bench.downloads.whole(file)) for _ in range(5)]
    assert b"".join([piece async for piece in early]) == body
    assert set(await asyncio.gather(*late)) == {body}
    assert len(bench.upstream.spans) == 1


async def test_a_spool_is_read_after_it_moved_and_closed_once(bench: Bench) -> None:
    bench.first.room = 5
    spool = bench.spools.create(None)
    spool.append([b"abc", b"de"])
    file = spool.path
    assert file is not None
    spool.append([b"fgh"])
    assert not file.exists()
    assert (spool.size, spool.read(0, 100), spool.peek(4, 2)) == (8, b"abcdefgh", b"ef")
    bench.second.take(ROOM - 8)
    with pytest.raises(OSError, match="space"):
        spool.append([b"i"])
    assert spool.read(0, 100) == b"abcdefgh"
    bench.second.give_back(ROOM - 8)
    spool.close()
