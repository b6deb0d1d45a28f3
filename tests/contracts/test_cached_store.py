"""The stores that are wrapped round others, under the contract of all stores."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mirror.adapters.memory_store import MemoryStore
from mirror.counters import Counters
from mirror.flight import Tasks
from mirror.ports import Store
from mirror.repositories.content import close
from mirror.stores.access import AccessLog, RecordingStore
from mirror.stores.cached import CachedStore
from mirror.testing import MovableClock
from tests.contracts.store_contract import StoreContract
from tests.stores.world import MemoryRecords, Replica, ScriptedRemote


class _Persistent(CachedStore):
    """As readers of a damaged archive are: they find it damaged in the cache, then in the store."""

    async def quarantine(self, key: str) -> None:
        await super().quarantine(key)
        while (content := await self.open(key)) is not None:
            await close(content)
            await super().quarantine(key)


def _replica(memory: MemoryStore, caches: str, folder: Path) -> Replica:
    return Replica(
        ScriptedRemote(memory),
        MovableClock(),
        folder if caches in ("archives", "both") else None,
        records=MemoryRecords() if caches in ("records", "both") else None,
        kind=_Persistent,
    )


class TestCachedStore(StoreContract):
    @pytest.fixture(params=["no caches", "records", "archives", "both"])
    def caches(self, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

    @pytest.fixture
    def memory(self) -> MemoryStore:
        return MemoryStore(64 << 20)

    @pytest.fixture
    def make_store(self, caches: str, tmp_path: Path) -> Callable[[], Awaitable[Store]]:
        numbers = itertools.count()

        async def make() -> Store:
            replica = _replica(MemoryStore(64 << 20), caches, tmp_path / f"cache-{next(numbers)}")
            await replica.store.start()
            return replica.store

        return make

    @pytest.fixture
    async def store(self, memory: MemoryStore, caches: str, tmp_path: Path) -> AsyncIterator[CachedStore]:
        replica = _replica(memory, caches, tmp_path / "cache")
        await replica.store.start()
        yield replica.store
        assert await replica.end() == 0
        if replica.archives is not None:
            assert await replica.archives.owed() == []
        await replica.store.aclose()

    @pytest.fixture
    def quarantined(self, memory: MemoryStore) -> Callable[[], list[bytes]]:
        return memory.quarantined


class TestRecordingStore(StoreContract):
    @pytest.fixture
    def memory(self) -> MemoryStore:
        return MemoryStore(64 << 20)

    @pytest.fixture
    def make_store(self) -> Callable[[], Awaitable[Store]]:
        async def make() -> Store:
            return _recording(MemoryStore(64 << 20))

        return make

    @pytest.fixture
    async def store(self, memory: MemoryStore) -> AsyncIterator[RecordingStore]:
        store = _recording(memory)
        yield store
        await store.aclose()

    @pytest.fixture
    def quarantined(self, memory: MemoryStore) -> Callable[[], list[bytes]]:
        return memory.quarantined


def _recording(memory: MemoryStore) -> RecordingStore:
    counters = Counters()
    return RecordingStore(memory, AccessLog(memory, Tasks(counters), MovableClock(), counters, "replica"))
