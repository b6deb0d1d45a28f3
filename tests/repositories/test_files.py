"""Archives: found by path, verified in the store, fetched where they are not held, in whole and in part."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import (
    IntegrityError,
    NoSuchFile,
    NotHeld,
    UnsatisfiableSpan,
    UpstreamDown,
)
from mirror.model import WHOLE, ByteStream, File, FileRef, LocalFile, Origin, Span, UpstreamStream
from mirror.names import archive_key
from mirror.repositories.content import close
from mirror.repositories.files import SMALL
from tests.repositories.world import P, World, rewrite, world
from tests.support.objects import body_of
from tests.support.packages import sdist, wheel

ONE = sdist("p", "1.0", blob=200_000)
BIG = sdist("p", "2.0", blob=2_000_000)
SPANS = [WHOLE, Span(0), Span(0, 0), Span(1000, 70_000), Span(150_000), Span(suffix=100), Span(5, 10**9)]


async def held(w: World, archive: object = ONE) -> File:
    file = w.publish(archive)  # type: ignore[arg-type]
    await w.page()
    await w.get(file)
    await w.settle()
    return file


async def test_an_archive_is_fetched_once_and_served_from_the_store(any_world: World) -> None:
    w = any_world
    file = w.publish(ONE)
    assert set(await asyncio.gather(*(w.get(file) for _ in range(20)))) == {ONE.content}
    await w.settle()
    content = await w.repository.open_file(FileRef(file.path))
    assert content.origin is Origin.STORE
    assert content.digest == file.digest
    assert await body_of(content) == ONE.content
    assert w.upstream_calls("file:") == 1
    await w.restart()
    with w.upstream.failing():
        assert await w.get(file) == ONE.content


async def test_a_lock_file_names_a_file_whose_page_was_never_read(any_world: World) -> None:
    w = any_world
    file = w.publish(ONE)
    assert await w.get(file) == ONE.content


async def test_a_lock_file_names_a_file_that_is_newer_than_the_page(any_world: World) -> None:
    w = any_world
    await held(w)
    newer = w.publish(BIG)
    with pytest.raises(NoSuchFile):
        await w.get(newer)
    w.clock.advance(31)
    assert await w.get(newer) == BIG.content


async def test_an_unknown_path_is_404_without_amplification(any_world: World) -> None:
    w = any_world
    await held(w)
    asked = sum(w.upstream.calls.values())
    for n in range(20):
        with pytest.raises(NoSuchFile):
            await w.repository.open_file(FileRef(f"packages/{n}/p-1.0.tar.gz"))
    assert sum(w.upstream.calls.values()) == asked
    for _ in range(20):
        with pytest.raises(NoSuchFile):
            await w.repository.open_file(FileRef("packages/x/other-1.0.tar.gz"))
    assert sum(w.upstream.calls.values()) == asked + 1


async def test_503_where_a_page_that_might_name_the_file_cannot_be_read(any_world: World) -> None:
    w = any_world
    file = w.publish(ONE)
    with w.upstream.failing(), pytest.raises(UpstreamDown):
        await w.get(file)
    await w.page()
    w.clock.advance(31)
    newer = w.publish(BIG)
    with w.upstream.failing(), pytest.raises(UpstreamDown):
        await w.get(newer)  # the page that is held does not name it, but that is no proof


async def test_offline_what_is_not_held_is_not_held(any_world: World) -> None:
    w = any_world
    file = await held(w)
    other = w.publish(BIG)
    w.clock.advance(1000)
    await w.page()
    await w.restart(offline=True)
    asked = sum(w.upstream.calls.values())
    assert await w.get(file) == ONE.content
    with pytest.raises(NotHeld):
        await w.get(other)
    with pytest.raises(NotHeld):
        await w.repository.file_facts(FileRef(other.path))
    assert sum(w.upstream.calls.values()) == asked


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "longer"])
@pytest.mark.parametrize("span", [WHOLE, Span(1000, 70_000), Span(150_000)], ids=str)
@pytest.mark.parametrize("size_known", [True, False])
async def test_l7_a_damaged_archive_is_quarantined_and_fetched_anew(
    disk_world: World, damage: str, span: Span, size_known: bool
) -> None:
    w = disk_world
    file = w.publish(ONE) if size_known else w.publish(ONE, size=None)
    await w.get(file)
    await w.settle()
    body = ONE.content
    damaged = {
        "flip": body[:70] + bytes([body[70] ^ 4]) + body[71:],
        "truncate": body[:140_000],
        "empty": b"",
        "longer": body + b"x",
    }
    rewrite(w.archive_on_disk(file), damaged[damage])
    await w.restart()
    start, stop = span.resolve(len(body))
    parts = await asyncio.gather(*(w.get(file, span) for _ in range(10)))
    assert set(parts) == {body[start:stop]}
    await w.settle()
    assert w.counters["store_quarantined"] == 1
    assert await w.get(file) == body
    assert w.root is not None
    kept = [p for p in (w.root / "quarantine").rglob("*") if p.is_file()]
    assert [p.read_bytes() for p in kept] == [damaged[damage]]
    if span.is_whole:
        assert w.upstream_calls("file:") == 2


async def test_l7_a_span_past_the_end_of_a_sound_archive(any_world: World) -> None:
    w = any_world
    file = await held(w)
    with pytest.raises(UnsatisfiableSpan) as refused:
        await w.get(file, Span(len(ONE.content)))
    assert refused.value.size == len(ONE.content)
    assert w.counters["store_quarantined"] == 0


async def test_l7_a_store_of_streams_is_checked_on_the_way(any_world: World) -> None:
    w = any_world
    file = await held(w)
    key = archive_key("memory", P, file.filename)
    await w.store.put(key, ONE.content[:-1] + bytes([ONE.content[-1] ^ 1]))
    content = await w.repository.open_file(FileRef(file.path))
    if isinstance(content, ByteStream) and content.origin is Origin.STORE:
        with pytest.raises(IntegrityError):
            await body_of(content)
    else:
        assert await body_of(content) == ONE.content
    await w.settle()
    assert w.counters["store_quarantined"] == 1
    assert await w.get(file) == ONE.content


async def test_an_archive_is_verified_once_for_each_process(disk_world: World) -> None:
    w = disk_world
    file = await held(w)
    passed = w.repository._files._archives._proofs.passed
    assert len(passed) == 1, "what was verified on its way is not hashed again"
    await w.restart()
    passed = w.repository._files._archives._proofs.passed
    assert len(passed) == 0
    await asyncio.gather(*(w.get(file) for _ in range(10)))
    assert len(passed) == 1


@pytest.mark.parametrize("steps", range(1, 14))
async def test_a_client_that_leaves_while_an_archive_is_verified(disk_world: World, steps: int) -> None:
    w = disk_world
    file = await held(w)
    await w.restart()
    await w.page()
    leaver = asyncio.ensure_future(w.repository.open_file(FileRef(file.path)))
    stayer = asyncio.ensure_future(w.get(file))
    for _ in range(steps):
        await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.wait([leaver])
    if not leaver.cancelled():
        await body_of(leaver.result())
    assert await stayer == ONE.content


@pytest.mark.parametrize("span", SPANS, ids=str)
@pytest.mark.parametrize("archive", [ONE, BIG], ids=["small", "big"])
async def test_p12_ranges_held_and_not_held(any_world: World, span: Span, archive: object) -> None:
    w = any_world
    body = archive.content  # type: ignore[attr-defined]
    file = w.publish(archive)  # type: ignore[arg-type]
    start, stop = span.resolve(len(body))
    content = await w.repository.open_file(FileRef(file.path), span)
    assert (content.size, content.start, content.stop) == (len(body), start, stop)
    assert await body_of(content) == body[start:stop]
    await w.get(file)
    await w.settle()
    content = await w.repository.open_file(FileRef(file.path), span)
    assert (content.size, content.start, content.stop, content.origin) == (len(body), start, stop, Origin.STORE)
    assert await body_of(content) == body[start:stop]


async def test_p12_impossible_ranges_cost_no_download(any_world: World) -> None:
    w = any_world
    small, big = w.publish(ONE), w.publish(BIG, size=None)
    for file in (small, big):
        for span in (Span(10**8), Span(suffix=0)):
            with pytest.raises(UnsatisfiableSpan):
                await w.get(file, span)
    assert w.upstream_calls(f"file:{small.url}") == 0
    await w.settle()
    content = await w.repository.open_file(FileRef(big.path))
    assert content.origin is Origin.UPSTREAM
    await content.aclose()  # type: ignore[union-attr]


async def test_a_range_of_a_large_file_is_passed_through(any_world: World) -> None:
    w = any_world
    file = w.publish(BIG)
    assert len(BIG.content) > SMALL
    assert await w.get(file, Span(1_500_000, 1_500_099)) == BIG.content[1_500_000:1_500_100]
    await w.settle()
    assert (await w.repository.open_file(FileRef(file.path), Span(7, 8))).origin is Origin.UPSTREAM


async def test_p6_ranges_of_clients_that_do_not_read_keep_few_connections(tmp_path: Path) -> None:
    async with world(tmp_path, pass_through=2) as w:
        file, other = w.publish(BIG), w.publish(sdist("p", "3.0", blob=2_000_000))
        idle = [await w.repository.open_file(FileRef(file.path), Span(1_500_000, 1_600_000)) for _ in range(2)]
        assert await w.get(file, Span(1_500_000, 1_500_099)) == BIG.content[1_500_000:1_500_100]
        await w.settle()
        content = await w.repository.open_file(FileRef(file.path))
        assert content.origin is Origin.STORE, "the third range was answered out of a download"
        await asyncio.gather(*(close(each) for each in [*idle, content]))
        for _ in range(9):
            await w.get(other, Span(1_500_000, 1_500_099))
        with pytest.raises(NoSuchFile), w.upstream.failing(NoSuchFile(other.filename)):
            await w.get(other, Span(1_500_000, 1_500_099))
        await w.settle()
        assert (await w.repository.open_file(FileRef(other.path), Span(7, 8))).origin is Origin.UPSTREAM


async def test_a_range_near_a_running_download_joins_it(any_world: World) -> None:
    w = any_world
    file = w.publish(BIG)
    w.upstream.gate = asyncio.Event()
    whole = asyncio.ensure_future(w.get(file))
    while not w.upstream_calls("file:"):
        await asyncio.sleep(0.001)
    part = asyncio.ensure_future(w.get(file, Span(100_000, 199_999)))
    while not w.counters["files_joined"] and w.upstream_calls("file:") == 1:
        await asyncio.sleep(0.001)
    w.upstream.gate.set()
    assert await part == BIG.content[100_000:200_000]
    assert await whole == BIG.content
    assert w.upstream_calls("file:") == 1


@pytest.mark.parametrize("span", [Span(0, 10**9), Span(suffix=10**9), Span(0, len(BIG.content) - 1)])
@pytest.mark.parametrize("size", [len(BIG.content), None])
async def test_u12_the_whole_as_a_range_is_verified_too(any_world: World, span: Span, size: int | None) -> None:
    w = any_world
    file = w.publish(BIG, size=size)
    w.upstream.files[file.url] = BIG.content[:-1] + bytes([BIG.content[-1] ^ 1])
    with pytest.raises(IntegrityError):
        await w.get(file, span)


async def test_an_impossible_range_of_an_upstream_without_ranges_leaves_nothing_open(any_world: World) -> None:
    w = any_world
    w.upstream.has_ranges = False
    file = w.publish(BIG, size=None)
    opened: list[UpstreamStream] = []
    fetch = w.upstream.fetch_file

    async def noting(*args: Any, **kwargs: Any) -> UpstreamStream:
        opened.append(await fetch(*args, **kwargs))
        return opened[-1]

    w.upstream.fetch_file = noting  # type: ignore[method-assign]
    with pytest.raises(UnsatisfiableSpan):
        await w.get(file, Span(first=10**9))
    assert len(opened) == 1
    assert [piece async for piece in opened[0].body] == [], "it has been closed"


@pytest.mark.parametrize("ask", ["head", "range"])
async def test_a_portals_length_is_not_held_against_the_file(any_world: World, ask: str) -> None:
    w = any_world
    file = w.publish(BIG, size=None)
    w.upstream.files[file.url] = b"<html>Please log in</html>" * 100
    if ask == "head":
        await w.repository.file_facts(FileRef(file.path))
    else:
        await w.get(file, Span(0, 9))
    await w.settle()
    w.upstream.files[file.url] = BIG.content
    assert await w.get(file) == BIG.content
    await w.restart()
    assert (await w.repository.file_facts(FileRef(file.path))).size == len(BIG.content)


async def test_ranges_of_an_upstream_without_ranges(any_world: World) -> None:
    w = any_world
    w.upstream.has_ranges = False
    file = w.publish(BIG)
    assert await w.get(file, Span(1_500_000, 1_500_099)) == BIG.content[1_500_000:1_500_100]


async def test_head_downloads_nothing(any_world: World) -> None:
    w = any_world
    known, unknown = w.publish(ONE), w.publish(BIG, size=None)
    assert (await w.repository.file_facts(FileRef(known.path))).size == len(ONE.content)
    for _ in range(3):
        facts = await w.repository.file_facts(FileRef(unknown.path))
        assert (facts.size, facts.digest) == (len(BIG.content), unknown.digest)
        await w.settle()
    assert w.upstream_calls("file:") == 0
    assert w.upstream_calls("size:") == 1, "the size is remembered"
    assert (await w.entry(BIG.filename)).size is None, "only the whole file proves a size"


async def test_head_of_a_file_of_which_nobody_knows_the_size(any_world: World) -> None:
    w = any_world
    w.upstream.has_sizes = False
    file = w.publish(ONE, size=None)
    assert (await w.repository.file_facts(FileRef(file.path))).size == len(ONE.content)
    await w.settle()
    assert await w.get(file) == ONE.content
    assert (await w.entry(ONE.filename)).size == len(ONE.content)
    assert w.upstream_calls("file:") == 1


async def test_head_of_a_held_file(any_world: World) -> None:
    w = any_world
    file = await held(w)
    facts = await w.repository.file_facts(FileRef(file.path))
    assert (facts.size, facts.origin) == (len(ONE.content), Origin.STORE)


@pytest.mark.parametrize("size", [20_000, 500_000])
async def test_u12_bytes_damaged_in_upstreams_cache_are_asked_for_past_it(tmp_path: Path, size: int) -> None:
    async with world(tmp_path) as w:
        archive = sdist("p", "1.0", blob=size)
        file = w.publish(archive)
        w.upstream.cached[file.url] = archive.content[:-1] + bytes([archive.content[-1] ^ 1])
        outcomes = await asyncio.gather(*(w.get(file) for _ in range(10)), return_exceptions=True)
        if size < 65_536:
            assert set(outcomes) == {archive.content}
            assert w.upstream.bypassed == [False, True]
        else:
            assert {type(o) for o in outcomes} == {IntegrityError}, "bytes had gone out"
        assert w.counters["integrity_failures"] == 1


async def test_u12_wrong_bytes_twice_are_a_failure_and_not_kept(any_world: World) -> None:
    w = any_world
    file = w.publish(wheel("p", "1.0"))
    w.upstream.files[file.url] = b"x" * len(wheel("p", "1.0").content)
    with pytest.raises(IntegrityError):
        await w.get(file)
    await w.settle()
    assert w.counters["integrity_failures"] == 2
    assert w.upstream_calls("file:") == 2
    assert await w.store.open(archive_key("memory", P, file.filename)) is None


@pytest.mark.parametrize("keep", [True, False])
async def test_a_file_without_strong_digest_is_kept_by_setting_only(tmp_path: Path, keep: bool) -> None:
    async with world(tmp_path, keep_unverified=keep) as w:
        file = w.publish(wheel("p", "1.0"), hashes={}, size=None)
        for _ in range(2):
            assert await w.get(file) == wheel("p", "1.0").content
            await w.settle()
        assert w.upstream_calls("file:") == (1 if keep else 2)


async def test_s_a_store_that_refuses_does_not_hurt_the_client(any_world: World) -> None:
    w = any_world
    file = w.publish(ONE)
    w.store.writes = False
    assert await w.get(file) == ONE.content
    await w.settle()
    assert w.counters["store_failures"] >= 1
    w.store.writes = True
    assert await w.get(file) == ONE.content
    await w.settle()
    assert (await w.repository.file_facts(FileRef(file.path))).origin is Origin.STORE


async def test_s15_an_archive_deleted_behind_us_is_fetched_anew(disk_world: World) -> None:
    w = disk_world
    file = await held(w)
    os.unlink(w.archive_on_disk(file))
    assert await w.get(file) == ONE.content
    assert w.upstream_calls("file:") == 2


async def test_content_that_is_dropped_unread_leaves_nothing_open(any_world: World) -> None:
    w = any_world
    for file in (w.publish(ONE), w.publish(BIG)):
        for _ in range(2):
            for span in (WHOLE, Span(1_500_000 if file.size and file.size > SMALL else 10)):
                content = await w.repository.open_file(FileRef(file.path), span)
                if isinstance(content, LocalFile):
                    content.close()
                else:
                    await content.aclose()
            await w.settle()


async def test_a_part_of_a_small_file_is_not_complete_before_the_whole_has_passed(any_world: World) -> None:
    w = any_world
    file = w.publish(wheel("p", "1.0", blob=200_000))
    body = bytearray(w.upstream.files[file.url])
    body[100] ^= 1
    w.upstream.files[file.url] = bytes(body)
    with pytest.raises(IntegrityError):
        await w.repository.open_file(FileRef(file.path), Span(100, 100))
