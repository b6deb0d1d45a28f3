"""One download per cluster, and never worse than without."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mirror.adapters.directory.store import DirectoryStore
from mirror.adapters.memory_store import MemoryStore
from mirror.counters import Counters
from mirror.flight import Tasks
from mirror.ports import Store
from mirror.stores.lease import Lease, Times, lease_key
from mirror.stores.leases import Leases
from mirror.testing import MovableClock
from tests.stores.world import Replica, ScriptedRemote, eventually, remote_store, turns
from tests.support.objects import keys_of

KEY = "files/pypi/ab/cd/p/p-1.0-py3-none-any.whl"
NAME = lease_key(KEY)
QUICK = Times(renew=0.005, dead=8.0, first_look=0.001, longest_look=0.002)
"""Looks and renewals come often; who is dead is told by the clock that the test moves."""
LAZY = Times(renew=10_000, dead=8.0, first_look=0.001, longest_look=0.002)
"""A holder that never renews in the test's lifetime, as one that was stopped or killed."""
WAIT = 1_000.0
PATIENT = Times(renew=0.005, dead=10 * WAIT, first_look=0.001, longest_look=0.002)
"""Who holds nobody for dead while it waits."""


class Member:
    """A replica's leases, with a clock of its own: replicas' clocks have nothing to do with each other."""

    def __init__(self, store: Store, name: str, *, times: Times = QUICK, wait: float = WAIT, **options: Any) -> None:
        self.clock = MovableClock(hash(name) % 10**9)
        self.counters = Counters()
        self.tasks = Tasks(self.counters)
        self.leases = Leases(store, self.tasks, self.clock, self.counters, name, wait, times=times, **options)

    async def end(self) -> None:
        self.leases.stop()
        assert await self.tasks.drain(60) == 0
        assert self.counters["background_failures"] == 0


@pytest.fixture
def remote() -> ScriptedRemote:
    return remote_store()


async def led(member: Member, key: str = KEY) -> Lease:
    lease = await member.leases.lead(key)
    assert lease is not None
    return lease


async def test_c37_the_second_replica_waits_for_the_first_and_reads_from_the_store(remote: ScriptedRemote) -> None:
    a, b = Member(remote, "a"), Member(remote, "b")
    lease = await led(a)
    assert lease.held
    following = asyncio.ensure_future(b.leases.lead(KEY))
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= 5)
    assert not following.done()
    await remote.inner.put(KEY, b"wheel")
    await lease.release()
    assert await following is None
    await a.end()
    await b.end()
    assert (a.counters["leases_taken"], a.counters["leases_awaited"]) == (1, 0)
    assert (b.counters["leases_taken"], b.counters["leases_awaited"]) == (0, 1)
    assert await keys_of(remote.inner) == [KEY], "no lease is left behind"


async def test_a_failed_download_passes_the_lead_on(remote: ScriptedRemote) -> None:
    a, b = Member(remote, "a"), Member(remote, "b")
    lease = await led(a)
    following = asyncio.ensure_future(led(b))
    await lease.release()
    await lease.release()
    second = await following
    assert second.held
    await second.release()
    await a.end()
    await b.end()
    assert await keys_of(remote.inner) == []


async def test_k43_who_is_killed_is_taken_over_after_a_while(remote: ScriptedRemote) -> None:
    a, b = Member(remote, "a"), Member(remote, "b", times=LAZY)
    await led(a)
    await a.tasks.drain(0)  # kill -9: nothing is renewed, nothing given back
    following = asyncio.ensure_future(led(b))
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= 5)
    b.clock.advance(QUICK.dead - 0.1)
    seen = remote.asked(f"reread:{NAME}")
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= seen + 5)
    assert not following.done(), "it is not dead before its time"
    b.clock.advance(0.2)
    second = await following
    assert second.held
    assert b.counters["leases_taken"] == 1
    await second.release()
    await b.end()
    assert await keys_of(remote.inner) == []


async def test_k43_of_many_that_take_over_one_does(remote: ScriptedRemote) -> None:
    a = Member(remote, "a")
    await led(a)
    await a.tasks.drain(0)
    others = [Member(remote, f"b{n}") for n in range(5)]
    following = [asyncio.ensure_future(m.leases.lead(KEY)) for m in others]
    seen = remote.asked(f"reread:{NAME}")
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= seen + 30)
    for member in others:
        member.clock.advance(QUICK.dead)
    await eventually(lambda: any(f.done() for f in following))
    await turns(200)
    [leader] = [f for f in following if f.done()]
    lease = leader.result()
    assert lease is not None
    assert lease.held
    await remote.inner.put(KEY, b"wheel")
    await lease.release()
    assert [await f for f in following if f is not leader] == [None] * 4
    for member in others:
        await member.end()
    assert sum(m.counters["leases_taken"] for m in others) == 1


