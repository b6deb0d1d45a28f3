"""What the memory store does beyond the contract: it forgets what was not used for longest."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.adapters.memory_store import MemoryStore
from mirror.errors import StoreFailure
from tests.support.objects import body_of, keys_of


async def test_the_object_not_used_for_longest_is_forgotten() -> None:
    store = MemoryStore(3 * 101)
    for key in "abc":
        await store.put(key, b"x" * 100)
    await body_of(await store.open("a"))
    await store.read("b", 100)
    await store.put("d", b"x" * 100)
    assert await keys_of(store) == ["a", "b", "d"]


async def test_room_is_counted_back() -> None:
    store = MemoryStore(1000)
    for _ in range(20):
        await store.put("a", b"x" * 900)
        await store.delete("a")
    await store.put("a", b"x" * 400)
    await store.put("a", b"x" * 500)
    await store.put("b", b"x" * 400)
    assert await keys_of(store) == ["a", "b"]


async def test_an_object_larger_than_the_store_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    store = MemoryStore(100)
    await store.put("a", b"x")
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100)
    with pytest.raises(StoreFailure):
        await store.put("b", b"x" * 100)
    with pytest.raises(StoreFailure):
        await store.adopt("b", source)
    assert source.exists()
    assert await keys_of(store) == ["a"]


async def test_quarantine_counts_and_gives_way() -> None:
    store = MemoryStore(200)
    await store.put("a", b"x" * 100)
    await store.quarantine("a")
    assert store.quarantined() == [b"x" * 100]
    await store.put("b", b"x" * 150)
    assert store.quarantined() == []
    assert await keys_of(store) == ["b"]
