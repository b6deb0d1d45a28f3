"""Counting a store: statistics and the largest shares."""

from __future__ import annotations

import pytest

from mirror.adapters.memory_store import MemoryStore
from mirror.maintenance.statistics import CLASSES, class_of, statistics
from mirror.maintenance.usage import usage
from mirror.names import archive_key, page_key, project_name, shard
from tests.maintenance.stocked import contents, stock

P = project_name("p")
KEYS = {
    archive_key("pypi", P, "p-1.tar.gz"): ("archives", "pypi"),
    archive_key("pypi", P, "p-1.tar.gz", ".metadata"): ("metadata", "pypi"),
    archive_key("corp", P, "p-1.tar.gz", ".provenance"): ("provenance", "corp"),
    page_key("pypi", P): ("pages", "pypi"),
    page_key("pypi", P, ".legacy"): ("legacy", "pypi"),
    page_key("pypi", P, ".legacy-1.0"): ("legacy", "pypi"),
    "meta/pypi/upstream.json": ("lists", "pypi"),
    "meta/pypi/projects.txt": ("lists", "pypi"),
    f"local/{shard(P)}/p/p-1.tar.gz": ("hosted archives", ""),
    f"local/{shard(P)}/p/p-1.tar.gz.metadata": ("hosted metadata", ""),
    f"local/{shard(P)}/p/p-1.tar.gz.json": ("hosted records", ""),
    "local-projects/p": ("hosted records", ""),
    "access/2026-01-01/a.bin": ("access", ""),
    "access/2026-01-01/b.bin": ("access", ""),
    "leases/gc.json": ("leases", ""),
    "pins/a.json": ("pins", ""),
    "files/pypi/README": ("other", ""),
    "access/never": ("other", ""),
    "hello": ("other", ""),
}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_its_class(key: str) -> None:
    assert class_of(key) == KEYS[key]


def test_there_is_a_key_of_every_class() -> None:
    assert {kind for kind, _ in KEYS.values()} == set(CLASSES)


async def test_statistics_count_everything_once() -> None:
    store = MemoryStore(1 << 20)
    for number, key in enumerate(KEYS):
        await store.put(key, bytes(number))
    found = await statistics(store)
    assert found.total.objects == len(KEYS) == sum(amount.objects for amount in found.classes.values())
    assert found.total.bytes == sum(range(len(KEYS))) == sum(amount.bytes for amount in found.classes.values())
    assert found.projects == {"pypi": 1}
    assert found.hosted_projects == 1
    assert found.access_days == ["2026-01-01"]
    assert found.total.oldest is not None
    assert found.total.newest is not None
    assert found.total.oldest <= found.total.newest


async def test_the_largest_come_first_whatever_is_asked_for() -> None:
    store = MemoryStore(1 << 20)
    projects = ["a", "a-b", "b"]
    await stock(store, projects)
    await store.put(archive_key("pypi", project_name("b"), "b-9.tar.gz"), bytes(5000))
    await store.put(f"local/{shard(P)}/p/p-1.tar.gz", bytes(100_000))
    sizes = {key: len(body) for key, body in (await contents(store)).items()}
    found = await usage(store)
    assert [share.name for share in found.largest][:2] == ["local/p", "pypi/b"]
    assert {share.name for share in found.largest} == {
        "local/p",
        *(f"pypi/{p}" for p in projects),
        "meta/pypi/upstream.json",
    }
    assert (found.bytes, found.objects) == (sum(sizes.values()), len(sizes))
    of_b = {key: size for key, size in sizes.items() if "/b/" in key or key.endswith("/b.json")}
    assert (found.largest[1].bytes, found.largest[1].objects) == (sum(of_b.values()), len(of_b))
    two = await usage(store, largest=2)
    assert two.largest == found.largest[:2]
    assert (two.bytes, two.shares) == (found.bytes, found.shares)
    archives = await usage(store, "files/")
    assert {share.name for share in archives.largest} == {f"pypi/{p}" for p in projects}
    folder = archive_key("pypi", project_name("b"), "")
    within = await usage(store, folder)
    assert {share.name: share.bytes for share in within.largest} == {
        key: size for key, size in sizes.items() if key.startswith(folder)
    }
    assert within.largest[0].name.endswith("b-9.tar.gz")
