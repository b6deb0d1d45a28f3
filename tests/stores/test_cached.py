"""Where a `CachedStore` reads from and writes to, and what it leaves alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mirror.errors import StoreFailure, UnsatisfiableSpan
from mirror.model import LocalFile, Origin, Span
from mirror.testing import MovableClock
from tests.stores.world import MemoryRecords, Replica, ScriptedRemote, remote_store
from tests.support.objects import body_of, keys_of

KEY = "files/pypi/ab/cd/p/p-1.0-py3-none-any.whl"
PAGE = "meta/pypi/ab/cd/p.json"


@pytest.fixture
def remote() -> ScriptedRemote:
    return remote_store()


@pytest.fixture
def replica(remote: ScriptedRemote, tmp_path: Path) -> Replica:
    return Replica(remote, MovableClock(), tmp_path / "cache", records=MemoryRecords())


@pytest.fixture
def stateless(remote: ScriptedRemote) -> Replica:
    return Replica(remote, MovableClock())


async def test_c26_one_call_for_a_hit_and_one_for_a_miss(remote: ScriptedRemote, replica: Replica) -> None:
    await remote.inner.put(KEY, b"wheel")
    content = await replica.store.open(KEY)
    assert content is not None
    assert content.origin is Origin.STORE
    assert await body_of(content) == b"wheel"
    assert await replica.store.open(KEY + ".other") is None
    assert sum(remote.calls.values()) == 2


async def test_c19_what_was_admitted_is_read_without_the_store(
    remote: ScriptedRemote, replica: Replica, tmp_path: Path
) -> None:
    await remote.inner.put(KEY, b"0123456789")
    spool = tmp_path / "spool"
    spool.write_bytes(b"0123456789")
    assert await replica.store.admit(KEY, spool)
    assert not spool.exists()
    remote.reads = remote.writes = False
    content = await replica.store.open(KEY, Span(2, 4))
    assert isinstance(content, LocalFile)
    assert content.origin is Origin.CACHE
    assert await body_of(content) == b"234"
    with pytest.raises(UnsatisfiableSpan):
        await replica.store.open(KEY, Span(10))
    assert sum(remote.calls.values()) == 0
    assert await replica.disk.owed() == []


async def test_c16_without_caches_everything_goes_to_the_store(
    remote: ScriptedRemote, stateless: Replica, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.write_bytes(b"wheel")
    assert not await stateless.store.admit(KEY, spool)
    await stateless.store.adopt(KEY, spool)
    await stateless.store.tried(KEY)
    await stateless.store.put(PAGE, b"page")
    assert await keys_of(remote.inner) == [KEY, PAGE]
    assert await stateless.store.read(PAGE, 10) == b"page"
    assert remote.asked("read:") == 1
    spool.write_bytes(b"wheel")
    remote.writes = False
    with pytest.raises(StoreFailure):
        await stateless.store.adopt(KEY, spool)
    assert spool.exists()


async def test_only_archives_are_admitted(replica: Replica, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_bytes(b"body")
    for key in (PAGE, KEY + ".metadata", "meta/pypi/projects.txt", "local/ab/cd/p/p-1.0.tar.gz"):
        assert not await replica.store.admit(key, spool)
    assert spool.exists()


async def test_l07_a_damaged_copy_is_removed_and_the_store_keeps_its_own(
    remote: ScriptedRemote, replica: Replica, tmp_path: Path
) -> None:
    await remote.inner.put(KEY, b"sound")
    spool = tmp_path / "spool"
    spool.write_bytes(b"rotten")
    assert await replica.store.admit(KEY, spool)
    await replica.store.quarantine(KEY)
    assert await body_of(await replica.store.open(KEY)) == b"sound"
    await replica.store.quarantine(KEY)
    assert await replica.store.open(KEY) is None


async def test_f14_deletion_clears_every_copy(remote: ScriptedRemote, replica: Replica, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    for key in (KEY, PAGE):
        await replica.store.put(key, b"body")
    spool.write_bytes(b"body")
    assert await replica.store.admit(KEY, spool)
    for key in (KEY, PAGE):
        await replica.store.delete(key)
        assert await replica.store.open(key) is None
        assert await replica.store.read(key, 10) is None


async def test_what_replaces_an_archive_replaces_its_copy(
    remote: ScriptedRemote, replica: Replica, tmp_path: Path
) -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"pou"
        yield b"red"

    spool = tmp_path / "spool"
    spool.write_bytes(b"copy")
    assert await replica.store.admit(KEY, spool)
    await replica.store.pour(KEY, 6, pieces())
    assert await body_of(await replica.store.open(KEY)) == b"poured"
    spool.write_bytes(b"copy")
    assert await replica.store.admit(KEY, spool)
    await replica.store.put(KEY, b"put")
    assert await replica.store.read(KEY, 10) == b"put"


async def test_what_is_owed_counts_as_existing(remote: ScriptedRemote, replica: Replica, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_bytes(b"wheel")
    remote.writes = False
    await replica.store.adopt(KEY, spool)
    await replica.store.tried(KEY)
    remote.writes = True
    assert not await replica.store.create(KEY, b"other")
    assert not await replica.store.replace(KEY, b"other", "1")
    spool.write_bytes(b"copy")
    assert not await replica.store.admit(KEY, spool)
    assert await replica.store.read(KEY, 10) == b"wheel"
    with pytest.raises(StoreFailure):
        await replica.store.read(KEY, 4)
    await replica.end()


async def test_listing_joins_what_is_owed_with_what_is_stored(
    remote: ScriptedRemote, replica: Replica, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    for n in (1, 3, 5):
        await remote.inner.put(f"files/{n}", b"stored")
    remote.writes = False
    for n in (0, 2, 3, 6):
        spool.write_bytes(b"owed")
        await replica.store.adopt(f"files/{n}", spool)
        await replica.store.tried(f"files/{n}")
    found = {f.key[-1]: f.size async for f in replica.store.list("files/")}
    assert list(found) == ["0", "1", "2", "3", "5", "6"]
    assert found == {"0": 4, "1": 6, "2": 4, "3": 4, "5": 6, "6": 4}
    assert await keys_of(replica.store, "meta/") == []
    await replica.end()


async def test_what_the_remote_can_do_is_passed_on(remote: ScriptedRemote, replica: Replica) -> None:
    assert replica.store.remote
    for is_exact in (True, False):
        remote.is_exact = is_exact
        assert replica.store.exact == is_exact
    await replica.store.check()
