"""Archives that only a remote store has: one read for all, verified, healed where they break off or are damaged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.adapters.memory_store import MemoryStore
from mirror.errors import IntegrityError, NoSuchFile, NotHeld, StoreFailure, UnsatisfiableSpan, UpstreamDown
from mirror.model import WHOLE, ByteStream, FileRef, LocalFile, Origin, Span
from mirror.repositories.files import SMALL
from mirror.verify import HOLD_BACK
from tests.repositories.remote import RemoteWorld, remote_world, taken
from tests.support.objects import body_of
from tests.support.packages import sdist, wheel

TINY = sdist("p", "0.1", blob=20_000)
ONE = sdist("p", "1.0", blob=300_000)
BIG = sdist("p", "2.0", blob=2_000_000)
assert len(TINY.content) < HOLD_BACK < len(ONE.content) < SMALL < len(BIG.content)


@pytest.fixture(params=["disk", "memory"])
async def w(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RemoteWorld]:
    async with remote_world(tmp_path if request.param == "disk" else None) as made:
        yield made


async def asked(w: RemoteWorld, count: int) -> None:
    """Returns once an archive was asked for so often."""
    while w.s3.asked < count:
        await asyncio.sleep(0)


async def joined(w: RemoteWorld, count: int) -> None:
    while w.counters["files_joined"] < count:
        await asyncio.sleep(0)


# --- one read for all ----------------------------------------------------------------------------


@pytest.mark.parametrize("gated", [False, True])
async def test_p7_many_clients_one_read_of_the_store(w: RemoteWorld, gated: bool) -> None:
    file = await w.only_stored(BIG)
    if gated:
        w.s3.open_gate = asyncio.Event()
    clients = [asyncio.ensure_future(w.get(file)) for _ in range(64)]
    if gated:
        await asked(w, 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert w.s3.open_gate is not None
        w.s3.open_gate.set()
    assert set(await asyncio.gather(*clients)) == {BIG.content}
    assert w.s3.opened == [WHOLE]
    assert w.upstream_calls("file:") == 0
    assert w.counters["files_store"] == 64
    await w.settle()
    assert w.s3.opened == [WHOLE], "nothing is read again to be remembered"


async def test_p7_many_clients_of_a_cold_file_one_miss_one_download(w: RemoteWorld) -> None:
    file = await w.published(BIG)
    assert set(await asyncio.gather(*(w.get(file) for _ in range(100)))) == {BIG.content}
    await w.settle()
    assert w.s3.opened == [WHOLE]
    assert w.upstream_calls("file:") == 1
    assert await w.stored(file) == BIG.content
    assert w.counters["files_upstream"] == 100


async def test_who_comes_while_the_file_arrives_asks_nobody(w: RemoteWorld) -> None:
    file = await w.only_stored(BIG)
    w.s3.body_gate = asyncio.Event()
    first = asyncio.ensure_future(w.get(file))
    await asked(w, 1)
    late = [asyncio.ensure_future(w.get(file, span)) for span in (WHOLE, Span(0), Span(0, 99), Span(100_000, 199_999))]
    await joined(w, 4)
    w.s3.body_gate.set()
    assert await first == BIG.content
    assert await asyncio.gather(*late) == [
        BIG.content, BIG.content, BIG.content[:100], BIG.content[100_000:200_000]
    ]  # fmt: skip
    assert w.s3.opened == [WHOLE]


async def test_p4_the_client_that_asks_the_store_leaves(w: RemoteWorld) -> None:
    file = await w.only_stored(ONE)
    w.s3.open_gate = asyncio.Event()
    leaver = asyncio.ensure_future(w.get(file))
    await asked(w, 1)
    stayers = [asyncio.ensure_future(w.get(file)) for _ in range(20)]
    for _ in range(20):
        await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.wait([leaver])
    await asked(w, 2)
    w.s3.open_gate.set()
    assert set(await asyncio.gather(*stayers)) == {ONE.content}
    assert w.s3.opened == [WHOLE]


async def test_s1_a_store_that_cannot_be_read_costs_one_try_for_all(w: RemoteWorld) -> None:
    file = await w.only_stored(ONE)
    w.s3.refuses_reads = True
    w.s3.open_gate = asyncio.Event()
    clients = [asyncio.ensure_future(w.get(file)) for _ in range(20)]
    await asked(w, 1)
    w.s3.open_gate.set()
    assert set(await asyncio.gather(*clients)) == {ONE.content}
    assert len(w.s3.opened) == 1
    assert w.upstream_calls("file:") == 1


async def test_s1_offline_a_store_that_cannot_be_read_is_no_404(w: RemoteWorld) -> None:
    file = await w.only_stored(ONE)
    await w.restart(offline=True)
    w.s3.refuses_reads = True
    outcomes = await asyncio.gather(*(w.get(file) for _ in range(5)), return_exceptions=True)
    assert {type(o) for o in outcomes} == {StoreFailure}
    w.s3.refuses_reads = False
    assert await w.get(file) == ONE.content


async def test_offline_what_the_store_lacks_is_asked_for_once(w: RemoteWorld) -> None:
    file = await w.published(ONE)
    await w.restart(offline=True)
    w.s3.open_gate = asyncio.Event()
    clients = [asyncio.ensure_future(w.get(file)) for _ in range(20)]
    await asked(w, 1)
    for _ in range(50):
        await asyncio.sleep(0)
    w.s3.open_gate.set()
    outcomes = await asyncio.gather(*clients, return_exceptions=True)
    assert {type(o) for o in outcomes} == {NotHeld}
    assert len(w.s3.opened) == 1


async def test_a_withdrawn_file_is_read_from_the_store_alone(w: RemoteWorld) -> None:
    file, gone = await w.only_stored(ONE), await w.published(TINY)
    w.upstream.withdraw("p", file.filename)
    w.upstream.withdraw("p", gone.filename)
    w.clock.advance(1000)
    await w.page()
    assert await w.get(file) == ONE.content
    with pytest.raises(NoSuchFile):
        await w.get(gone)
    assert w.upstream_calls("file:") == 0


# --- bodies that break off -----------------------------------------------------------------------


async def test_s6_a_body_that_breaks_off_goes_on_by_range(w: RemoteWorld) -> None:
    file = await w.only_stored(BIG)
    w.s3.breaks = [1_000_001]
    assert set(await asyncio.gather(*(w.get(file) for _ in range(5)))) == {BIG.content}
    assert w.s3.opened == [WHOLE, Span(first=1_000_001)]
    assert w.upstream_calls("file:") == 0
    assert w.counters["store_failures"] == 1


async def test_s6_a_body_that_breaks_off_again_goes_on_from_upstream(w: RemoteWorld) -> None:
    file = await w.only_stored(BIG)
    w.s3.breaks = [500_000, 100_000]
    assert set(await asyncio.gather(*(w.get(file) for _ in range(5)))) == {BIG.content}
    assert w.s3.opened == [WHOLE, Span(first=500_000)]
    assert w.upstream_calls("file:") == 1
    assert w.counters["store_failures"] == 2
    await w.settle()
    assert w.s3.quarantined() == []


@pytest.mark.parametrize("how", ["refuses", "vanished"])
async def test_s6_a_store_that_goes_away_in_the_middle(w: RemoteWorld, how: str) -> None:
    file = await w.only_stored(BIG)
    w.s3.breaks = [500_000]
    w.s3.body_gate = asyncio.Event()
    client = asyncio.ensure_future(w.get(file))
    await asked(w, 1)
    if how == "refuses":
        w.s3.refuses_reads = True
    else:
        await w.s3.delete(w.key(file))
    w.s3.body_gate.set()
    assert await client == BIG.content
    await w.settle()
    assert await w.stored(file) == BIG.content, "what has vanished is stored anew"


async def test_s6_at_the_first_byte(w: RemoteWorld) -> None:
    file = await w.only_stored(ONE)
    w.s3.breaks = [0, 0]
    content = await w.repository.open_file(FileRef(file.path))
    assert content.origin is Origin.UPSTREAM
    assert await body_of(content) == ONE.content


async def test_s6_neither_store_nor_upstream(w: RemoteWorld) -> None:
    file = await w.only_stored(BIG)
    w.s3.breaks = [500_000, 100_000]
    content = await w.repository.open_file(FileRef(file.path))
    with w.upstream.failing():
        received, failure = await taken(content)
    assert isinstance(failure, UpstreamDown)
    assert BIG.content.startswith(received)
    assert len(received) <= 600_000
    assert await w.get(file) == BIG.content


async def test_s6_upstream_that_has_it_no_more_is_no_404(w: RemoteWorld) -> None:
    file = await w.only_stored(TINY)
    w.s3.breaks = [0, 0]
    del w.upstream.files[file.url]
    with pytest.raises(StoreFailure):
        await w.get(file)


async def test_s6_offline_the_store_is_tried_again(w: RemoteWorld) -> None:
    file = await w.only_stored(BIG)
    await w.restart(offline=True)
    w.s3.breaks = [500_000, 500_000]
    assert await w.get(file) == BIG.content
    await w.settle()
    w.s3.breaks = [10_000] * 3
    w.s3.opened.clear()
    with pytest.raises(StoreFailure):
        await w.get(file)
    assert len(w.s3.opened) == 3


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("quarantine", [True, False])
async def test_s6_damage_of_a_small_file_is_healed_unseen(w: RemoteWorld, quarantine: bool) -> None:
    file = await w.only_stored(TINY)
    damaged = await w.damage(file)
    w.s3.refuses_quarantine = not quarantine
    assert set(await asyncio.gather(*(w.get(file) for _ in range(20)))) == {TINY.content}
    await w.settle()
    assert w.counters["store_quarantined"] == 1
    assert w.s3.quarantined() == ([damaged] if quarantine else [])
    assert await w.stored(file) == TINY.content
    assert w.s3.opened == [WHOLE]
    assert w.upstream_calls("file:") == 1
    await w.restart()
    assert await w.get(file) == TINY.content
    assert w.upstream_calls("file:") == 1


@pytest.mark.parametrize("quarantine", [True, False])
async def test_s6_damage_of_a_large_file_breaks_off_and_the_next_request_heals(
    w: RemoteWorld, quarantine: bool
) -> None:
    file = await w.only_stored(BIG)
    await w.damage(file)
    w.s3.refuses_quarantine = not quarantine
    contents = await asyncio.gather(*(w.repository.open_file(FileRef(file.path)) for _ in range(5)))
    for received, failure in await asyncio.gather(*(taken(c) for c in contents)):
        assert isinstance(failure, IntegrityError)
        assert len(received) <= len(BIG.content) - HOLD_BACK
    assert await w.get(file) == BIG.content
    await w.settle()
    assert await w.stored(file) == BIG.content
    assert w.upstream_calls("file:") == 1
    assert w.counters["store_quarantined"] == 1
    await w.restart()
    assert await w.get(file) == BIG.content
    assert w.upstream_calls("file:") == 1


async def test_s6_a_store_that_takes_no_writes_is_not_read_damaged_twice(w: RemoteWorld) -> None:
    file = await w.only_stored(TINY)
    await w.damage(file)
    w.s3.refuses_quarantine = w.s3.refuses_writes = True
    for _ in range(3):
        assert await w.get(file) == TINY.content
        await w.settle()
    assert w.s3.opened == [WHOLE]
    w.s3.refuses_writes = False
    assert await w.get(file) == TINY.content
    await w.settle()
    upstream = w.upstream_calls("file:")
    assert await w.get(file) == TINY.content
    assert w.upstream_calls("file:") == upstream, "the store has sound bytes now, and they are read"


async def test_s6_damage_in_a_body_that_upstream_completed_accuses_nobody_but_heals(w: RemoteWorld) -> None:
    file = await w.only_stored(BIG)
    await w.damage(file, at=10)
    w.s3.breaks = [500_000, 100_000]
    content = await w.repository.open_file(FileRef(file.path))
    _, failure = await taken(content)
    assert isinstance(failure, IntegrityError)
    await w.settle()
    assert (w.counters["store_quarantined"], w.counters["integrity_failures"]) == (0, 1)
    assert await w.get(file) == BIG.content
    await w.settle()
    assert await w.stored(file) == BIG.content


@pytest.mark.parametrize("change", [b"", TINY.content[:-1], TINY.content + b"x"], ids=["empty", "short", "long"])
@pytest.mark.parametrize("size_known", [True, False])
async def test_s6_wrong_length(w: RemoteWorld, change: bytes, size_known: bool) -> None:
    file = await w.only_stored(TINY, **({} if size_known else {"size": None}))
    await MemoryStore.put(w.s3, w.key(file), change)
    assert await w.get(file) == TINY.content
    await w.settle()
    assert await w.stored(file) == TINY.content
    assert w.s3.quarantined() == [change]


async def test_s6_offline_damage_is_not_served(w: RemoteWorld) -> None:
    file, large = await w.only_stored(TINY), await w.only_stored(BIG)
    await w.damage(file)
    await w.damage(large)
    await w.restart(offline=True)
    with pytest.raises(NotHeld):
        await w.get(file)
    with pytest.raises(IntegrityError):
        await w.get(large)
    with pytest.raises(NotHeld):
        await w.get(large)
    assert w.upstream_calls("file:") == 0


# --- ranges and heads ----------------------------------------------------------------------------


@pytest.mark.parametrize("span", [Span(0, 0), Span(1000, 70_000), Span(150_000), Span(suffix=100)], ids=str)
async def test_a_range_of_a_small_file_brings_the_whole(w: RemoteWorld, span: Span) -> None:
    file = await w.only_stored(ONE)
    start, stop = span.resolve(len(ONE.content))
    content = await w.repository.open_file(FileRef(file.path), span)
    assert (content.start, content.stop, content.origin) == (start, stop, Origin.STORE)
    assert await body_of(content) == ONE.content[start:stop]
    assert w.s3.opened == [WHOLE]


@pytest.mark.parametrize("size_known", [True, False])
async def test_a_range_of_a_large_file_is_passed_through(w: RemoteWorld, size_known: bool) -> None:
    file = await w.only_stored(BIG, **({} if size_known else {"size": None}))
    span = Span(1_500_000, 1_500_099)
    assert await w.get(file, span) == BIG.content[1_500_000:1_500_100]
    assert w.s3.opened == [span]
    assert w.upstream_calls("file:") == 0


async def test_an_impossible_range_costs_nothing(w: RemoteWorld) -> None:
    for archive in (ONE, BIG):
        file = await w.only_stored(archive)
        for span in (Span(10**9), Span(suffix=0)):
            with pytest.raises(UnsatisfiableSpan):
                await w.get(file, span)
    unknown = await w.only_stored(TINY, size=None)
    with pytest.raises(UnsatisfiableSpan):
        await w.get(unknown, Span(10**9))
    assert w.s3.opened == [Span(10**9)] or all(not s.is_whole for s in w.s3.opened)
    assert w.s3.quarantined() == []


async def test_a_head_reads_no_body(w: RemoteWorld) -> None:
    known, unknown = await w.only_stored(ONE), await w.only_stored(BIG, size=None)
    assert (await w.repository.file_facts(FileRef(known.path))).size == len(ONE.content)
    assert w.s3.opened == []
    for _ in range(3):
        assert (await w.repository.file_facts(FileRef(unknown.path))).size == len(BIG.content)
    assert w.s3.opened == [Span(0, 0)]
    await w.restart(offline=True)
    facts = await w.repository.file_facts(FileRef(known.path))
    assert (facts.size, facts.origin) == (len(ONE.content), Origin.STORE)
    assert w.s3.opened == [Span(0, 0)] * 2
    await w.s3.delete(w.key(known))
    with pytest.raises(NotHeld):
        await w.repository.file_facts(FileRef(known.path))


async def test_metadata_of_a_stored_wheel_is_read_by_ranges(w: RemoteWorld) -> None:
    archive = wheel("p", "1.0")
    file = await w.only_stored(archive, core_metadata=True)
    del w.upstream.files[file.url]
    assert b"Name: p" in await w.metadata(file)
    assert all(not s.is_whole for s in w.s3.opened)


# --- copies on this machine ----------------------------------------------------------------------


async def test_what_was_read_is_kept_nearer_and_not_hashed_again(tmp_path: Path) -> None:
    async with remote_world(tmp_path, near=True) as w:
        file, cold = await w.only_stored(BIG), await w.published(ONE)
        for each, archive in ((file, BIG), (cold, ONE)):
            assert await w.get(each) == archive.content
        await w.settle()
        assert w.s3.opened == [WHOLE, WHOLE]
        contents = await asyncio.gather(*(w.repository.open_file(FileRef(file.path)) for _ in range(10)))
        for content in contents:
            assert isinstance(content, LocalFile)
            assert content.origin is Origin.CACHE
            assert await body_of(content) == BIG.content
        assert await w.get(cold, Span(10, 19)) == ONE.content[10:20]
        assert len(w.s3.opened) == 2
        assert w.counters["files_cache"] == 11
        with pytest.raises(UnsatisfiableSpan):
            await w.get(cold, Span(10**9))


async def test_l7_a_damaged_copy_is_replaced_from_the_store(tmp_path: Path) -> None:
    async with remote_world(tmp_path, near=True) as w:
        for archive in (TINY, BIG):
            file = await w.only_stored(archive)
            await w.get(file)
            await w.settle()
            copy = w.s3.copy(w.key(file))
            assert copy is not None
            for damage in (archive.content[:-1] + b"x" * 2, b"", archive.content[:-1]):
                copy.unlink()
                copy.write_bytes(damage)
                parts = await asyncio.gather(
                    *(w.get(file, span) for span in (WHOLE, WHOLE, Span(5, 9), Span(len(archive.content) - 5)))
                )
                assert parts == [archive.content, archive.content, archive.content[5:10], archive.content[-5:]]
                await w.settle()
                if not copy.exists():  # all were answered by range, or joined what was under way
                    assert await w.get(file) == archive.content
                    await w.settle()
                assert copy.read_bytes() == archive.content
            assert await w.stored(file) == archive.content
            assert w.s3.quarantined() == []
        assert w.upstream_calls("file:") == 0


async def test_f04_a_store_that_refuses_the_write_is_given_it_by_the_next_request(w: RemoteWorld) -> None:
    file = w.publish(ONE)
    w.s3.refuses_writes = True
    assert await w.get(file) == ONE.content
    await w.settle()
    assert await w.stored(file) is None
    w.s3.refuses_writes = False
    assert await w.get(file) == ONE.content
    await w.settle()
    assert await w.stored(file) == ONE.content


async def test_p3_content_that_is_dropped_unread_leaves_nothing_open(w: RemoteWorld) -> None:
    for file in (await w.only_stored(ONE), await w.only_stored(BIG)):
        for span in (WHOLE, Span(1_500_000) if file.size and file.size > SMALL else Span(10)):
            content = await w.repository.open_file(FileRef(file.path), span)
            assert isinstance(content, ByteStream)
            await content.aclose()
        await w.settle()
