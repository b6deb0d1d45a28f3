"""The garbage collection over real stores: what goes, what stays, and what stops it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

import msgspec
import pytest

from mirror.adapters.memory_store import MemoryStore
from mirror.maintenance.collection import Collected, Collection, Wishes
from mirror.maintenance.last_use import DAY, day_name, day_of, pack_record, unpack_record
from mirror.maintenance.lease import DURATION, KEY, Lease, Refused
from mirror.maintenance.pins import DamagedPin
from mirror.maintenance.verification import Verification
from mirror.maintenance.walk import Holding, walk
from mirror.model import FileRef
from mirror.names import origin_key, page_key, project_name, shard
from mirror.ports import Store
from mirror.stores.keys import access_hash, page_of
from mirror.testing import MovableClock
from tests.maintenance.stocked import SOURCE, contents, directory, some_tasks, stock
from tests.repositories.world import world
from tests.support.objects import body_of
from tests.support.packages import wheel

PROJECTS = [f"project-{n}" for n in range(12)]
ORIGIN = origin_key(SOURCE)
P = project_name("p")


@pytest.fixture
def clock() -> MovableClock:
    """A hundred days from now: what is written in the test was written long ago."""
    return MovableClock(time.time() + 100 * DAY)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(64 << 20)


@pytest.fixture(params=["memory", "directory"])
async def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore(64 << 20)
    else:
        async with directory(tmp_path / "store") as made:
            yield made


async def record(store: Store, clock: MovableClock, used: Mapping[int, Iterable[str]], days: int = 95) -> None:
    """Records of use for the last `days` days; `used`: keys that were read so many days ago."""
    for ago in range(days):
        keys = list(used.get(ago, ()))
        keys += [page for key in keys if (page := page_of(key)) is not None]
        await store.put(access_key(clock, ago), pack_record(map(access_hash, keys)))


def access_key(clock: MovableClock, ago: int, name: str = "replica-1") -> str:
    return f"access/{day_name(day_of(clock.now()) - ago)}/{name}.bin"


async def collected(
    store: Store, clock: MovableClock, days: float = 90, **wishes: object
) -> tuple[Collected, set[str]]:
    gone: list[str] = []
    async with some_tasks() as tasks:
        result = await Collection(
            store,
            tasks,
            clock,
            Wishes(unused_for=days * DAY, **wishes),  # type: ignore[arg-type]
            deleted=lambda stored: gone.append(stored.key),
        ).run()
    assert len(gone) == len(set(gone)) == result.deleted
    return result, set(gone)


async def held(store: Store) -> set[str]:
    return {stored.key async for stored in store.list("") if not stored.key.startswith("access/")}


def files_of(keys: list[str], project: str) -> list[str]:
    return [key for key in keys if f"/{project}/" in key]


async def test_what_nobody_used_goes_and_what_anybody_used_stays(any_store: Store, clock: MovableClock) -> None:
    keys = await stock(any_store, PROJECTS, count=3)
    wheels = [key for key in files_of(keys, "project-3") if key.endswith(".whl")]
    sidecar = next(key for key in files_of(keys, "project-5") if key.endswith(".metadata"))
    await record(any_store, clock, {0: [wheels[0]], 89: [sidecar], 93: files_of(keys, "project-7")})
    result, gone = await collected(any_store, clock)
    stay = {
        wheels[0],
        f"{wheels[0]}.metadata",
        page_key(SOURCE, project_name("project-3")),
        sidecar,
        sidecar.removesuffix(".metadata"),
        page_key(SOURCE, project_name("project-5")),
        ORIGIN,
    }
    assert gone == set(keys) - stay
    assert await held(any_store) == stay
    assert (result.deleted, result.kept) == (len(gone), len(stay))
    async with some_tasks() as tasks:
        assert (await Verification(any_store, tasks).run()).sound, "no archive is left that no page names"


async def test_what_was_written_lately_stays(store: MemoryStore, clock: MovableClock) -> None:
    keys = await stock(store, PROJECTS[:2])
    await record(store, clock, {})
    clock.set_wall_clock(clock.now() - 11 * DAY)  # written 89 days ago
    assert (await collected(store, clock))[1] == set()
    assert await held(store) == set(keys)


@pytest.mark.parametrize("max_size", [None, 0, 30_000])
async def test_a_dry_run_lists_what_the_real_one_deletes(
    any_store: Store, clock: MovableClock, max_size: int | None
) -> None:
    """K-28."""
    keys = await stock(any_store, PROJECTS, count=4)
    chance = random.Random(28)
    await record(any_store, clock, {ago: chance.sample(keys, 3) for ago in (1, 20, 50, 60, 70, 92)})
    before = await contents(any_store)
    result, would = await collected(any_store, clock, dry_run=True, max_size=max_size)
    assert await contents(any_store) == before
    assert would
    real, gone = await collected(any_store, clock, max_size=max_size)
    assert gone == would
    assert real == result
    assert await held(any_store) == {key for key in before if not key.startswith("access/")} - gone


async def test_the_size_is_met_by_what_was_used_longest_ago(store: MemoryStore, clock: MovableClock) -> None:
    keys = await stock(store, PROJECTS[:6], count=1)
    used = {10 + n: files_of(keys, f"project-{n}") for n in range(6)}
    await record(store, clock, used)
    sizes = {stored.key: stored.size async for stored in store.list("") if not stored.key.startswith("access/")}
    limit = sum(sizes.values()) - 4000
    result, gone = await collected(store, clock, max_size=limit)
    order = [
        key
        for n in (5, 4, 3)
        for key in [*sorted(files_of(keys, f"project-{n}")), page_key(SOURCE, project_name(f"project-{n}"))]
    ]
    expected = order[: next(n for n in range(1, 7) if sum(sizes[key] for key in order[:n]) >= 4000)]
    assert gone == set(expected)
    assert result.bytes_left <= limit


async def test_what_is_in_use_is_no_prey_of_the_size(store: MemoryStore, clock: MovableClock) -> None:
    keys = await stock(store, PROJECTS[:4])
    await record(
        store, clock, {0: files_of(keys, "project-0"), 1: files_of(keys, "project-1"), 2: files_of(keys, "project-2")}
    )
    result, gone = await collected(store, clock, max_size=0)
    assert not [key for key in gone if "project-0" in key or "project-1" in key]
    assert {key for key in keys if "project-2" in key or "project-3" in key} <= gone | {ORIGIN}
    assert result.bytes_left > 0


async def test_hosted_pinned_and_unknown_objects_stay(store: MemoryStore, clock: MovableClock) -> None:
    """K-34."""
    keys = await stock(store, PROJECTS[:2])
    pin = next(key for key in files_of(keys, "project-1") if key.endswith(".whl"))
    others = {
        f"local/{shard(P)}/p/p-1.tar.gz": b"hosted",
        f"local/{shard(P)}/p/p-1.tar.gz.json": b"{}",
        "local-projects/p": b"",
        "files/pypi/README": b"what is this?",
        "meta/pypi/projects.txt": b"p\n",
        "pins/release.json": msgspec.json.encode([pin, "files/pypi/of/no/object"]),
    }
    for key, body in others.items():
        await store.put(key, body)
    await record(store, clock, {})
    result, gone = await collected(store, clock, max_size=0)
    assert await held(store) == {
        *others,
        ORIGIN,
        pin,
        f"{pin}.metadata",
        page_key(SOURCE, project_name("project-1")),
    }
    assert result.pinned == 3
    assert gone


async def test_pins_that_cannot_be_read_stop_everything(store: MemoryStore, clock: MovableClock) -> None:
    keys = await stock(store, PROJECTS[:2])
    await record(store, clock, {})
    await store.put("pins/a.json", b'["files/')
    with pytest.raises(DamagedPin, match=r"pins/a\.json"):
        await collected(store, clock, force=True)
    assert set(keys) <= await held(store)
    assert KEY not in await held(store)


@pytest.mark.parametrize("fault", ["gap", "damage", "yesterday", "nothing"])
@pytest.mark.parametrize("max_size", [None, 5000])
async def test_records_with_gaps_stop_it_unless_forced(
    store: MemoryStore, clock: MovableClock, fault: str, max_size: int | None
) -> None:
    keys = await stock(store, PROJECTS[:5])
    await record(store, clock, {30: files_of(keys, "project-1")})
    match fault:
        case "gap":
            await store.delete(access_key(clock, 40))
        case "damage":
            await store.put(access_key(clock, 40, "replica-2"), b"12345")
        case "yesterday":
            await store.delete(access_key(clock, 1))
        case "nothing":
            for ago in range(95):
                await store.delete(access_key(clock, ago))
    for dry_run in (True, False):
        with pytest.raises(Refused, match="--force"):
            await collected(store, clock, dry_run=dry_run, max_size=max_size)
    assert await held(store) == set(keys)
    result, gone = await collected(store, clock, force=True, max_size=max_size)
    assert gone
    assert len(result.doubtful_days) == (90 if fault == "nothing" else 1)


async def test_a_young_store_needs_no_old_records(store: MemoryStore, clock: MovableClock) -> None:
    """Where nothing is old enough to go, gaps hide nothing."""
    await stock(store, PROJECTS[:2])
    clock.set_wall_clock(clock.now() - 95 * DAY)
    result, gone = await collected(store, clock)
    assert gone == set()
    assert result.doubtful_days


async def test_a_gap_before_everything_that_goes_does_not_matter(store: MemoryStore, clock: MovableClock) -> None:
    keys = await stock(store, PROJECTS[:3])
    old = {60: files_of(keys, "project-0"), 50: files_of(keys, "project-1"), 3: files_of(keys, "project-2")}
    await record(store, clock, old, days=70)
    _, gone = await collected(store, clock, max_size=2000)
    assert [key for key in gone if "project-0" in key]


async def test_old_days_are_folded_and_lose_no_key(store: MemoryStore, clock: MovableClock) -> None:
    keys = await stock(store, PROJECTS[:1])
    await record(store, clock, {0: keys})
    for ago, name in ((2, "b"), (3, "b"), (3, "c"), (4, "all"), (500, "b")):
        await store.put(access_key(clock, ago, name), pack_record([ago, ord(name[0])]))
    await store.put(access_key(clock, 5, "bad"), b"123")
    async with some_tasks() as tasks:
        await Collection(store, tasks, clock, Wishes(unused_for=90 * DAY, dry_run=True)).run()
    assert await store.read(access_key(clock, 500, "b"), 100) is not None
    await collected(store, clock, force=True)
    left = {stored.key async for stored in store.list("access/")}
    expected = {access_key(clock, ago, "all") for ago in range(3, 95)}
    expected |= {access_key(clock, ago) for ago in range(3)} | {access_key(clock, 2, "b")}
    assert left == expected | {access_key(clock, 5, "bad")}
    for ago, hashes in ((3, {3, ord("b"), ord("c")}), (4, {4, ord("a")})):
        folded = await store.read(access_key(clock, ago, "all"), 1000)
        assert folded is not None
        assert set(unpack_record(folded)) == hashes
    result, _ = await collected(store, clock, force=True)
    assert result.folded_days == [day_name(day_of(clock.now()) - 5)], "a damaged record stays, and shows"


async def test_two_at_once_one_is_refused(any_store: Store, clock: MovableClock) -> None:
    """K-43."""
    await stock(any_store, PROJECTS)
    await record(any_store, clock, {})
    outcomes = await asyncio.gather(*(collected(any_store, clock) for _ in range(4)), return_exceptions=True)
    refused = [each for each in outcomes if isinstance(each, Refused)]
    done = [each for each in outcomes if isinstance(each, tuple)]
    assert len(refused) + len(done) == 4
    assert done
    assert await held(any_store) == {ORIGIN}
    async with Lease(any_store, clock):
        with pytest.raises(Refused, match="under way"):
            await collected(any_store, clock)
        await collected(any_store, clock, dry_run=True)
    await collected(any_store, clock)


async def test_the_lease_of_a_dead_one_is_taken_over_when_it_has_run_out(clock: MovableClock) -> None:
    store = MemoryStore(1 << 20)
    dead = Lease(store, clock)
    await dead.__aenter__()
    clock.advance(DURATION - 1)
    with pytest.raises(Refused):
        await Lease(store, clock).__aenter__()
    clock.advance(2)
    async with Lease(store, clock) as alive:
        clock.advance(DURATION / 2)
        with pytest.raises(Refused, match="taken over"):
            await dead.keep()
        await asyncio.gather(*(alive.keep() for _ in range(8)))
        clock.advance(DURATION - 1)
        with pytest.raises(Refused):
            await Lease(store, clock).__aenter__()
        await dead.__aexit__()
        assert await store.read(KEY, 1000) is not None, "what another one holds is not given back"
    assert await store.read(KEY, 1000) is None


async def test_a_lease_that_cannot_be_read_is_nobodys(clock: MovableClock) -> None:
    store = MemoryStore(1 << 20)
    await store.put(KEY, b"\xff\xff")
    async with Lease(store, clock):
        assert await store.read(KEY, 1000) != b"\xff\xff"


async def test_clients_get_whole_bytes_while_everything_is_deleted(tmp_path: Path) -> None:
    """K-26, K-30: a mirror reads and writes while one collection after the other takes all that it has stored."""
    async with world(tmp_path) as mirror:
        files = [mirror.publish(wheel(name, f"{n}.0"), name) for name in ("p", "q", "r") for n in range(3)]
        bodies = {file.path: mirror.upstream.files[file.url] for file in files}
        for file in files:
            assert await mirror.get(file) == bodies[file.path]
        await mirror.settle()
        clock = MovableClock(mirror.clock.now())
        now = max([stored.modified async for stored in mirror.store.list("")])
        clock.set_wall_clock(now + 1000 * DAY)
        rounds = 5
        collected_keys: set[str] = set()

        async def clear() -> None:
            for _ in range(rounds):
                collected_keys.update((await collected(mirror.store, clock, force=True))[1])

        async def ask(seed: int) -> int:
            chance = random.Random(seed)
            asked = 0
            while not clearing.done():
                file = chance.choice(files)
                content = await mirror.repository.open_file(FileRef(file.path))
                await asyncio.sleep(0)  # the collection may take it now
                assert await body_of(content) == bodies[file.path]
                asked += 1
            return asked

        clearing = asyncio.ensure_future(clear())
        asked = await asyncio.gather(*(ask(seed) for seed in range(4)))
        await clearing
        assert min(asked) > 0
        assert {key for key in collected_keys if key.startswith("files/")}
        await mirror.settle()
        for file in files:
            assert await mirror.get(file) == bodies[file.path]


async def test_who_is_cancelled_lets_go_of_the_lease(clock: MovableClock) -> None:
    class Slow(MemoryStore):
        deleting = asyncio.Event()

        async def delete(self, key: str) -> None:
            if key.startswith("files/"):
                self.deleting.set()
                await asyncio.Event().wait()
            await super().delete(key)

    store = Slow(64 << 20)
    keys = await stock(store, PROJECTS)
    await record(store, clock, {})
    async with some_tasks() as tasks:
        run = tasks.spawn(Collection(store, tasks, clock, Wishes(unused_for=90 * DAY)).run(), name="gc")
        await store.deleting.wait()
        assert await store.read(KEY, 1000) is not None
        run.cancel()
        await asyncio.wait([run])
    assert await held(store) == set(keys)


async def test_doubts_are_raised_before_the_first_deletion(store: MemoryStore, clock: MovableClock) -> None:
    """What comes first in the store was used after the gap, what comes last before it."""
    keys = await stock(store, PROJECTS)
    first, *rest = [each.project async for each in walk(store) if isinstance(each, Holding)]
    old = [key for project in rest for key in files_of(keys, project)]
    await record(store, clock, {30: files_of(keys, first), 60: old})
    await store.delete(access_key(clock, 40))
    with pytest.raises(Refused):
        await collected(store, clock, max_size=0)
    assert await held(store) == set(keys)


async def test_workers_that_renew_the_lease_at_once_do_not_lose_it(any_store: Store, clock: MovableClock) -> None:
    async with Lease(any_store, clock) as lease:
        for _ in range(3):
            clock.advance(DURATION / 2)
            await asyncio.gather(*(lease.keep() for _ in range(8)))
        clock.advance(DURATION - 1)
        with pytest.raises(Refused):
            await Lease(any_store, clock).__aenter__()
