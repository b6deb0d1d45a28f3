"""Records of a shared store in a replica's own cache: never older than their lifetime, never lost in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from mirror.errors import StoreFailure
from mirror.model import Blob, Unchanged
from mirror.stores.records import MAX_RECORD
from mirror.testing import MovableClock
from tests.stores.world import MemoryRecords, Replica, ScriptedRemote, eventually, remote_store, turns

PAGE = "meta/pypi/ab/cd/p.json"
SIDECAR = "files/pypi/ab/cd/p/p-1.0-py3-none-any.whl.metadata"
PROVENANCE = "files/pypi/ab/cd/p/p-1.0-py3-none-any.whl.provenance"
LIMIT = 1 << 20
LIFETIME = 600.0


@pytest.fixture
def remote() -> ScriptedRemote:
    return remote_store()


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
async def b(remote: ScriptedRemote, clock: MovableClock) -> AsyncIterator[Replica]:
    """The replica under test."""
    replica = Replica(remote, clock, records=MemoryRecords(), lifetime=LIFETIME)
    yield replica
    assert await replica.end() == 0


async def test_c19_a_record_is_read_once_from_the_store_and_then_from_the_cache(
    remote: ScriptedRemote, b: Replica
) -> None:
    await remote.inner.put(PAGE, b"one")
    for _ in range(5):
        assert await b.store.read(PAGE, LIMIT) == b"one"
    assert remote.asked("reread:") == 1
    assert remote.asked("read:") == remote.asked("open:") == 0


async def test_f03_what_another_replica_wrote_is_seen_within_the_lifetime(
    remote: ScriptedRemote, clock: MovableClock, b: Replica
) -> None:
    a = Replica(remote, clock, records=MemoryRecords(), lifetime=LIFETIME)
    await a.store.put(PAGE, b"old")
    assert await b.store.read(PAGE, LIMIT) == b"old"
    await a.store.put(PAGE, b"new")
    assert await b.store.read(PAGE, LIMIT) == b"old"
    clock.advance(LIFETIME)
    assert await b.store.read(PAGE, LIMIT) == b"new"
    await remote.inner.delete(PAGE)
    clock.advance(LIFETIME)
    assert await b.store.read(PAGE, LIMIT) is None
    await a.end()


async def test_f03_what_was_written_here_expires_too(remote: ScriptedRemote, clock: MovableClock, b: Replica) -> None:
    await b.store.put(PAGE, b"ours")
    assert await b.store.read(PAGE, LIMIT) == b"ours"
    assert remote.asked("reread:") == 0
    await remote.inner.put(PAGE, b"theirs")
    clock.advance(LIFETIME)
    assert await b.store.read(PAGE, LIMIT) == b"theirs"


async def test_f03_a_clock_that_was_set_back_confirms_nothing(
    remote: ScriptedRemote, clock: MovableClock, b: Replica
) -> None:
    await b.store.put(PAGE, b"old")
    await remote.inner.put(PAGE, b"new")
    clock.set_wall_clock(clock.now() - 86_400)
    assert await b.store.read(PAGE, LIMIT) == b"new"


async def test_c21_an_expired_record_is_confirmed_without_its_body(
    remote: ScriptedRemote, clock: MovableClock, b: Replica
) -> None:
    await remote.inner.put(PAGE, b"one")
    assert await b.store.read(PAGE, LIMIT) == b"one"
    for lifetimes in range(1, 4):
        clock.advance(LIFETIME)
        assert await b.store.read(PAGE, LIMIT) == b"one"
        assert await b.store.read(PAGE, LIMIT) == b"one"
        assert remote.asked("reread:") == 1 + lifetimes
    assert remote.asked("body:") == 1


async def test_c21_after_a_restart_the_version_is_known_still(
    remote: ScriptedRemote, clock: MovableClock, b: Replica
) -> None:
    await remote.inner.put(PAGE, b"one")
    await b.store.read(PAGE, LIMIT)
    restarted = Replica(remote, clock, records=b.records, lifetime=LIFETIME)
    found = await restarted.store.reread(PAGE, LIMIT, "")
    assert isinstance(found, Blob)
    assert found.body == b"one"
    assert await restarted.store.reread(PAGE, LIMIT, found.version) is Unchanged.UNCHANGED
    assert remote.asked("body:") == 1


async def test_reread_always_asks_the_store_and_its_answer_is_remembered(remote: ScriptedRemote, b: Replica) -> None:
    await b.store.put(PAGE, b"old")
    await remote.inner.put(PAGE, b"new")
    found = await b.store.reread(PAGE, LIMIT, "")
    assert isinstance(found, Blob)
    assert found.body == b"new"
    remote.reads = False
    assert await b.store.read(PAGE, LIMIT) == b"new"
    with pytest.raises(StoreFailure):
        await b.store.reread(PAGE, LIMIT, found.version)
    remote.reads = True
    await remote.inner.delete(PAGE)
    assert await b.store.reread(PAGE, LIMIT, found.version) is None
    remote.reads = False
    with pytest.raises(StoreFailure):
        await b.store.read(PAGE, LIMIT)


async def test_core_metadata_is_never_asked_for_again_and_provenance_is(
    remote: ScriptedRemote, clock: MovableClock, b: Replica
) -> None:
    for key in (SIDECAR, PROVENANCE):
        await b.store.put(key, b"body")
        clock.advance(100 * LIFETIME)
        assert await b.store.read(key, LIMIT) == b"body"
    assert remote.asked(f"reread:{SIDECAR}") == 0
    assert remote.asked(f"reread:{PROVENANCE}") == 1


async def test_s01_the_copy_serves_while_the_store_cannot_be_read(
    remote: ScriptedRemote, clock: MovableClock, b: Replica
) -> None:
    await b.store.put(PAGE, b"held")
    clock.advance(LIFETIME)
    remote.reads = False
    assert await b.store.read(PAGE, LIMIT) == b"held"
    assert b.counters["store_failures"] == 1, "no silent fallback"
    with pytest.raises(StoreFailure):
        await b.store.read("meta/pypi/ab/cd/q.json", LIMIT)


async def test_c28_a_record_that_the_store_refuses_is_told_and_serves_while_the_store_is_down(
    remote: ScriptedRemote, b: Replica
) -> None:
    await remote.inner.put(PAGE, b"older")
    remote.reads = remote.writes = False
    with pytest.raises(StoreFailure):
        await b.store.put(PAGE, b"newer")
    assert await b.store.read(PAGE, LIMIT) == b"newer"
    remote.reads = remote.writes = True
    assert await b.store.read(PAGE, LIMIT) == b"older", "it must not pass for what the store has"


@pytest.mark.parametrize("key", [PAGE, SIDECAR])
async def test_c29_a_record_that_the_store_refused_reaches_it_when_it_is_read_again(
    key: str, remote: ScriptedRemote, clock: MovableClock, b: Replica
) -> None:
    remote.reads = remote.writes = False
    with pytest.raises(StoreFailure):
        await b.store.put(key, b"body")
    for _ in range(2):
        assert await b.store.read(key, LIMIT) == b"body"
    remote.reads = True
    assert await b.store.read(key, LIMIT) == b"body", "it can be read, and still takes nothing"
    assert await remote.inner.read(key, LIMIT) is None
    remote.writes = True
    restarted = Replica(remote, clock, records=b.records, lifetime=LIFETIME)
    assert await restarted.store.read(key, LIMIT) == b"body"
    assert await remote.inner.read(key, LIMIT) == b"body"
    remote.reads = False
    assert await restarted.store.read(key, LIMIT) == b"body", "it is a copy like any other now"


async def test_c29_a_stand_in_overwrites_nothing(remote: ScriptedRemote, b: Replica) -> None:
    remote.writes = False
    with pytest.raises(StoreFailure):
        await b.store.put(PAGE, b"ours")
    remote.writes = True

    async def another_writes() -> None:
        await remote.inner.put(PAGE, b"theirs")

    remote.after[f"reread:{PAGE}"] = another_writes  # after the store was seen to lack it
    assert await b.store.read(PAGE, LIMIT) == b"theirs"
    assert await remote.inner.read(PAGE, LIMIT) == b"theirs"


async def test_a_read_that_a_write_overtakes_is_not_remembered(remote: ScriptedRemote, b: Replica) -> None:
    await remote.inner.put(PAGE, b"old")
    answered = asyncio.Event()
    release = asyncio.Event()

    async def on_its_way() -> None:
        answered.set()
        await release.wait()

    remote.after[f"reread:{PAGE}"] = on_its_way
    reading = asyncio.ensure_future(b.store.read(PAGE, LIMIT))
    await answered.wait()
    await b.store.put(PAGE, b"new")
    release.set()
    assert await reading == b"old"
    assert await b.store.read(PAGE, LIMIT) == b"new"


async def test_a_copy_that_is_written_slowly_does_not_replace_a_younger_one(remote: ScriptedRemote, b: Replica) -> None:
    assert b.records is not None
    await remote.inner.put(PAGE, b"old")
    gate = b.records.gates[PAGE] = asyncio.Event()
    reading = asyncio.ensure_future(b.store.read(PAGE, LIMIT))
    await turns()
    writing = asyncio.ensure_future(b.store.put(PAGE, b"new"))
    await eventually(lambda: remote.asked("put:") == 1)
    await turns()
    gate.set()
    await asyncio.gather(reading, writing)
    assert await b.store.read(PAGE, LIMIT) == b"new"


async def test_of_two_writes_at_once_neither_is_taken_for_the_last(remote: ScriptedRemote, b: Replica) -> None:
    gate = remote.gates[f"put:{PAGE}"] = asyncio.Event()
    writes = [asyncio.ensure_future(b.store.put(PAGE, body)) for body in (b"one", b"two")]
    await eventually(lambda: remote.asked("put:") == 2)
    gate.set()
    await asyncio.gather(*writes)
    assert await b.store.read(PAGE, LIMIT) == await remote.inner.read(PAGE, LIMIT)
    assert remote.asked("reread:") == 1


async def test_a_write_that_is_cut_short_leaves_no_younger_claim(
    remote: ScriptedRemote, clock: MovableClock, b: Replica
) -> None:
    await b.store.put(PAGE, b"old")
    remote.gates[f"put:{PAGE}"] = asyncio.Event()
    writing = asyncio.ensure_future(b.store.put(PAGE, b"new"))
    await eventually(lambda: remote.asked("put:") == 2)
    writing.cancel()
    await asyncio.wait([writing])
    clock.advance(LIFETIME)
    assert await b.store.read(PAGE, LIMIT) == b"old"


async def test_l07_a_damaged_record_leaves_the_cache_and_the_store(remote: ScriptedRemote, b: Replica) -> None:
    await remote.inner.put(PAGE, b"damaged")
    assert await b.store.read(PAGE, LIMIT) == b"damaged"
    await b.store.quarantine(PAGE)
    assert await b.store.read(PAGE, LIMIT) is None
    assert remote.asked("quarantine:") == 1


async def test_l07_a_sound_record_that_replaced_the_damaged_one_stays(remote: ScriptedRemote, b: Replica) -> None:
    await remote.inner.put(PAGE, b"damaged")
    assert await b.store.read(PAGE, LIMIT) == b"damaged"
    await remote.inner.put(PAGE, b"repaired by another replica")
    await b.store.quarantine(PAGE)
    assert await b.store.read(PAGE, LIMIT) == b"repaired by another replica"
    assert remote.asked("quarantine:") == 0


async def test_a_large_record_is_not_kept(remote: ScriptedRemote, b: Replica) -> None:
    assert b.records is not None
    await b.store.put(PAGE, b"small")
    await b.store.put(PAGE, bytes(MAX_RECORD + 1))
    assert b.records.bodies == {}
    assert await b.store.read(PAGE, MAX_RECORD + 1) == bytes(MAX_RECORD + 1)
    assert b.records.bodies == {}


async def test_the_limit_of_a_read_holds_for_copies(b: Replica) -> None:
    await b.store.put(PAGE, b"0123456789")
    assert await b.store.read(PAGE, 10) == b"0123456789"
    with pytest.raises(StoreFailure):
        await b.store.read(PAGE, 9)


@pytest.mark.parametrize("planted", [b"", b"body", b"{}\nbody", b'{"at": "x"}\nbody', b"\xff\xfe\nbody"])
async def test_k29_what_is_no_record_is_a_miss(planted: bytes, remote: ScriptedRemote, b: Replica) -> None:
    assert b.records is not None
    await remote.inner.put(PAGE, b"true")
    b.records.bodies[PAGE] = planted
    assert await b.store.read(PAGE, LIMIT) == b"true"
    assert b.counters["cache_damaged"] == 1


async def test_other_objects_pass_by_the_cache(remote: ScriptedRemote, b: Replica) -> None:
    assert b.records is not None
    for key in ("meta/pypi/upstream.json", "leases/0.json", "local/ab/cd/p/p-1.0.tar.gz.json", "access/d/r.bin"):
        await b.store.put(key, b"one")
        assert await b.store.read(key, LIMIT) == b"one"
        await remote.inner.put(key, b"two")
        assert await b.store.read(key, LIMIT) == b"two"
    assert b.records.bodies == {}


def test_f03_two_replicas_agree_within_the_lifetime_whatever_happens() -> None:
    run_state_machine_as_test(
        _TwoReplicas,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


_NAMES = st.sampled_from("ab")


class _TwoReplicas(RuleBasedStateMachine):
    """Writes, refusals, restarts and time; the oracle is the list of what the store held, and when."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.remote, self.clock = remote_store(), MovableClock()
        self.caches = {"a": MemoryRecords(), "b": MemoryRecords()}
        self.replicas: dict[str, Replica] = {}
        for name in "ab":
            self.restart(name)
        self.history: list[tuple[float, bytes | None]] = [(float("-inf"), None)]
        """What the store held from when on."""
        self.refused: dict[str, set[bytes]] = {"a": set(), "b": set()}
        self.numbers = 0

    @rule(name=_NAMES)
    def restart(self, name: str) -> None:
        self.replicas[name] = Replica(self.remote, self.clock, records=self.caches[name], lifetime=LIFETIME)

    @rule(name=_NAMES)
    def write(self, name: str) -> None:
        self.numbers += 1
        body = b"%d" % self.numbers
        try:
            self.runner.run(self.replicas[name].store.put(PAGE, body))
        except StoreFailure:
            self.refused[name].add(body)

    @rule(name=_NAMES)
    def delete(self, name: str) -> None:
        if self.remote.writes:
            self.runner.run(self.replicas[name].store.delete(PAGE))

    @rule(seconds=st.sampled_from([1.0, LIFETIME / 2, LIFETIME]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(reads=st.booleans(), writes=st.booleans())
    def switch(self, reads: bool, writes: bool) -> None:
        self.remote.reads, self.remote.writes = reads, writes

    @rule(name=_NAMES)
    def read(self, name: str) -> None:
        before = self.held()
        try:
            body = self.runner.run(self.replicas[name].store.read(PAGE, LIMIT))
        except StoreFailure:
            assert not self.remote.reads
            return
        self.note()
        if not self.remote.reads:
            known = {b for _, b in self.history} | self.refused[name]
            assert body in known
        elif before is None and body in self.refused[name]:
            assert self.held() == body or not self.remote.writes, "served, and lost to the store"
        else:
            horizon = self.clock.now() - LIFETIME
            ended = [when for when, _ in self.history[1:]] + [float("inf")]
            current = {b for (_, b), end in zip(self.history, ended, strict=True) if end > horizon}
            assert body in current

    @invariant()
    def note(self) -> None:
        if (now := self.held()) != self.history[-1][1]:
            self.history.append((self.clock.now(), now))

    def held(self) -> bytes | None:
        return self.runner.run(self.remote.inner.read(PAGE, LIMIT))

    def teardown(self) -> None:
        self.runner.close()
