"""Project pages by freshness, over failures of upstream and of the store, and what is learnt of their files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from mirror.errors import NoSuchFile, NoSuchProject, NotHeld, StoreFailure, UpstreamDown, UpstreamMisbehaved
from mirror.freshness import Lifetime
from mirror.model import FileRef, Learned, NotModified, Origin, PageDocument, Validator
from mirror.names import ProjectName, page_key, project_name
from mirror.repositories import entries, stored_pages
from mirror.repositories import pages as pages_module
from mirror.repositories.envelope import DamagedDocument, pack, unpack
from mirror.repositories.pages import Pages
from mirror.simple.links import SourcePaths
from tests.repositories.world import LIFE, P, World, rewrite, serial_page, world
from tests.support.packages import sdist, wheel

ONE = sdist("p", "1.0")
TWO = sdist("p", "2.0")


def names(files: object) -> list[str]:
    return [f.filename for f in files]  # type: ignore[attr-defined]


async def test_fresh_pages_cost_one_request(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    answers = await asyncio.gather(*(w.page() for _ in range(50)))
    assert {a.origin for a in answers} == {Origin.UPSTREAM}
    assert w.upstream.calls["page:p"] == 1
    w.clock.advance(599)
    again = await w.page()
    assert (again.origin, again.stale, again.max_age) == (Origin.MEMORY, False, 1)
    assert w.upstream.calls["page:p"] == 1


async def test_stale_pages_are_served_and_revalidated_behind(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    await w.page()
    w.publish(TWO)
    w.clock.advance(700)
    stale = await w.page()
    assert (names(stale.page.files), stale.stale, stale.max_age) == ([ONE.filename], True, 0)
    await w.settle()
    assert names((await w.page()).page.files) == [ONE.filename, TWO.filename]
    assert w.counters["pages_stale"] == 1


async def test_expired_pages_are_revalidated_first(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    await w.page()
    w.publish(TWO)
    w.clock.advance(1000)
    answer = await w.page()
    assert names(answer.page.files) == [ONE.filename, TWO.filename]
    assert (answer.origin, answer.stale) == (Origin.UPSTREAM, False)


async def test_u1_upstream_down_serves_what_is_held_and_503_for_the_rest(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    await w.page()
    w.clock.advance(100_000)
    with w.upstream.failing():
        answer = await w.page()
        assert (names(answer.page.files), answer.stale, answer.max_age) == ([ONE.filename], True, 0)
        with pytest.raises(UpstreamDown):
            await w.page("unknown")
    assert w.counters["pages_stale"] == 1


async def test_dead_pages_are_not_served(tmp_path: Path) -> None:
    async with world(tmp_path, pages=Lifetime(600, 300, max_stale=1000)) as w:
        w.publish(ONE)
        await w.page()
        w.clock.advance(1600)
        with w.upstream.failing(), pytest.raises(UpstreamDown):
            await w.page()
        assert names((await w.page()).page.files) == [ONE.filename]


async def test_u3_a_slow_upstream_gives_way_to_the_copy_held(any_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w = any_world
    monkeypatch.setattr(pages_module, "SOFT_TIMEOUT", 0.02)
    w.publish(ONE)
    await w.page()
    w.publish(TWO)
    w.clock.advance(1000)
    w.upstream.page_gate = asyncio.Event()
    answer = await w.page()
    assert (names(answer.page.files), answer.stale) == ([ONE.filename], True)
    w.upstream.page_gate.set()
    await w.settle()
    assert len((await w.page()).page.files) == 2, "the refresh went on"
    assert w.upstream.calls["page:p"] == 2


async def test_newest_is_honoured_above_the_floor_only(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    await w.page()
    w.publish(TWO)
    w.clock.advance(29)
    assert len((await w.page(newest=True)).page.files) == 1
    w.clock.advance(2)
    assert len((await w.page(newest=True)).page.files) == 2
    assert w.upstream.calls["page:p"] == 2


async def test_not_modified_and_identical_200_confirm_a_page(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    first = await w.page()
    w.clock.advance(1000)
    assert (await w.page()).page is first.page
    assert w.upstream.validators[-1].etag is not None
    document = w.upstream.pages[P]
    w.upstream.pages[P] = msgspec.structs.replace(document, validator=Validator(etag='"another"'))
    w.clock.advance(1000)
    again = await w.page()
    assert again.page is first.page
    assert (again.stale, again.max_age) == (False, 600)
    w.clock.advance(1000)
    await w.page()
    assert w.upstream.validators[-1].etag == '"another"'


async def test_u18_304_without_a_copy_is_a_failure(any_world: World) -> None:
    w = any_world
    w.upstream.scripted = [NotModified()]
    w.publish(ONE)
    with pytest.raises(UpstreamMisbehaved):
        await w.page()
    assert len((await w.page()).page.files) == 1


async def test_u21_an_older_serial_never_replaces_a_newer(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    older = serial_page(w.upstream.pages[P], 5)
    w.publish(TWO)
    w.upstream.pages[P] = serial_page(w.upstream.pages[P], 10)
    assert len((await w.page()).page.files) == 2
    w.upstream.pages[P] = older
    w.clock.advance(1000)
    answer = await w.page()
    assert (len(answer.page.files), answer.page.serial) == (2, 10)
    assert w.counters["upstream_older_serial"] == 1
    await w.restart()
    assert len((await w.page()).page.files) == 2


async def test_u8_one_404_does_not_destroy_a_page(any_world: World) -> None:
    w = any_world
    file = w.publish(ONE)
    await w.page()
    assert await w.get(file) == ONE.content
    document = w.upstream.pages.pop(P)
    w.clock.advance(1000)
    with pytest.raises(NoSuchProject):
        await w.page()
    with pytest.raises(NoSuchProject):
        await w.page()
    assert w.upstream.calls["page:p"] == 2, "the 404 is remembered"
    assert await w.get(file) == ONE.content
    w.upstream.pages[P] = document
    w.clock.advance(61)
    assert names((await w.page()).page.files) == [ONE.filename]


async def test_a_missing_project_is_remembered_for_a_while(any_world: World) -> None:
    w = any_world
    for _ in range(20):
        with pytest.raises(NoSuchProject):
            await w.page()
    assert w.upstream.calls["page:p"] == 1
    w.publish(ONE)
    w.clock.advance(61)
    assert len((await w.page()).page.files) == 1


async def test_u22_an_unusable_page_is_never_stored(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    await w.page()
    good = w.upstream.pages[P]
    w.upstream.pages[P] = PageDocument(b"<html><form>log in", "text/html", good.url, 0, Validator(etag='"portal"'))
    w.clock.advance(1000)
    answer = await w.page()
    assert (names(answer.page.files), answer.stale) == ([ONE.filename], True)
    assert w.counters["upstream_pages_unusable"] == 1
    await w.restart(offline=True)
    assert names((await w.page()).page.files) == [ONE.filename]


@pytest.mark.parametrize("later", ["other bytes", "no digest"])
async def test_u20_the_first_digest_stays_in_force(any_world: World, later: str) -> None:
    w = any_world
    first = w.publish(ONE)
    await w.page()
    if later == "other bytes":
        w.upstream.publish("p", ONE.filename, b"another archive")
    else:
        w.upstream.publish("p", ONE.filename, b"another archive", hashes={})
    for _ in range(2):
        w.clock.advance(1000)
        assert (await w.entry(ONE.filename)).hashes == first.hashes
        assert await w.get(first) == ONE.content
        await w.restart()
    assert w.counters["upstream_files_changed"] >= 1


async def test_u19_the_same_etag_with_another_body(any_world: World) -> None:
    w = any_world
    first = w.publish(ONE)
    await w.page()
    etag = w.upstream.pages[P].validator
    w.upstream.publish("p", ONE.filename, b"another archive")
    w.upstream.scripted = [msgspec.structs.replace(w.upstream.pages[P], validator=etag)]
    w.clock.advance(1000)
    assert (await w.entry(ONE.filename)).hashes == first.hashes


async def test_withdrawn_files_stay_available_from_the_store_only(any_world: World) -> None:
    w = any_world
    held, never = w.publish(ONE), w.publish(TWO)
    w.publish(wheel("p", "3.0"))
    await w.page()
    await w.get(held)
    await w.settle()
    w.upstream.withdraw("p", ONE.filename)
    w.upstream.withdraw("p", TWO.filename)
    for _ in range(2):
        w.clock.advance(1000)
        assert names((await w.page()).page.files) == [wheel("p", "3.0").filename]
        asked = w.upstream_calls("file:")
        assert await w.get(held) == ONE.content
        assert (await w.repository.file_facts(FileRef(held.path))).size == len(ONE.content)
        with pytest.raises(NoSuchFile):
            await w.get(never)
        assert w.upstream_calls("file:") == asked
        await w.restart()


async def test_withdrawn_files_are_known_without_any_memory(tmp_path: Path) -> None:
    async with world(tmp_path, page_memory=0) as w:
        held = w.publish(ONE)
        w.publish(TWO)
        await w.page()
        await w.get(held)
        await w.settle()
        w.upstream.withdraw("p", ONE.filename)
        w.clock.advance(1000)
        await w.page()
        assert await w.get(held) == ONE.content


async def test_offline_serves_what_is_held_and_asks_nobody(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    await w.page()
    await w.restart(offline=True)
    w.clock.advance(1_000_000)
    asked = sum(w.upstream.calls.values())
    answer = await w.page(newest=True)
    assert (names(answer.page.files), answer.stale) == ([ONE.filename], False)
    with pytest.raises(NotHeld):
        await w.page("unknown")
    assert sum(w.upstream.calls.values()) == asked


async def test_offline_with_a_store_that_cannot_be_read_is_no_404(any_world: World) -> None:
    w = any_world
    file = w.publish(ONE)
    await w.page()
    await w.get(file)
    await w.restart(offline=True)
    w.store.reads = False
    with pytest.raises(StoreFailure):
        await w.page()
    w.store.reads = True
    await w.page()
    w.store.reads = False
    with pytest.raises(StoreFailure):
        await w.get(file)


async def test_a_restart_serves_what_was_kept_also_without_upstream(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    await w.page()
    await w.restart()
    answer = await w.page()
    assert (names(answer.page.files), answer.origin) == ([ONE.filename], Origin.STORE)
    assert w.upstream.calls["page:p"] == 1
    await w.restart()
    w.clock.advance(100_000)
    with w.upstream.failing():
        assert (await w.page()).stale


async def test_a_confirmation_is_written_hourly(disk_world: World) -> None:
    w = disk_world
    w.publish(ONE)
    await w.page()
    await w.settle()
    written = w.page_on_disk().read_bytes()
    for minutes, changed in ((20, False), (50, True)):
        w.clock.advance(minutes * 60)
        await w.page()
        await w.settle()
        assert (w.page_on_disk().read_bytes() != written) is changed
    await w.restart()
    w.clock.advance(500)
    assert not (await w.page()).stale


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "not utf-8"])
async def test_l7_a_damaged_page_is_quarantined_and_fetched_anew(disk_world: World, damage: str) -> None:
    w = disk_world
    w.publish(ONE)
    await w.page()
    await w.settle()
    blob = w.page_on_disk().read_bytes()
    damaged = {
        "flip": blob[:-20] + bytes([blob[-20] ^ 1]) + blob[-19:],
        "truncate": blob[:-3],
        "empty": b"",
        "not utf-8": blob.replace(b"https", b"\xff\xfetps", 1),
    }
    rewrite(w.page_on_disk(), damaged[damage])
    await w.restart()
    assert names((await w.page()).page.files) == [ONE.filename]
    assert w.upstream.calls["page:p"] == 2
    assert w.counters["store_quarantined"] == 1
    await w.settle()
    await w.restart(offline=True)
    assert names((await w.page()).page.files) == [ONE.filename]


def test_l7_no_flipped_bit_of_a_stored_page_goes_unnoticed() -> None:
    document = PageDocument(
        b'{"name": "p"}',
        "application/json",
        "https://index.example.com/simple/p/",
        1.0,
        Validator(etag='"x"'),
        learned={"a": Learned(size=1, metadata_sha256="ab")},
        withdrawn={"packages/p-1.tar.gz": {"sha256": "0" * 64}},
    )
    blob = pack(document)
    assert unpack(blob) == document
    start = blob.index(b"\n") + 1 + 10  # a gzip header has bytes that mean nothing
    for at in [*range(blob.index(b"\n") + 1), *range(start, len(blob))]:
        for bit in range(8):
            damaged = blob[:at] + bytes([blob[at] ^ 1 << bit]) + blob[at + 1 :]
            try:
                assert unpack(damaged) == document
            except DamagedDocument:
                continue


async def test_a_store_that_refuses_pages_is_tried_again(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    w.store.writes = False
    assert len((await w.page()).page.files) == 1
    await w.settle()
    assert w.counters["store_failures"] == 1
    w.store.writes = True
    w.clock.advance(1000)
    assert len((await w.page()).page.files) == 1
    await w.restart(offline=True)
    assert len((await w.page()).page.files) == 1


async def test_l12_pages_that_wait_for_a_slow_store_have_a_bound(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = any_world
    w.publish(ONE)
    w.publish(sdist("q", "1.0"), "q")
    monkeypatch.setattr(stored_pages, "MAX_UNWRITTEN", len(w.upstream.pages[P].body) + 1)
    assert len((await w.page("p")).page.files) == len((await w.page("q")).page.files) == 1
    assert w.counters["store_failures"] == 1, "the second found no room"
    await w.settle()
    w.clock.advance(1000)
    await w.page("q")
    await w.restart(offline=True)
    assert len((await w.page("p")).page.files) == len((await w.page("q")).page.files) == 1


async def test_a_store_that_cannot_be_read_is_passed_by(any_world: World) -> None:
    w = any_world
    file = w.publish(ONE)
    w.store.reads = False
    assert len((await w.page()).page.files) == 1
    assert await w.get(file) == ONE.content
    assert w.counters["store_failures"] >= 2


# --- what is learnt --------------------------------------------------------------------------------


def pages_of(w: World) -> Pages:
    return w.repository._pages


def many(w: World, count: int = 50) -> list[str]:
    return [w.upstream.publish("p", f"p-{n}.tar.gz", b"%d" % n, size=None).filename for n in range(count)]


def sizes(answer: object) -> dict[str, int | None]:
    return {f.filename: f.size for f in answer.page.files}  # type: ignore[attr-defined]


async def test_concurrent_lessons_all_arrive_and_last(any_world: World) -> None:
    w = any_world
    filenames = many(w)
    revision = (await w.page()).page.revision
    for n, filename in enumerate(filenames):
        pages_of(w).learn(P, filename, Learned(size=n))
        if n % 7 == 0:
            await asyncio.sleep(0)
    await w.settle()
    expected = {filename: n for n, filename in enumerate(filenames)}
    answer = await w.page()
    assert sizes(answer) == expected
    assert answer.page.revision != revision
    await w.restart()
    assert sizes(await w.page()) == expected
    w.clock.advance(1000)
    assert sizes(await w.page()) == expected, "304"
    w.publish(TWO)
    w.clock.advance(1000)
    assert {f: n for f, n in sizes(await w.page()).items() if f != TWO.filename} == expected, "200"
    await w.restart(offline=True)
    assert {f: n for f, n in sizes(await w.page()).items() if f != TWO.filename} == expected


@pytest.mark.parametrize("changes", [True, False], ids=["200", "304"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 50])
async def test_what_is_learnt_while_upstream_is_asked_is_not_lost(any_world: World, changes: bool, steps: int) -> None:
    w = any_world
    filename, *_ = many(w, 3)
    await w.page()
    await w.settle()
    if changes:
        w.publish(TWO)
    w.clock.advance(1000)
    w.upstream.page_gate = asyncio.Event()
    asking = asyncio.ensure_future(w.page())
    await asyncio.sleep(0)
    pages_of(w).learn(P, filename, Learned(size=77))
    for _ in range(steps):
        await asyncio.sleep(0)
    w.upstream.page_gate.set()
    await asking
    await w.settle()
    answer = await w.page()
    assert sizes(answer)[filename] == 77
    assert len(answer.page.files) == 3 + changes
    await w.restart(offline=True)
    answer = await w.page()
    assert sizes(answer)[filename] == 77
    assert len(answer.page.files) == 3 + changes


async def test_large_pages_are_parsed_in_threads_and_lose_nothing(any_world: World) -> None:
    w = any_world
    padding = "x" * entries.LARGE
    filename = w.upstream.publish("p", "p-1.tar.gz", b"1", size=None, _padding=padding).filename
    await w.page()
    for round_ in range(1, 6):
        w.publish(sdist("p", f"{round_}.0", seed=round_))
        w.clock.advance(1000)
        asking = asyncio.ensure_future(w.page())
        for _ in range(round_):
            await asyncio.sleep(0)
        pages_of(w).learn(P, filename, Learned(size=round_))
        await asking
        await w.settle()
        answer = await w.page()
        assert sizes(answer)[filename] == round_
        assert len(answer.page.files) == 1 + round_


async def test_a_lesson_never_brings_an_older_page_back(any_world: World) -> None:
    w = any_world
    filename, *_ = many(w, 2)
    await w.page()
    await w.settle()
    w.publish(TWO)
    w.store.writes = False
    w.clock.advance(1000)
    assert len((await w.page()).page.files) == 3
    await w.settle()
    pages_of(w).learn(P, filename, Learned(size=5))
    await w.settle()
    assert len((await w.page()).page.files) == 3


async def test_a_lesson_of_an_unknown_page_ends(any_world: World) -> None:
    w = any_world
    pages_of(w).learn(ProjectName("never-seen"), "x-1.tar.gz", Learned(size=1))
    await w.settle()


async def test_the_page_key_is_where_the_layout_says(any_world: World) -> None:
    w = any_world
    w.publish(ONE)
    await w.page()
    await w.settle()
    blob = await w.store.read(page_key("memory", project_name("p")), 1 << 20)
    assert blob is not None
    assert unpack(blob).body == w.upstream.pages[P].body
    assert SourcePaths("memory", True).name == w.upstream.name
    assert LIFE.ttl == 600