async def test_who_renews_is_not_taken_over(remote: ScriptedRemote) -> None:
    a, b = Member(remote, "a"), Member(remote, "b")
    lease = await led(a)
    following = asyncio.ensure_future(b.leases.lead(KEY))
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= 5)
    for _ in range(10):
        seen = remote.asked(f"body:{NAME}")
        # a renewal reads the body once and the follower each new version once; so it has seen another since
        await eventually(lambda seen=seen: remote.asked(f"body:{NAME}") >= seen + 6)  # type: ignore[misc]
        b.clock.advance(QUICK.dead - 1)
        assert not following.done()
    await remote.inner.put(KEY, b"wheel")
    await lease.release()
    assert await following is None
    await a.end()
    await b.end()


async def test_a_slow_answer_is_no_sign_of_death(remote: ScriptedRemote) -> None:
    a, b = Member(remote, "a", times=LAZY), Member(remote, "b")
    lease = await led(a)
    following = asyncio.ensure_future(b.leases.lead(KEY))
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= 5)
    gate = remote.gates[f"reread:{NAME}"] = asyncio.Event()
    seen = remote.asked(f"reread:{NAME}")
    await eventually(lambda: remote.asked(f"reread:{NAME}") > seen)
    b.clock.advance(QUICK.dead)
    asked = asyncio.Event()

    async def answered() -> None:
        asked.set()

    remote.after[f"reread:{NAME}"] = answered
    gate.set()
    await asked.wait()
    assert remote.asked(f"replace:{NAME}") == 0
    await remote.inner.put(KEY, b"wheel")
    await lease.release()
    assert await following is None
    await a.end()
    await b.end()


async def test_who_was_taken_over_does_not_take_the_lease_away(remote: ScriptedRemote) -> None:
    a, b = Member(remote, "a", times=LAZY), Member(remote, "b", times=LAZY)
    lost = await led(a)  # and then it stood still
    following = asyncio.ensure_future(led(b))
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= 5)
    for member in (a, b):
        member.clock.advance(QUICK.dead)
    lease = await following
    await lost.release()
    await a.end()
    assert await keys_of(remote.inner, "leases/") == [NAME], "it is the other's by now"
    await lease.release()
    await b.end()
    assert await keys_of(remote.inner, "leases/") == []


async def test_a_holder_that_finds_its_lease_lost_goes_on_without(remote: ScriptedRemote) -> None:
    a = Member(remote, "a")
    lease = await led(a)
    await remote.inner.put(NAME, b'{"replica": "b", "nonce": "another"}')
    await eventually(lambda: len(a.tasks) == 0)
    await lease.release()
    await a.end()
    assert await remote.inner.read(NAME, 100) == b'{"replica": "b", "nonce": "another"}'


async def test_overdue_a_follower_downloads_by_itself(remote: ScriptedRemote) -> None:
    a, b = Member(remote, "a"), Member(remote, "b", times=PATIENT)
    lease = await led(a)
    following = asyncio.ensure_future(led(b))
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= 5)
    b.clock.advance(WAIT)
    own = await following
    assert not own.held
    await own.release()
    assert b.counters["leases_overdue"] == 1
    assert await keys_of(remote.inner, "leases/") == [NAME]
    await lease.release()
    await a.end()
    await b.end()


async def test_a_last_look_before_it_is_overdue(remote: ScriptedRemote) -> None:
    a, b = Member(remote, "a"), Member(remote, "b", times=PATIENT)
    lease = await led(a)
    following = asyncio.ensure_future(b.leases.lead(KEY))
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= 5)
    await remote.inner.put(KEY, b"")  # stored, and the lease not given back yet
    b.clock.advance(WAIT)
    assert await following is None
    await lease.release()
    await a.end()
    await b.end()


async def test_what_has_come_meanwhile_is_not_downloaded(remote: ScriptedRemote) -> None:
    a = Member(remote, "a")
    await remote.inner.put(KEY, b"wheel")
    assert await a.leases.lead(KEY) is None
    await a.end()
    assert a.counters["leases_taken"] == 0
    assert await keys_of(remote.inner) == [KEY]


async def test_s01_without_the_store_everybody_goes_ahead(remote: ScriptedRemote) -> None:
    a = Member(remote, "a")
    remote.writes = False
    assert not (await led(a)).held
    remote.writes, remote.reads = True, False
    assert not (await led(a)).held
    await a.end()
    assert a.counters["store_failures"] == 2
    assert await keys_of(remote.inner) == [], "a lease that could not be used is given back"


async def test_s01_a_follower_that_loses_the_store_goes_ahead(remote: ScriptedRemote) -> None:
    a, b = Member(remote, "a", times=LAZY), Member(remote, "b")
    lease = await led(a)
    following = asyncio.ensure_future(led(b))
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= 5)
    remote.reads = False
    assert not (await following).held
    remote.reads = True
    await lease.release()
    await a.end()
    await b.end()


async def test_s02_a_store_that_hangs_delays_nobody_for_longer_than_the_wait(remote: ScriptedRemote) -> None:
    a = Member(remote, "a", wait=0.01)
    remote.gates[f"create:{NAME}"] = asyncio.Event()
    assert not (await led(a)).held
    assert a.counters["leases_overdue"] == 1
    await a.end()


