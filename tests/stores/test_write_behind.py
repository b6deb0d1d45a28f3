"""Archives that the store cannot take at once: served from the cache, and there when the store is back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.errors import StoreFailure
from mirror.model import Origin
from mirror.stores.write_behind import Pace
from mirror.testing import MovableClock
from tests.stores.world import QUICK, Replica, ScriptedRemote, eventually, remote_store, turns
from tests.support.objects import body_of, keys_of

KEY = "files/pypi/ab/cd/p/p-1.0-py3-none-any.whl"
LIST = "meta/pypi/projects.txt"
LIMIT = 1 << 20


@pytest.fixture
def remote() -> ScriptedRemote:
    return remote_store()


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
async def replica(remote: ScriptedRemote, clock: MovableClock, tmp_path: Path) -> AsyncIterator[Replica]:
    replica = Replica(remote, clock, tmp_path / "cache")
    yield replica
    for gate in remote.gates.values():
        gate.set()
    assert await replica.end() == 0


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


async def adopt(replica: Replica, spool: Path, key: str = KEY, body: bytes = b"wheel") -> None:
    spool.write_bytes(body)
    await replica.store.adopt(key, spool)


async def in_store(remote: ScriptedRemote, key: str = KEY) -> bytes | None:
    return await remote.inner.read(key, LIMIT)


async def test_an_archive_is_served_before_the_store_has_it(
    remote: ScriptedRemote, replica: Replica, spool: Path
) -> None:
    gate = remote.gates[f"adopt:{KEY}"] = asyncio.Event()
    await adopt(replica, spool)
    assert not spool.exists()
    content = await replica.store.open(KEY)
    assert content is not None
    assert content.origin is Origin.CACHE
    assert await body_of(content) == b"wheel"
    assert await keys_of(replica.store, "files/") == [KEY]
    assert await in_store(remote) is None
    gate.set()
    await replica.store.tried(KEY)
    assert await in_store(remote) == b"wheel"
    assert await replica.disk.owed() == []
    assert await body_of(await replica.store.open(KEY)) == b"wheel"
    assert remote.asked("open:") == 0
    assert replica.counters["store_writes_deferred"] == replica.counters["store_writes_caught_up"] == 0


async def test_f04_c29_a_refused_archive_is_served_and_appears_when_the_store_is_back(
    remote: ScriptedRemote, clock: MovableClock, replica: Replica, spool: Path
) -> None:
    remote.writes = False
    await adopt(replica, spool)
    await replica.store.tried(KEY)
    assert replica.counters["store_writes_deferred"] == 1
    assert replica.counters["store_failures"] == 1
    for _ in range(3):
        assert await body_of(await replica.store.open(KEY)) == b"wheel"
    assert await replica.disk.owed() == [KEY]
    remote.writes = True
    await turns()
    assert remote.asked("adopt:") == 1, "it waits before it tries again"
    clock.advance(1.0)
    await eventually(lambda: replica.counters["store_writes_caught_up"] == 1)
    assert await in_store(remote) == b"wheel"
    assert await replica.disk.owed() == []
    assert replica.counters["store_writes_deferred"] == 1


async def test_k31_pauses_grow_up_to_their_longest(
    remote: ScriptedRemote, clock: MovableClock, replica: Replica, spool: Path
) -> None:
    remote.writes = False
    await adopt(replica, spool)
    longest = 0.0
    for tries in range(1, 12):
        await eventually(lambda tries=tries: replica.counters["store_failures"] == tries)  # type: ignore[misc]
        await turns()
        assert remote.asked("adopt:") == tries
        longest = min(QUICK.longest_pause, 2.0 ** (tries - 1))
        clock.advance(longest / 2 - 0.01)
        await asyncio.sleep(2 * QUICK.look)
        assert remote.asked("adopt:") == tries, "at least half of each pause is kept"
        clock.advance(longest / 2 + 0.01)
    assert longest == QUICK.longest_pause
    remote.writes = True
    clock.advance(QUICK.longest_pause)
    await eventually(lambda: replica.counters["store_writes_caught_up"] == 1)


async def test_k31_one_archive_that_is_always_refused_keeps_no_other_back(
    remote: ScriptedRemote, clock: MovableClock, replica: Replica, spool: Path
) -> None:
    remote.refused = {f"{KEY}-{n}" for n in range(10)}
    for key in sorted(remote.refused):
        await adopt(replica, spool, key)
    for n in range(20):
        await adopt(replica, spool, f"{KEY}-good-{n}")
        await replica.store.tried(f"{KEY}-good-{n}")
        assert await in_store(remote, f"{KEY}-good-{n}") == b"wheel"
    await eventually(lambda: replica.counters["store_writes_deferred"] == 10)
    remote.refused.clear()  # the operator has corrected the policy
    clock.advance(QUICK.longest_pause)
    await eventually(lambda: replica.counters["store_writes_caught_up"] == 10)


async def test_uploads_are_bounded_in_number(
    remote: ScriptedRemote, clock: MovableClock, tmp_path: Path, spool: Path
) -> None:
    replica = Replica(remote, clock, tmp_path / "cache", pace=Pace(at_once=3, look=0.005))
    gate = asyncio.Event()
    keys = [f"{KEY}-{n}" for n in range(10)]
    for key in keys:
        remote.gates[f"adopt:{key}"] = gate
        await adopt(replica, spool, key)
    await eventually(lambda: remote.asked("adopt:") == 3)
    await turns()
    assert remote.asked("adopt:") == 3
    gate.set()
    for key in keys:
        await replica.store.tried(key)
    assert await keys_of(remote.inner) == keys
    assert await replica.end() == 0


async def test_c29_what_is_owed_survives_kill_and_restart(
    remote: ScriptedRemote, clock: MovableClock, tmp_path: Path, spool: Path
) -> None:
    first = Replica(remote, clock, tmp_path / "cache")
    remote.writes = False
    await adopt(first, spool)
    await first.store.tried(KEY)
    remote.gates[f"adopt:{KEY}-2"] = asyncio.Event()
    await adopt(first, spool, f"{KEY}-2", b"second")
    await eventually(lambda: remote.asked(f"adopt:{KEY}-2") == 1)
    await first.kill()
    remote.writes = True
    remote.gates.clear()
    second = Replica(remote, clock, tmp_path / "cache")
    await second.store.start()
    await eventually(lambda: second.counters["store_writes_caught_up"] == 2)
    assert await in_store(remote) == b"wheel"
    assert await in_store(remote, f"{KEY}-2") == b"second"
    assert await second.disk.owed() == []
    assert second.counters["store_writes_deferred"] == 2
    assert await second.end() == 0


async def test_p02_the_end_does_not_wait_for_a_pause_and_leaves_the_rest_owed(
    remote: ScriptedRemote, replica: Replica, spool: Path
) -> None:
    remote.writes = False
    await adopt(replica, spool)
    await replica.store.tried(KEY)
    assert await replica.end() == 0
    assert len(replica.tasks) == 0
    assert await replica.disk.owed() == [KEY]


async def test_p02_an_upload_under_way_and_what_is_new_have_their_try_at_the_end(
    remote: ScriptedRemote, clock: MovableClock, tmp_path: Path, spool: Path
) -> None:
    replica = Replica(remote, clock, tmp_path / "cache", pace=Pace(at_once=1, look=0.005))
    gate = remote.gates[f"adopt:{KEY}"] = asyncio.Event()
    await adopt(replica, spool)
    await adopt(replica, spool, f"{KEY}-2")
    await eventually(lambda: remote.asked("adopt:") == 1)
    replica.store.stop()
    await adopt(replica, spool, f"{KEY}-3")
    gate.set()
    assert await replica.end() == 0
    assert await keys_of(remote.inner) == [KEY, f"{KEY}-2", f"{KEY}-3"]


async def test_an_open_breaker_burns_no_tries(
    remote: ScriptedRemote, clock: MovableClock, replica: Replica, spool: Path
) -> None:
    replica.refusal = 30.0
    await adopt(replica, spool)
    await replica.store.tried(KEY)
    assert replica.counters["store_writes_deferred"] == 1
    clock.advance(3600)
    await asyncio.sleep(4 * QUICK.look)
    assert remote.asked("adopt:") == 0
    replica.refusal = 0.0
    await eventually(lambda: replica.counters["store_writes_caught_up"] == 1)
    assert remote.asked("adopt:") == 1


async def test_who_waits_for_the_first_try_does_not_wait_for_a_breaker_that_opens(
    remote: ScriptedRemote, clock: MovableClock, tmp_path: Path, spool: Path
) -> None:
    replica = Replica(remote, clock, tmp_path / "cache", pace=Pace(at_once=1, look=0.005))
    gate = remote.gates[f"adopt:{KEY}"] = asyncio.Event()
    await adopt(replica, spool)
    await adopt(replica, spool, f"{KEY}-2")
    waiting = asyncio.ensure_future(replica.store.tried(f"{KEY}-2"))
    await eventually(lambda: remote.asked("adopt:") == 1)
    remote.writes, replica.refusal = False, 30.0
    gate.set()
    await waiting
    assert remote.asked("adopt:") == 1
    assert await replica.end() == 0


async def test_too_much_owed_goes_to_the_store_at_once(
    remote: ScriptedRemote, clock: MovableClock, tmp_path: Path, spool: Path
) -> None:
    replica = Replica(remote, clock, tmp_path / "cache", owed_limit=25_000)
    remote.refused = {KEY}
    await adopt(replica, spool, KEY, bytes(20_000))
    await replica.store.tried(KEY)
    await adopt(replica, spool, f"{KEY}-2", bytes(10_000))
    assert await in_store(remote, f"{KEY}-2") == bytes(10_000)
    assert replica.counters["store_writes_dropped"] == 0
    remote.writes = False
    with pytest.raises(StoreFailure):
        await adopt(replica, spool, f"{KEY}-3", bytes(10_000))
    assert replica.counters["store_writes_dropped"] == 1
    assert await replica.store.open(f"{KEY}-3") is None, "a copy would hide that the store lacks it"
    assert await replica.disk.owed() == [KEY], "what came first is kept"
    remote.writes, remote.refused = True, set()
    clock.advance(QUICK.longest_pause)
    await eventually(lambda: replica.counters["store_writes_caught_up"] == 1)
    await adopt(replica, spool, f"{KEY}-3", bytes(10_000))
    await replica.store.tried(f"{KEY}-3")
    assert await in_store(remote, f"{KEY}-3") == bytes(10_000)
    assert await replica.end() == 0


async def test_what_an_earlier_process_owed_is_kept_whatever_the_limit(
    remote: ScriptedRemote, clock: MovableClock, tmp_path: Path, spool: Path
) -> None:
    remote.writes = False
    first = Replica(remote, clock, tmp_path / "cache")
    for n in range(3):
        await adopt(first, spool, f"{KEY}-{n}", bytes(10_000))
    await first.end()
    second = Replica(remote, clock, tmp_path / "cache", owed_limit=25_000)
    await second.store.start()
    with pytest.raises(StoreFailure):
        await adopt(second, spool, f"{KEY}-3", b"")
    remote.writes = True
    clock.advance(QUICK.longest_pause)
    await eventually(lambda: second.counters["store_writes_caught_up"] == 3)
    remote.refused = {f"{KEY}-4", f"{KEY}-5", f"{KEY}-6"}
    for n in (4, 5):
        await adopt(second, spool, f"{KEY}-{n}", bytes(10_000))
    with pytest.raises(StoreFailure):
        await adopt(second, spool, f"{KEY}-6", bytes(10_000))
    assert await second.end() == 0


async def test_empty_files_count_too(remote: ScriptedRemote, clock: MovableClock, tmp_path: Path, spool: Path) -> None:
    replica = Replica(remote, clock, tmp_path / "cache", owed_limit=10_000)
    remote.writes = False
    for n in range(2):
        await adopt(replica, spool, f"{KEY}-{n}", b"")
    with pytest.raises(StoreFailure):
        await adopt(replica, spool, f"{KEY}-2", b"")
    await replica.end()


async def test_l01_a_cache_that_takes_nothing_is_passed_by(
    remote: ScriptedRemote, replica: Replica, spool: Path
) -> None:
    replica.disk.full = True
    await adopt(replica, spool)
    assert await in_store(remote) == b"wheel"
    assert not spool.exists()
    remote.writes = False
    with pytest.raises(StoreFailure):
        await adopt(replica, spool, f"{KEY}-2")
    assert spool.exists()
    assert replica.counters["store_writes_dropped"] == 1


async def test_another_file_that_comes_during_an_upload_is_uploaded_too(
    remote: ScriptedRemote, replica: Replica, spool: Path
) -> None:
    gate = remote.gates[f"adopt:{KEY}"] = asyncio.Event()
    await adopt(replica, spool, KEY, b"first")
    await eventually(lambda: remote.asked("adopt:") == 1)
    await adopt(replica, spool, KEY, b"second")
    gate.set()
    await replica.store.tried(KEY)
    assert await in_store(remote) == b"second"
    assert await replica.disk.owed() == []


async def test_l07_a_damaged_copy_takes_its_debt_with_it(
    remote: ScriptedRemote, clock: MovableClock, replica: Replica, spool: Path
) -> None:
    remote.writes = False
    await adopt(replica, spool, KEY, b"damaged")
    await replica.store.tried(KEY)
    await replica.store.quarantine(KEY)
    assert await replica.store.open(KEY) is None
    assert await replica.disk.owed() == []
    remote.writes = True
    clock.advance(3600)
    await asyncio.sleep(4 * QUICK.look)
    assert await in_store(remote) is None
    assert remote.asked("quarantine:") == 0
    await adopt(replica, spool, KEY, b"sound")
    await replica.store.tried(KEY)
    assert await in_store(remote) == b"sound"


async def test_f14_what_is_deleted_is_not_brought_back_by_an_upload(
    remote: ScriptedRemote, clock: MovableClock, replica: Replica, spool: Path
) -> None:
    gate = remote.gates[f"adopt:{KEY}"] = asyncio.Event()
    await adopt(replica, spool)
    await eventually(lambda: remote.asked("adopt:") == 1)
    deleting = asyncio.ensure_future(replica.store.delete(KEY))
    await turns()
    assert remote.asked("delete:") == 0, "it waits for the upload"
    gate.set()
    await deleting
    assert await in_store(remote) is None
    assert await replica.store.open(KEY) is None
    clock.advance(3600)
    await asyncio.sleep(4 * QUICK.look)
    assert await in_store(remote) is None


async def test_a_client_that_leaves_a_deletion_leaves_nothing_half_done(
    remote: ScriptedRemote, replica: Replica, spool: Path
) -> None:
    gate = remote.gates[f"adopt:{KEY}"] = asyncio.Event()
    await adopt(replica, spool)
    await eventually(lambda: remote.asked("adopt:") == 1)
    deleting = asyncio.ensure_future(replica.store.delete(KEY))
    await turns()
    deleting.cancel()
    await asyncio.wait([deleting])
    gate.set()
    await replica.store.tried(KEY)
    assert await replica.disk.owed() == []
    await adopt(replica, spool, KEY, b"again")
    await replica.store.tried(KEY)
    assert await in_store(remote) == b"again"


async def test_a_file_that_vanished_from_the_cache_is_dropped_and_told(
    remote: ScriptedRemote, clock: MovableClock, replica: Replica, spool: Path
) -> None:
    remote.writes = False
    await adopt(replica, spool)
    await replica.store.tried(KEY)
    replica.disk.copy(KEY).unlink()
    replica.disk.debt(KEY).unlink()
    remote.writes = True
    clock.advance(QUICK.longest_pause)
    await eventually(lambda: replica.counters["store_writes_dropped"] == 1)
    assert await replica.store.open(KEY) is None


async def test_l12_a_cache_whose_disk_hangs_loses_no_debt(
    remote: ScriptedRemote, clock: MovableClock, replica: Replica, spool: Path
) -> None:
    replica.disk.stuck = True
    await adopt(replica, spool)
    await replica.store.tried(KEY)
    assert replica.counters["store_writes_deferred"] == 1
    replica.disk.stuck = False
    clock.advance(QUICK.longest_pause)
    await eventually(lambda: replica.counters["store_writes_caught_up"] == 1)
    assert await in_store(remote) == b"wheel"


async def test_what_another_worker_has_paid_is_paid(
    remote: ScriptedRemote, clock: MovableClock, tmp_path: Path, spool: Path
) -> None:
    remote.writes = False
    first, second = (Replica(remote, clock, tmp_path / "cache") for _ in range(2))
    await adopt(first, spool)
    await first.store.tried(KEY)
    await second.store.start()
    await eventually(lambda: second.counters["store_failures"] == 1)
    remote.writes = True
    await remote.inner.put(KEY, b"wheel")
    await first.disk.settled(KEY)
    clock.advance(QUICK.longest_pause)
    for worker in (first, second):
        await eventually(lambda worker=worker: worker.counters["store_writes_caught_up"] == 1)  # type: ignore[misc]
        assert worker.counters["store_writes_dropped"] == 0
        assert await body_of(await worker.store.open(KEY)) == b"wheel"
        assert await worker.end() == 0


async def test_the_list_of_projects_is_kept_here_only_while_the_store_lacks_it(
    remote: ScriptedRemote, clock: MovableClock, replica: Replica, spool: Path
) -> None:
    await adopt(replica, spool, LIST, b"a\n")
    assert await in_store(remote, LIST) == b"a\n"
    assert await replica.disk.open(LIST) is None
    remote.writes = remote.reads = False
    await adopt(replica, spool, LIST, b"a\nb\n")
    assert replica.counters["store_failures"] >= 1
    assert await body_of(await replica.store.open(LIST)) == b"a\nb\n"
    await replica.store.tried(LIST)
    remote.writes = remote.reads = True
    clock.advance(QUICK.longest_pause)
    await eventually(lambda: replica.counters["store_writes_caught_up"] == 1)
    assert await in_store(remote, LIST) == b"a\nb\n"
    await remote.inner.put(LIST, b"by another replica\n")
    assert await body_of(await replica.store.open(LIST)) == b"by another replica\n"


async def test_an_owed_list_is_not_uploaded_over_a_newer_one_of_another_replica(
    remote: ScriptedRemote, clock: MovableClock, replica: Replica, spool: Path
) -> None:
    remote.writes = remote.reads = False
    await adopt(replica, spool, LIST, b"a\n")
    await eventually(lambda: replica.counters["store_writes_deferred"] == 1)
    kept = replica.disk.debt(LIST)
    os.utime(kept, (kept.stat().st_mtime - 60,) * 2)  # it is a minute old
    await remote.inner.put(LIST, b"a\nb\n")
    remote.writes = remote.reads = True
    clock.advance(QUICK.longest_pause)
    await eventually(lambda: replica.counters["store_writes_caught_up"] == 1)
    assert await in_store(remote, LIST) == b"a\nb\n"
    assert await body_of(await replica.store.open(LIST)) == b"a\nb\n"
    assert await replica.disk.owed() == []


async def test_a_list_that_a_crash_left_in_the_cache_does_not_hide_the_store_s(
    remote: ScriptedRemote, replica: Replica, spool: Path
) -> None:
    spool.write_bytes(b"long ago\n")
    assert await replica.disk.adopt(LIST, spool)
    await remote.inner.put(LIST, b"today\n")
    assert await body_of(await replica.store.open(LIST)) == b"today\n"


async def test_hosted_packages_are_never_owed(remote: ScriptedRemote, replica: Replica, spool: Path) -> None:
    remote.writes = False
    with pytest.raises(StoreFailure):
        await adopt(replica, spool, "local/ab/cd/p/p-1.0.tar.gz")
    assert spool.exists()
    assert await replica.disk.owed() == []
    assert replica.counters["store_writes_dropped"] == 0


async def test_an_unforeseen_failure_is_told_and_nothing_is_lost(
    remote: ScriptedRemote, clock: MovableClock, tmp_path: Path, spool: Path
) -> None:
    replica = Replica(remote, clock, tmp_path / "cache")

    async def fail() -> None:
        raise RuntimeError("a defect")

    remote.after[f"adopt:{KEY}"] = fail
    await adopt(replica, spool)
    await eventually(lambda: replica.counters["background_failures"] == 1)
    clock.advance(QUICK.longest_pause)
    await eventually(lambda: replica.counters["store_writes_caught_up"] == 1)
    replica.store.stop()
    assert await replica.tasks.drain(60) == 0
