"""The record of what was used: complete for who reads, silent for who only looks."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.counters import Counters
from mirror.errors import InvalidName
from mirror.flight import Tasks
from mirror.ports import Store
from mirror.stores.access import AccessLog, RecordingStore, _merged
from mirror.stores.keys import access_hash
from mirror.testing import MovableClock
from tests.stores.world import ScriptedRemote, eventually, remote_store
from tests.support.objects import keys_of

PROJECT = "pypi/ab/cd/p"
WHEEL = f"files/{PROJECT}/p-1.0-py3-none-any.whl"
PAGE = f"meta/{PROJECT}.json"
TODAY, TOMORROW = "access/2023-11-14/one.bin", "access/2023-11-15/one.bin"
LIMIT = 1 << 20


def numbers_in(body: bytes | None) -> list[int]:
    assert body is not None
    return [number for (number,) in struct.iter_unpack("<Q", body)]


def used(*keys: str) -> list[int]:
    return sorted({access_hash(key) for key in keys})


class Scene:
    """A store that records its use, as replica `one`, at the time at which `MovableClock` begins."""

    def __init__(self, **options: float) -> None:
        self.remote, self.clock, self.counters = remote_store(), MovableClock(), Counters()
        self.tasks = Tasks(self.counters)
        self.options = options
        self.restart()

    def restart(self, replica: str = "one") -> None:
        self.log = AccessLog(self.remote, self.tasks, self.clock, self.counters, replica, **self.options)  # type: ignore[arg-type] # counts are floats here
        self.store = RecordingStore(self.remote, self.log)

    async def recorded(self, key: str = TODAY) -> list[int]:
        return numbers_in(await self.remote.inner.read(key, LIMIT))


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def _open(store: Store) -> None:
    content = await store.open(WHEEL)
    assert content is not None


USES: dict[str, Callable[[Store], Awaitable[object]]] = {
    "open": _open,
    "read": lambda store: store.read(WHEEL, LIMIT),
    "reread": lambda store: store.reread(WHEEL, LIMIT, ""),
    "put": lambda store: store.put(WHEEL, b"wheel"),
}


@pytest.mark.parametrize("use", USES)
async def test_k32_every_use_of_an_archive_is_recorded_and_counts_for_its_page(scene: Scene, use: str) -> None:
    await scene.remote.inner.put(WHEEL, b"wheel")
    await USES[use](scene.store)
    await scene.log.flush()
    assert await keys_of(scene.remote.inner, "access/") == [TODAY]
    assert await scene.recorded() == used(WHEEL, PAGE)


async def test_k32_adopting_is_a_use(scene: Scene, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_bytes(b"wheel")
    await scene.store.adopt(WHEEL, spool)
    await scene.log.flush()
    assert await scene.recorded() == used(WHEEL, PAGE)


async def test_k32_a_sidecar_that_is_used_keeps_its_archive_and_the_other_way_round(scene: Scene) -> None:
    await scene.store.put(WHEEL + ".metadata", b"metadata")
    await scene.log.flush()
    recorded = await scene.recorded()
    for key in (WHEEL, WHEEL + ".metadata", WHEEL + ".provenance", PAGE):
        assert access_hash(key) in recorded


async def test_k33_listing_start_and_checks_leave_no_trace(scene: Scene, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_bytes(b"wheel")
    for key in (WHEEL, PAGE, "meta/pypi/upstream.json"):
        await scene.remote.inner.put(key, b"body")
    for _ in range(10):
        scene.restart()
        scene.log.start()
        await keys_of(scene.store)
        await scene.store.check()
        await scene.store.read("meta/pypi/upstream.json", LIMIT)  # as each start does
        await scene.store.admit(WHEEL, spool)
        await scene.store.read("leases/0.json", LIMIT)
        await scene.store.create("local/ab/cd/p/p.json", b"")
        await scene.store.replace(PAGE, b"", "no such version")
        await scene.store.delete("files/absent")
        await scene.store.quarantine("files/absent")
        scene.log.stop()
        await scene.log.flush()
    assert await scene.recorded() == used()


async def test_what_is_not_there_was_not_used(scene: Scene) -> None:
    assert await scene.store.open(WHEEL) is None
    assert await scene.store.read(PAGE, LIMIT) is None
    assert await scene.store.reread(PAGE, LIMIT, "") is None
    await scene.log.flush()
    assert await scene.recorded() == used()


async def test_a_day_without_any_use_is_recorded_too_and_once(scene: Scene) -> None:
    for _ in range(3):
        await scene.log.flush()
    assert len(await keys_of(scene.remote.inner, "access/")) == 1
    assert scene.remote.asked("put:access/") == 1
    scene.clock.advance(86_400)
    await scene.log.flush()
    assert len(await keys_of(scene.remote.inner, "access/")) == 2


async def test_the_record_of_a_day_grows_through_restarts(scene: Scene) -> None:
    for n in range(5):
        await scene.store.put(f"files/a/{n}", b"")
        await scene.log.flush()
        scene.restart()
    assert await scene.recorded() == used(*(f"files/a/{n}" for n in range(5)))
    writes = scene.remote.asked("put:access/")
    await scene.store.put("files/a/0", b"")
    await scene.log.flush()
    await scene.log.flush()
    assert scene.remote.asked("put:access/") == writes, "what is recorded already is not written again"


async def test_each_replica_has_its_own_record(scene: Scene) -> None:
    await scene.store.put("files/a", b"")
    await scene.log.flush()
    scene.restart("two")
    await scene.store.put("files/b", b"")
    await scene.log.flush()
    assert await scene.recorded() == used("files/a")
    assert await scene.recorded("access/2023-11-14/two.bin") == used("files/b")


async def test_at_midnight_another_day_begins(scene: Scene) -> None:
    await scene.store.put("files/a", b"")
    scene.clock.advance(86_400)
    await scene.store.put("files/b", b"")
    await scene.log.flush()
    assert await scene.recorded(TODAY) == used("files/a")
    assert await scene.recorded(TOMORROW) == used("files/b")


@pytest.mark.parametrize("direction", ["reads", "writes"])
async def test_what_the_store_refuses_is_counted_and_written_the_next_time(scene: Scene, direction: str) -> None:
    await scene.store.put("files/a", b"")
    setattr(scene.remote, direction, False)
    await scene.log.flush()
    assert scene.counters["access_failures"] == 1
    scene.remote.reads = scene.remote.writes = True
    await scene.store.put("files/b", b"")
    scene.clock.advance(86_400)
    await scene.store.put("files/c", b"")
    await scene.log.flush()
    assert await scene.recorded(TODAY) == used("files/a", "files/b")
    assert await scene.recorded(TOMORROW) == used("files/c")
    assert scene.counters["access_failures"] == 1


async def test_what_is_used_while_a_record_is_written_is_not_lost(scene: Scene) -> None:
    await scene.store.put("files/a", b"")
    gate = scene.remote.gates[f"put:{TODAY}"] = asyncio.Event()
    writing = asyncio.ensure_future(scene.log.flush())
    await eventually(lambda: scene.remote.asked("put:access/") == 1)
    await scene.store.put("files/b", b"")
    scene.remote.writes = False
    gate.set()
    await writing
    scene.remote.writes = True
    await scene.log.flush()
    assert await scene.recorded() == used("files/a", "files/b")


async def test_a_flush_that_is_cancelled_loses_nothing(scene: Scene) -> None:
    await scene.store.put("files/a", b"")
    scene.remote.gates[f"put:{TODAY}"] = asyncio.Event()
    writing = asyncio.ensure_future(scene.log.flush())
    await eventually(lambda: scene.remote.asked("put:access/") == 1)
    writing.cancel()
    await asyncio.wait([writing])
    scene.remote.gates.clear()
    await scene.log.flush()
    assert await scene.recorded() == used("files/a")


async def test_memory_is_bounded_by_writing_early() -> None:
    scene = Scene(at_once=10)
    scene.log.start()  # its hour will not be over
    for n in range(10):
        await scene.store.put(f"files/{n}", b"")
    await eventually(lambda: scene.remote.asked("put:access/") == 1)
    scene.log.stop()
    assert await scene.tasks.drain(60) == 0
    assert await scene.recorded() == used(*(f"files/{n}" for n in range(10)))


async def test_memory_is_bounded_while_the_store_is_down_and_that_is_told() -> None:
    scene = Scene(at_once=10)
    for n in range(100):
        await scene.store.put(f"files/{n:02}", b"")
    await scene.log.flush()
    assert scene.counters["access_failures"] == 1
    assert await scene.recorded() == used(*(f"files/{n:02}" for n in range(20)))
    await scene.store.put("files/99", b"")
    await scene.log.flush()
    assert access_hash("files/99") in await scene.recorded()
    assert scene.counters["access_failures"] == 1


async def test_it_is_written_every_hour() -> None:
    scene = Scene(every=0.01)
    scene.log.start()
    await scene.store.put("files/a", b"")
    await eventually(lambda: scene.remote.asked("put:access/") == 1)
    await scene.store.put("files/b", b"")
    await eventually(lambda: scene.remote.asked("put:access/") == 2)
    scene.log.stop()
    assert await scene.tasks.drain(60) == 0
    assert await scene.recorded() == used("files/a", "files/b")


async def test_of_a_damaged_record_the_whole_entries_are_kept(scene: Scene) -> None:
    await scene.remote.inner.put(TODAY, struct.pack("<QQ", 7, 9)[:-3])
    await scene.store.put("files/a", b"")
    await scene.log.flush()
    assert await scene.recorded() == sorted([7, *used("files/a")])
    assert scene.counters["access_failures"] == 1


_NUMBERS = st.sets(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**56 - 1, 2**56, 2**63, 2**64 - 1]))


@given(_NUMBERS, _NUMBERS)
@settings(deadline=None, database=None)
def test_records_are_joined_ascending_and_without_repetition(before: set[int], noted: set[int]) -> None:
    body = struct.pack(f"<{len(before)}Q", *sorted(before))
    assert numbers_in(_merged(body, noted)) == sorted(before | noted)


@pytest.mark.parametrize("replica", ["", "../two", "a/b", "a b", "x" * 300])
def test_a_name_that_no_object_can_have_is_refused(replica: str) -> None:
    counters = Counters()
    with pytest.raises(InvalidName):
        AccessLog(remote_store(), Tasks(counters), MovableClock(), counters, replica)


def test_the_remote_shows_through(scene: Scene) -> None:
    remote: ScriptedRemote = scene.remote
    assert scene.store.remote
    for is_exact in (True, False):
        remote.is_exact = is_exact
        assert scene.store.exact == is_exact
