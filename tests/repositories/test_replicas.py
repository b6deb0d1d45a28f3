"""Several replicas of a mirror on one store: what one finds out, the others show within the lifetime of a page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.adapters.directory.store import DirectoryStore
from mirror.counters import Counters
from mirror.errors import NotHeld, UpstreamDown
from mirror.flight import Tasks
from mirror.freshness import Lifetime
from mirror.model import Learned, Origin
from mirror.names import project_name
from mirror.repositories.cached import CachedRepository, Rules
from mirror.spool import MemorySpools
from mirror.testing import MemoryUpstream, MovableClock
from tests.repositories.world import serial_page

P = project_name("p")
TTL = 600
RULES = Rules(pages=Lifetime(TTL, 0), lists=Lifetime(TTL, TTL))


class Replica:
    """One process of a mirror; all share the store, the clock and upstream."""

    def __init__(self, store: DirectoryStore, clock: MovableClock, upstream: MemoryUpstream, rules: Rules) -> None:
        self.counters = Counters()
        self.tasks = Tasks(self.counters)
        self.upstream = upstream
        self.repository = CachedRepository(
            upstream, store, MemorySpools(1 << 20), clock, self.tasks, self.counters, rules
        )

    async def files(self) -> list[str]:
        return [file.filename for file in (await self.repository.project_page(P)).page.files]

    async def settle(self) -> None:
        assert await self.tasks.drain(20) == 0

    async def close(self) -> None:
        await self.settle()
        self.repository.close()


class Cluster:
    """A store, a clock, an upstream, and replicas."""

    def __init__(self, store: DirectoryStore) -> None:
        self.store, self.clock = store, MovableClock()
        self.upstream = MemoryUpstream(self.clock)
        self.replicas: list[Replica] = []

    def replica(self, *, rules: Rules = RULES) -> Replica:
        self.replicas.append(Replica(self.store, self.clock, self.upstream, rules))
        return self.replicas[-1]


@asynccontextmanager
async def running(root: Path) -> AsyncIterator[Cluster]:
    store = DirectoryStore(root)
    await store.start()
    cluster = Cluster(store)
    try:
        yield cluster
    finally:
        for replica in cluster.replicas:
            await replica.close()
        await store.aclose()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(tmp_path / "data") as made:
        yield made


async def test_f03_a_replica_shows_the_page_that_another_has_refreshed_within_its_lifetime(cluster: Cluster) -> None:
    a, b = cluster.replica(), cluster.replica()
    cluster.upstream.publish("p", "p-1.0.tar.gz", b"one")
    assert await a.files() == ["p-1.0.tar.gz"]
    await a.settle()
    assert await b.files() == ["p-1.0.tar.gz"]
    assert cluster.upstream.calls["page:p"] == 1
    cluster.upstream.publish("p", "p-2.0.tar.gz", b"two")
    cluster.clock.advance(TTL)
    assert await a.files() == ["p-1.0.tar.gz", "p-2.0.tar.gz"]
    await a.settle()
    with cluster.upstream.failing(UpstreamDown("memory", "it is away")):
        assert await b.files() == ["p-1.0.tar.gz", "p-2.0.tar.gz"]
    assert cluster.upstream.calls["page:p"] == 2, "what another replica has just asked need not be asked again"


async def test_f03_an_offline_replica_shows_what_an_online_one_brings(cluster: Cluster) -> None:
    a = cluster.replica()
    b = cluster.replica(rules=Rules(pages=Lifetime(TTL, 0), lists=Lifetime(TTL, TTL), offline=True))
    with pytest.raises(NotHeld):
        await b.files()
    cluster.upstream.publish("p", "p-1.0.tar.gz", b"one")
    await a.files()
    await a.settle()
    assert await b.files() == ["p-1.0.tar.gz"]
    cluster.upstream.publish("p", "p-2.0.tar.gz", b"two")
    cluster.clock.advance(TTL)
    await a.files()
    await a.settle()
    answer = await b.repository.project_page(P)
    assert [file.filename for file in answer.page.files] == ["p-1.0.tar.gz", "p-2.0.tar.gz"]
    assert (answer.origin, answer.stale) == (Origin.STORE, False)


async def test_an_unchanged_page_is_confirmed_by_upstream_and_costs_no_write(cluster: Cluster) -> None:
    a, b = cluster.replica(), cluster.replica()
    cluster.upstream.publish("p", "p-1.0.tar.gz", b"one")
    await a.files()
    await a.settle()
    await b.files()
    before = [found async for found in cluster.store.list("meta/")]
    for _ in range(3):
        cluster.clock.advance(TTL)
        await a.files()
        await b.files()
    await a.settle()
    await b.settle()
    assert [found async for found in cluster.store.list("meta/")] == before


async def test_u21_a_replica_that_wrote_late_takes_no_newer_page_away(cluster: Cluster) -> None:
    a, b = cluster.replica(), cluster.replica()
    cluster.upstream.publish("p", "p-1.0.tar.gz", b"one")
    older = serial_page(cluster.upstream.pages[P], 5)
    cluster.upstream.publish("p", "p-2.0.tar.gz", b"two")
    newer = serial_page(cluster.upstream.pages[P], 10)
    cluster.upstream.pages[P] = newer
    assert len(await a.files()) == 2
    await a.settle()
    # The other one had asked upstream before, was answered by a lagging cache, and writes only now.
    await cluster.store.delete(await page_key_of(cluster))
    cluster.upstream.pages[P] = older
    assert len(await b.files()) == 1
    await b.settle()
    cluster.upstream.pages[P] = newer
    cluster.clock.advance(TTL)
    assert len(await a.files()) == 2
    await a.settle()
    cluster.clock.advance(TTL)
    with cluster.upstream.failing(UpstreamDown("memory", "it is away")):
        assert len(await b.files()) == 2, "the newer page is in the store again"


async def test_two_replicas_lose_nothing_that_either_has_learnt(cluster: Cluster) -> None:
    a, b = cluster.replica(), cluster.replica()
    cluster.upstream.publish("p", "p-1.0.tar.gz", b"one")
    cluster.upstream.publish("p", "p-2.0.tar.gz", b"two")
    await a.files()
    await a.settle()
    await b.files()
    a.repository._pages.learn(P, "p-1.0.tar.gz", Learned(size=3))
    await a.settle()
    b.repository._pages.learn(P, "p-2.0.tar.gz", Learned(size=3))
    await b.settle()
    fresh = cluster.replica()
    for name in ("p-1.0.tar.gz", "p-2.0.tar.gz"):
        assert await fresh.repository._pages.lesson(P, name) == Learned(size=3)


async def test_k30_a_page_that_the_store_lost_is_stored_again(cluster: Cluster) -> None:
    a = cluster.replica()
    cluster.upstream.publish("p", "p-1.0.tar.gz", b"one")
    await a.files()
    await a.settle()
    await cluster.store.delete(await page_key_of(cluster))
    cluster.clock.advance(TTL)
    assert await a.files() == ["p-1.0.tar.gz"]
    await a.settle()
    assert await page_key_of(cluster)


async def page_key_of(cluster: Cluster) -> str:
    [key] = [found.key async for found in cluster.store.list("meta/memory/") if found.key.endswith("/p.json")]
    return key
