"""Every store under the one contract."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mirror.adapters.directory.store import DirectoryStore
from mirror.adapters.memory_store import MemoryStore
from mirror.ports import Store
from tests.contracts.store_contract import StoreContract


class TestDirectoryStore(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], Awaitable[Store]]:
        numbers = itertools.count()

        async def make() -> Store:
            store = DirectoryStore(tmp_path / f"store-{next(numbers)}")
            await store.start()
            return store

        return make

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[DirectoryStore]:
        store = DirectoryStore(tmp_path / "store")
        await store.start()
        yield store
        await store.aclose()
        assert list((tmp_path / "store").rglob(".*")) == []

    @pytest.fixture
    def quarantined(self, tmp_path: Path) -> Callable[[], list[bytes]]:
        folder = tmp_path / "store" / "quarantine"
        return lambda: [p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()]


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> Callable[[], Awaitable[Store]]:
        async def make() -> Store:
            return MemoryStore(64 << 20)

        return make

    @pytest.fixture
    async def store(self) -> AsyncIterator[MemoryStore]:
        store = MemoryStore(64 << 20)
        await store.start()
        yield store
        await store.aclose()

    @pytest.fixture
    def quarantined(self, store: MemoryStore) -> Callable[[], list[bytes]]:
        return store.quarantined