async def test_s09_no_leases_without_exact_writes_or_without_patience(remote: ScriptedRemote) -> None:
    impatient = Member(remote, "a", wait=0)
    assert not (await led(impatient)).held
    impatient.leases.start()
    assert len(impatient.tasks) == 0
    remote.is_exact = False
    assert not (await led(Member(remote, "b"))).held
    assert sum(remote.calls.values()) == 0


async def test_a_renewal_that_fails_is_tried_again(remote: ScriptedRemote) -> None:
    a = Member(remote, "a")
    lease = await led(a)
    remote.writes = False
    await eventually(lambda: a.counters["store_failures"] >= 2)
    remote.writes = True
    replaced = remote.asked(f"replace:{NAME}")
    await eventually(lambda: remote.asked(f"replace:{NAME}") >= replaced + 2)
    await lease.release()
    await a.end()
    assert await keys_of(remote.inner) == []


async def test_a_lease_that_cannot_be_given_back_is_told_and_taken_over(remote: ScriptedRemote) -> None:
    a, b = Member(remote, "a", times=LAZY), Member(remote, "b", times=LAZY)
    lease = await led(a)
    remote.writes = False
    await lease.release()
    await a.end()
    assert a.counters["store_failures"] == 1
    remote.writes = True
    await remote.inner.put(KEY, b"wheel")
    following = asyncio.ensure_future(b.leases.lead(KEY))
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= 5)
    b.clock.advance(QUICK.dead)
    assert await following is None
    await b.end()
    assert await keys_of(remote.inner) == [KEY]


async def test_a_client_that_leaves_while_the_lease_is_taken_leaves_none(remote: ScriptedRemote) -> None:
    a = Member(remote, "a")
    remote.gates[f"open:{KEY}"] = asyncio.Event()
    leading = asyncio.ensure_future(a.leases.lead(KEY))
    await eventually(lambda: remote.asked("open:") == 1)
    leading.cancel()
    await asyncio.wait([leading])
    await a.end()
    assert await keys_of(remote.inner) == []


async def test_f04_a_lease_lasts_until_the_upload_behind_has_had_its_try(
    remote: ScriptedRemote, tmp_path: Path
) -> None:
    cache = Replica(remote, MovableClock(), tmp_path / "cache")
    a, b = Member(remote, "a", stored=cache.store.tried), Member(remote, "b")
    gate = remote.gates[f"adopt:{KEY}"] = asyncio.Event()
    lease = await led(a)
    spool = tmp_path / "spool"
    spool.write_bytes(b"wheel")
    await cache.store.adopt(KEY, spool)
    await lease.release()
    following = asyncio.ensure_future(b.leases.lead(KEY))
    await eventually(lambda: remote.asked(f"reread:{NAME}") >= 20)
    assert not following.done()
    gate.set()
    assert await following is None
    await a.end()
    await b.end()
    await cache.end()


async def test_abandoned_leases_are_swept_and_others_are_not(tmp_path: Path) -> None:
    inner = DirectoryStore(tmp_path / "store")
    await inner.start()
    remote = ScriptedRemote(inner)
    dead, alive, sweeper = Member(remote, "dead", times=LAZY), Member(remote, "alive"), Member(remote, "sweeper")
    await led(dead)
    await dead.tasks.drain(0)
    lease = await led(alive, KEY + "-2")
    await sweeper.leases.sweep()
    assert len(await keys_of(remote.inner, "leases/")) == 2
    renewed = remote.asked(f"replace:{lease_key(KEY + '-2')}")
    await eventually(lambda: remote.asked(f"replace:{lease_key(KEY + '-2')}") >= renewed + 2)
    await sweeper.leases.sweep()
    assert await keys_of(remote.inner, "leases/") == [lease_key(KEY + "-2")]
    remote.writes = False
    await sweeper.leases.sweep()
    remote.writes = True
    await lease.release()
    for member in (alive, sweeper):
        await member.end()
    await inner.aclose()


@pytest.fixture(params=["memory", "directory"])
async def shared(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ScriptedRemote]:
    inner: MemoryStore | DirectoryStore = (
        MemoryStore(64 << 20) if request.param == "memory" else DirectoryStore(tmp_path / "store")
    )
    await inner.start()
    yield ScriptedRemote(inner)
    await inner.aclose()


async def test_s13_ten_replicas_and_one_cold_file_make_one_download(shared: ScriptedRemote) -> None:
    downloads = 0

    async def get(member: Member, key: str) -> None:
        nonlocal downloads
        if await shared.open(key) is not None:
            return
        lease = await member.leases.lead(key)
        if lease is None:
            assert await shared.inner.read(key, 100) == b"wheel"
            return
        assert lease.held
        downloads += 1
        await turns(20)
        await shared.put(key, b"wheel")
        await lease.release()

    members = [Member(shared, f"r{n}") for n in range(10)]
    for n in range(5):
        await asyncio.gather(*(get(member, f"{KEY}-{n}") for member in members))
        assert downloads == n + 1
    for member in members:
        await member.end()
    assert await keys_of(shared.inner, "leases/") == []
    assert sum(m.counters["leases_taken"] for m in members) == 5
    assert sum(m.counters["leases_overdue"] for m in members) == 0
    gc.collect()  # what a look at the store left open would show as a warning here
