"""The record cache: where it lies, how much it holds, and what it refuses to take for its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mirror.adapters.caches.record_disk import Damaged, SafeDisk, sealed, unsealed
from mirror.adapters.caches.records import DiskRecordCache
from mirror.counters import Counters
from mirror.errors import StartError
from mirror.testing import MovableClock

MIB = 1 << 20


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "above" / "cache"


@contextlib.asynccontextmanager
async def opened(root: Path, counters: Counters | None = None, **settings: Any) -> AsyncIterator[DiskRecordCache]:
    all_settings: dict[str, Any] = {
        "size": 16 * MIB,
        "free_space": 0,
        "clock": MovableClock(),
        "patience": 60.0,
    } | settings
    cache = DiskRecordCache(root, counters=counters or Counters(), **all_settings)
    try:
        await cache.start()
        yield cache
    finally:
        await cache.aclose()


def on_disk(root: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in root.rglob("*"))


def test_a_seal_holds_for_its_key_and_body_only() -> None:
    value = sealed("key", b"body")
    assert unsealed("key", value) == b"body"
    for damaged in (b"", value[:-1], value + b"x", b"X" + value[1:], value[:-1] + b"x", value[4:]):
        with pytest.raises(Damaged):
            unsealed("key", damaged)
    with pytest.raises(Damaged):
        unsealed("other", value)


@pytest.mark.parametrize("value", ["text", 1, None, {"a": 1}, bytearray(b"x"), open])
def test_l08_nothing_but_bytes_is_stored(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError):
        SafeDisk(str(tmp_path)).store(value, False)
    with pytest.raises(TypeError):
        SafeDisk(str(tmp_path)).put(value if value != "text" else 2)


@pytest.mark.parametrize(
    ("mode", "filename", "value"),
    [
        (4, None, b"cos\nsystem\n(S'true'\ntR."),
        (4, "ab/cd/0123456789abcdef0123456789ab.val", None),
        (3, "ab/cd/0123456789abcdef0123456789ab.val", None),
        (2, "../../../../etc/hostname", None),
        (2, "/etc/hostname", None),
        (2, "ab/cd/0123456789abcdef0123456789ab.val", None),
        (1, "/etc/hostname", b"value"),
        (1, None, "text"),
        (1, None, 5),
        (0, None, None),
        ("1", None, b"value"),
    ],
)
def test_l08_no_row_leads_to_code_or_to_a_file(tmp_path: Path, mode: object, filename: object, value: object) -> None:
    with pytest.raises(Damaged):
        SafeDisk(str(tmp_path)).fetch(mode, filename, value, False)


async def test_the_folder_is_made_for_us_alone(root: Path) -> None:
    async with opened(root):
        for folder in (root.parent, root, root / "records"):
            assert folder.stat().st_mode & 0o077 == 0, folder


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
@pytest.mark.parametrize("name", [".", "records"])
async def test_a_folder_where_others_may_write_is_refused(root: Path, mode: int, name: str) -> None:
    (root / "records").mkdir(parents=True, mode=0o700)
    (root / name).chmod(mode)
    with pytest.raises(StartError, match="Other users may write") as refusal:
        async with opened(root):
            pass
    assert "\n" not in str(refusal.value)
    assert str(root) in str(refusal.value)


async def test_a_folder_that_others_may_read_is_taken_and_its_contents_are_not_for_them(root: Path) -> None:
    root.mkdir(parents=True, mode=0o755)
    async with opened(root) as cache:
        await cache.remember("key", b"body")
        assert await cache.recall("key") == b"body"
    assert (root / "records").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.anything", "lustre"])
async def test_p05_a_network_file_system_is_refused_by_name(tmp_path: Path, root: Path, kind: str) -> None:
    mounts = tmp_path / "mounts"
    place = str(tmp_path / "above").replace(" ", r"\040")
    mounts.write_text(
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"30 22 0:50 / {place} rw,relatime shared:9 master:1 - {kind} server:/export rw,vers=4.2\n"
    )
    with pytest.raises(StartError, match=f"network file system \\({kind}\\)"):
        async with opened(root, mounts=mounts):
            pass
    assert not root.exists()


@pytest.mark.parametrize(
    "line",
    [
        "30 22 0:50 / {place} rw - nfs4 server:/export rw\n31 30 8:1 / {place}/cache rw - xfs /dev/sda1 rw\n",
        "30 22 0:50 / {place} rw - nfs4 server:/export rw\n31 30 8:1 / {place} rw - tmpfs tmpfs rw\n",
        "30 22 0:50 / {place}/cache-of-others rw - nfs4 server:/export rw\n",
        "30 22 0:50 / {place} rw - fuse.fuse-overlayfs fuse-overlayfs rw\n",
    ],
)
async def test_a_local_disk_beside_or_below_a_network_one_is_taken(tmp_path: Path, root: Path, line: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("22 1 254:0 / / rw - overlay overlay rw\n" + line.format(place=tmp_path / "above"))
    async with opened(root, mounts=mounts) as cache:
        await cache.remember("key", b"body")
        assert await cache.recall("key") == b"body"


async def test_where_mounts_are_not_told_the_folder_is_taken(tmp_path: Path, root: Path) -> None:
    async with opened(root, mounts=tmp_path / "missing") as cache:
        await cache.remember("key", b"body")
        assert await cache.recall("key") == b"body"


async def test_a_name_that_diskcache_would_expand_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="variable"):
        async with opened(tmp_path / "$HOME"):
            pass


async def test_k04_records_outlive_a_restart(root: Path) -> None:
    async with opened(root) as cache:
        await cache.remember("key", b"body")
    counters = Counters()
    async with opened(root, counters) as cache:
        assert await cache.recall("key") == b"body"
    assert counters["cache_rebuilt"] == 0


@pytest.mark.parametrize(("size", "record"), [(2 * MIB, 20_000), (8 * MIB, 300_000)])
async def test_f08_ten_times_its_size_stays_within_it(root: Path, counters: Counters, size: int, record: int) -> None:
    async with opened(root, counters, size=size) as cache:
        for number in range(10 * size // record):
            await cache.remember(f"meta/{number}", os.urandom(record))
            if number % 50 == 0:
                assert on_disk(root) <= size
        assert on_disk(root) <= size
        assert await cache.recall(f"meta/{number}") is not None
        assert await cache.recall("meta/0") is None
        assert (await cache.size() or 0) >= size // 8
    assert counters["cache_evicted"] > 0
    assert counters["cache_failures"] == 0


async def test_a_smaller_limit_holds_after_a_restart(root: Path) -> None:
    async with opened(root) as cache:
        for number in range(100):
            await cache.remember(f"meta/{number}", os.urandom(50_000))
    async with opened(root, size=2 * MIB) as cache:
        await cache.remember("key", b"body")
        assert await cache.recall("key") == b"body"
    assert on_disk(root) <= 2 * MIB


async def test_nothing_is_written_while_others_need_the_room(root: Path, counters: Counters) -> None:
    async with opened(root) as cache:
        await cache.remember("old", b"body")
    async with opened(root, counters, free_space=1 << 60) as cache:
        await cache.remember("key", b"body")
        assert await cache.recall("key") is None
        assert await cache.recall("old") == b"body"  # what is there stays in service
        await cache.remember("old", b"newer")
        assert await cache.recall("old") is None  # but nothing older than what was remembered last
        await cache.forget("old")
        assert await cache.recall("old") is None
    assert counters["cache_failures"] == 2
    assert counters["cache_rebuilt"] == 0


async def test_several_processes_worth_of_caches_share_one_folder(root: Path, counters: Counters) -> None:
    async with opened(root, counters) as one, opened(root, counters) as other:
        await one.remember("key", b"body")
        assert await other.recall("key") == b"body"
        await other.forget("key")
        assert await one.recall("key") is None
    assert counters["cache_failures"] == 0


@pytest.mark.parametrize("_attempt", range(5))
async def test_workers_that_start_at_once_agree(root: Path, counters: Counters, _attempt: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        caches = [
            DiskRecordCache(root, size=MIB, free_space=0, counters=counters, clock=MovableClock(), patience=60)
            for _ in "abcd"
        ]
        for cache in caches:
            stack.push_async_callback(cache.aclose)
        await asyncio.gather(*(cache.start() for cache in caches))
        await caches[0].remember("key", b"body")
        assert [await cache.recall("key") for cache in caches] == [b"body"] * 4
    assert counters["cache_failures"] == counters["cache_rebuilt"] == 0


async def test_a_cache_that_another_process_began_anew_is_taken_over(root: Path, counters: Counters) -> None:
    async with opened(root, counters) as one, opened(root) as other:
        await one.remember("key", b"body")
        assert await other.recall("key") == b"body"
        os.rename(root / "records", root / f"old-{'0' * 16}")
        await one.remember("key", b"newer")
        assert counters["cache_rebuilt"] == 1
        await other.remember("other", b"body")
        assert await other.recall("key") == b"newer"
        assert await one.recall("other") == b"body"
    assert sorted(p.name for p in root.iterdir()) == ["records"]


async def test_settings_planted_in_the_database_are_not_obeyed(root: Path, counters: Counters) -> None:
    """diskcache makes an attribute of every setting that it finds, and a pragma of some."""
    async with opened(root) as cache:
        await cache.remember("key", b"body")
    with contextlib.closing(sqlite3.connect(root / "records" / "cache.db")) as base, base:
        base.execute("INSERT INTO Settings VALUES ('_directory', '/etc')")
    async with opened(root, counters) as cache:
        assert await cache.recall("key") is None
        await cache.remember("key", b"body")
        assert await cache.recall("key") == b"body"
    assert counters["cache_rebuilt"] == 1


@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal"])
async def test_l09_a_link_in_place_of_the_database_is_not_followed(
    tmp_path: Path, root: Path, counters: Counters, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    (root / "records").mkdir(parents=True, mode=0o700)
    root.chmod(0o700)
    (root / "records" / name).symlink_to(outside)
    async with opened(root, counters) as cache:
        await cache.remember("key", b"body")
        assert await cache.recall("key") == b"body"
    assert outside.read_bytes() == b""
    assert counters["cache_rebuilt"] == 1


async def test_l09_a_link_in_place_of_its_folder_is_not_followed(
    tmp_path: Path, root: Path, counters: Counters
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "precious").touch()
    root.mkdir(parents=True, mode=0o700)
    (root / "records").symlink_to(outside)
    async with opened(root, counters) as cache:
        await cache.remember("key", b"body")
        assert await cache.recall("key") == b"body"
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert counters["cache_rebuilt"] == 1


async def test_closing_leaves_no_descriptor_open(root: Path) -> None:
    async with opened(root) as cache:
        await cache.remember("key", b"body")
        await asyncio.gather(*(cache.recall("key") for _ in range(10)))
    left = [
        os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{n}")
    ]
    assert not [path for path in left if path.startswith(str(root))]
