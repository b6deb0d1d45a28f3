"""One store into another: everything arrives, nothing is lost on the way, and it can be broken off anywhere."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from mirror.adapters.directory.store import DirectoryStore
from mirror.adapters.memory_store import MemoryStore
from mirror.errors import StoreFailure
from mirror.maintenance.copying import Copying, OtherIndex
from mirror.maintenance.object_copy import SMALL, Copied
from mirror.maintenance.verification import Verification
from mirror.names import archive_key, origin_key, page_key, project_name, shard
from mirror.ports import Store
from mirror.repositories.envelope import pack
from mirror.spool import DiskSpools, MemorySpools, Spools
from tests.maintenance.stocked import (
    SOURCE,
    bytes_of,
    contents,
    directory,
    document,
    flip,
    names_of,
    some_tasks,
    stock,
)
from tests.repositories.world import world
from tests.support.packages import wheel

PROJECTS = [f"project-{n}" for n in range(8)]
P = project_name("p")
HOSTED = f"local/{shard(P)}/p"


async def copied(
    source: Store, target: Store, spools: Spools | None = None, *, checksum: bool = False
) -> tuple[Copied, dict[str, str]]:
    failed: dict[str, str] = {}
    async with some_tasks() as tasks:
        copying = Copying(
            source, target, spools or MemorySpools(64 << 20), tasks, checksum=checksum, failed=failed.__setitem__
        )
        result = await copying.run()
    assert result.failed == len(failed)
    return result, failed


@asynccontextmanager
async def both(folder: Path) -> AsyncIterator[tuple[DirectoryStore, DirectoryStore, DiskSpools]]:
    spools = DiskSpools(folder / "to" / "spool")
    async with directory(folder / "from") as source, directory(folder / "to") as target:
        spools.prepare()
        try:
            yield source, target, spools
            assert [path for path in (folder / "to" / "spool").rglob("*") if path.is_file()] == []
        finally:
            spools.close()


async def everything(store: Store) -> list[str]:
    """A store with one object of each class, one of them large."""
    keys = await stock(store, PROJECTS, count=3)
    large = bytes_of("large-1.0.tar.gz", SMALL + 1)
    more = {
        archive_key(SOURCE, project_name("large"), "large-1.0.tar.gz"): large,
        page_key(SOURCE, project_name("large")): pack(document("large", {"large-1.0.tar.gz": large})),
        page_key(SOURCE, project_name("large"), ".legacy"): b'{"info": {}, "vulnerabilities": []}',
        "meta/pypi/projects.txt": b"large\n",
        f"{HOSTED}/p-1.0.tar.gz": b"hosted",
        f"{HOSTED}/p-1.0.tar.gz.json": b"{}",
        f"{HOSTED}/p-1.0.tar.gz.metadata": b"Name: p",
        "local-projects/p": b"",
        "access/2026-01-01/a.bin": b"12345678",
        "pins/a.json": b"[]",
    }
    for key, body in more.items():
        await store.put(key, body)
    return [*keys, *more]


@pytest.mark.parametrize("checksum", [False, True])
async def test_a_copy_is_equal_and_a_second_one_has_nothing_to_do(tmp_path: Path, checksum: bool) -> None:
    """P-12: from a folder to memory and back to another folder."""
    async with both(tmp_path) as (source, target, spools):
        keys = await everything(source)
        await source.put("leases/gc.json", b"mine")
        middle = MemoryStore(64 << 20)
        result, failed = await copied(source, middle, spools, checksum=checksum)
        assert failed == {}
        # The record of where the upstream is goes ahead of everything, and is in no account.
        assert (result.copied, result.verified) == (len(keys) - 1, 3 * len(PROJECTS) + 1)
        await copied(middle, target, spools, checksum=checksum)
        expected = await contents(source)
        del expected["leases/gc.json"]
        assert await contents(target) == expected
        result, _ = await copied(source, target, spools, checksum=checksum)
        assert (result.copied, result.skipped) == (0, len(keys) - 1)


async def test_nothing_in_the_target_is_deleted_or_made_older(tmp_path: Path) -> None:
    async with both(tmp_path) as (source, target, spools):
        await stock(source, ["p", "q"])
        await stock(target, ["r"])
        old, new = (
            pack(document("p", {n: bytes_of(n) for n in names_of("p")}, fetched_at=1.7e9 + age)) for age in (-1, 1)
        )
        await target.put(page_key(SOURCE, P), new)
        await target.put(page_key(SOURCE, project_name("q")), old)
        await target.put("access/2026-01-01/a.bin", b"87654321")
        await source.put("access/2026-01-01/a.bin", b"12345678")
        theirs = await contents(target)
        await copied(source, target, spools)
        after = await contents(target)
        ours = await contents(source)
        assert after == theirs | ours | {
            page_key(SOURCE, P): new,
            "access/2026-01-01/a.bin": b"87654321",
        }


@pytest.mark.parametrize(("ours", "theirs", "wins"), [(5, 4, True), (4, 5, False), (5, 5, True), (5, None, True)])
async def test_the_newer_page_stays_by_serial_and_then_by_time(ours: int, theirs: int | None, wins: bool) -> None:
    source, target = MemoryStore(1 << 20), MemoryStore(1 << 20)
    key = page_key(SOURCE, P)
    older_by_time = ours == 5 and theirs == 4
    mine = pack(document("p", {}, serial=ours, fetched_at=1.0 if older_by_time else 3.0))
    await source.put(key, mine)
    await target.put(key, pack(document("p", {}, serial=theirs, fetched_at=2.0)))
    await copied(source, target)
    assert (await target.read(key, 10_000) == mine) is wins


async def test_damage_in_the_source_does_not_travel(tmp_path: Path) -> None:
    """P-13: what arrives passes its hash."""
    chance = random.Random(13)
    async with both(tmp_path) as (source, target, spools):
        keys = await everything(source)
        bad = [
            next(key for key in keys if key.endswith("project_1-1.0-py3-none-any.whl")),
            archive_key(SOURCE, project_name("large"), "large-1.0.tar.gz"),
            page_key(SOURCE, project_name("project-2")),
        ]
        for key in bad:
            flip(tmp_path / "from" / key, chance)
        before = await contents(target)
        _, failed = await copied(source, target, spools)
        assert failed.keys() == set(bad)
        assert "sha256" in failed[bad[0]]
        arrived = await contents(target)
        assert before == {}
        assert set(keys) - arrived.keys() == set(bad)


async def test_with_checksum_damage_in_the_target_is_made_good(tmp_path: Path) -> None:
    async with both(tmp_path) as (source, target, spools):
        keys = await stock(source, PROJECTS[:3])
        await copied(source, target, spools)
        damaged = [key for key in keys if key.endswith((".whl", ".metadata"))]
        for key in damaged:
            flip(tmp_path / "to" / key, random.Random(1))
        result, _ = await copied(source, target, spools)
        assert result.copied == 0, "the sizes are equal"
        result, _ = await copied(source, target, spools, checksum=True)
        assert result.copied == len(damaged)
        assert await contents(target) == await contents(source)


async def test_a_truncated_object_in_the_target_is_copied_again(tmp_path: Path) -> None:
    async with both(tmp_path) as (source, target, spools):
        keys = await stock(source, PROJECTS[:2])
        await copied(source, target, spools)
        await target.put(keys[1], b"short")
        result, _ = await copied(source, target, spools)
        assert result.copied == 1
        assert await contents(target) == await contents(source)


async def test_two_indexes_under_one_name_are_not_mixed(tmp_path: Path) -> None:
    source, target = MemoryStore(1 << 20), MemoryStore(1 << 20)
    await stock(source, ["p"])
    await target.put(origin_key(SOURCE), msgspec.json.encode({"url": "https://other.example.com/simple/"}))
    before = await contents(target)
    with pytest.raises(OtherIndex, match="pypi"):
        await copied(source, target)
    assert await contents(target) == before


async def test_a_target_that_refuses_stops_the_copy() -> None:
    source, target = MemoryStore(1 << 20), MemoryStore(1000)
    await stock(source, ["p"])
    with pytest.raises(StoreFailure):
        await copied(source, target)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_copy_that_is_killed_anywhere_is_consistent_and_goes_on(tmp_path: Path, when: str) -> None:
    async with directory(tmp_path / "from") as source:
        await everything(source)
        expected = await contents(source)
    chance = random.Random(when)
    for round_, writes in enumerate(
        [1, *sorted(chance.sample(range(2, 40), 3)), *range(len(expected) - 6, len(expected) - 3)]
    ):
        target = tmp_path / f"to-{round_}"
        child = subprocess.run(
            [sys.executable, "-m", "tests.maintenance.copy_child", tmp_path / "from", target, str(writes), when],
            timeout=100,
            check=False,
        )
        assert child.returncode == -9
        async with directory(target) as store, directory(tmp_path / "from") as source:
            part = await contents(store)
            assert part.items() <= expected.items(), "what is there is whole"
            assert len(part) < len(expected)
            for page in [key for key in part if key.startswith("meta/") and key.count("/") == 4]:
                folder = page.removesuffix(".json").replace("meta/", "files/", 1).removesuffix(".legacy") + "/"
                assert {k for k in expected if k.startswith(folder)} <= part.keys(), "archives come before their page"
            for record in [key for key in part if key.startswith("local/") and key.endswith(".json")]:
                assert record.removesuffix(".json") in part
            spools = DiskSpools(target / "spool")
            spools.prepare()
            await copied(source, store, spools)
            assert await contents(store) == expected
            spools.close()
            assert list((target / "spool").iterdir()) == []


async def test_a_backup_of_a_mirror_at_work_is_sound_and_serves(tmp_path: Path) -> None:
    """P-12, P-13: archives and pages are written while they are copied; a mirror over the backup serves them."""
    async with world(tmp_path / "first") as mirror, directory(tmp_path / "backup") as backup:
        files = [mirror.publish(wheel(name, f"{n}.0"), name) for name in ("p", "q", "r") for n in range(4)]
        writing = asyncio.gather(*(mirror.get(file) for file in files))
        await copied(mirror.store, backup)
        bodies = await writing
        await mirror.settle()
        async with some_tasks() as tasks:
            account = await Verification(backup, tasks).run()
        assert not [kind for kind in account.findings if kind.value == "damaged"]
        await copied(mirror.store, backup)
        async with some_tasks() as tasks:
            assert (await Verification(backup, tasks).run()).sound
        assert await contents(backup) == await contents(mirror.store)
        assert bodies == [mirror.upstream.files[file.url] for file in files]
