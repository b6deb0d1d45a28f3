"""Defects of caches before an object store that are known from elsewhere: F-02 and F-05 to F-08, what they do on disks."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scene import Scene, eventually, running
from tests.s3.disks import (
    bound_by_modes,
    caches,
    changes,
    comes_from_cache,
    copies,
    reads,
    taken_by,
    watched,
)
from tests.s3.scene import Bucket
from tests.support.namespaces import with_mounts
from tests.support.needs import needs_strace
from tests.support.packages import Archive, Project, archive_of, core_metadata
from tests.support.pages import HTML, JSON
from tests.support.rawhttp import fetch
from tests.support.strace import attached, calls

pytestmark = pytest.mark.faults


# --- F-02 ---------------------------------------------------------------------------------------

_STEPS = ("writev", "linkat", "fsync", "symlinkat", "renameat", "rename", "unlink", "unlinkat")
"""The calls that bring an archive into the cache and note that the bucket lacks it, where they are made."""


async def test_f02_c30_killed_at_each_step_of_a_write_nothing_partial_is_served(bucket: Bucket, tmp_path: Path) -> None:
    needs_strace()
    replica = bucket.replica(page_ttl=600, dist_cache_dir=tmp_path / "dist", cache_free_space=0)
    counted = replica.publish("counted", 300_000)
    await replica.files_of("counted")
    with attached(replica.mirror.pid, trace=",".join(f"?{step}" for step in _STEPS), log=tmp_path / "calls"):
        await comes_from_cache(replica, counted)
        await bucket.holds(counted)
        await eventually(lambda: "unlink" in (tmp_path / "calls").read_text())
    made = [step for step in _STEPS if step in calls(tmp_path / "calls")]
    assert len(made) >= 4, made
    for number, step in enumerate(made):
        archive = replica.publish(f"killed{number}", 300_000)
        await replica.files_of(f"killed{number}")
        with attached(replica.mirror.pid, inject=[f"{step}:signal=SIGKILL"], trace=step):
            with contextlib.suppress(EOFError, ConnectionError):
                answer = await replica.get(archive.path)
                assert not answer.complete or answer.body == archive.content
            await eventually(lambda: not replica.mirror.running, f"{step} was not called")
        replica.mirror.kill()
        for place in copies(tmp_path, archive):
            assert place.read_bytes() == archive.content, step
        replica.mirror.start()
        await comes_from_cache(replica, archive)
        await bucket.holds(archive)


# --- F-05 ---------------------------------------------------------------------------------------


def unwritable(folder: Path) -> dict[str, tuple[list[str], Path]]:
    """What to put before the command, and the folder of both caches, by what is wrong with that."""
    for name in ("none", "metadata", "dist"):
        (folder / "modes" / name).mkdir(parents=True, mode=0o700)
    for name in ("metadata", "dist"):
        (folder / "modes" / name).chmod(0o500)
    (folder / "modes" / "none").chmod(0o500)
    return {
        "modes 0500": (bound_by_modes(), folder / "modes"),
        "absent, and cannot be made": (bound_by_modes(), folder / "modes" / "none" / "cache"),
        "a read-only root": (with_mounts("mount -o remount,bind,ro /"), folder / "cache"),
    }


async def test_f05_c20_c31_p37_a_cold_file_needs_no_writable_disk(bucket: Bucket, tmp_path: Path) -> None:
    for number, (what, (prefix, folder)) in enumerate(unwritable(tmp_path).items()):
        replica = bucket.replica(prefix=prefix, page_ttl=600, memory_limit="4MiB", **caches(folder))
        small, large = replica.publish(f"small{number}", 300_000), replica.publish(f"large{number}", 3_000_000)
        before = replica.mirror.counters()["cache_failures"]
        assert (await replica.ready())[0] == 200, what
        for archive in (small, large):
            assert await replica.source_of(archive) == "MISS upstream", what
            assert (await replica.get(f"{archive.path}.metadata")).body == archive.metadata, what
            await bucket.holds(archive)
            assert await replica.source_of(archive) == "HIT store", what
            assert bucket.upstream.requests[f"/{archive.path}"] == 1, what
        after = replica.mirror.counters()
        assert after["cache_failures"] > before, what
        assert after["fills_unspooled"], what
        assert replica.mirror.events("cache failing"), what
        assert (await replica.ready())[0] == 200, what
        assert not copies(tmp_path, small), what
        replica.mirror.terminate()


# --- F-06 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", ["no cache", "both caches"])
async def test_f06_c17_without_cache_folders_nothing_at_all_is_written_to_disk(
    bucket: Bucket, tmp_path: Path, local: str
) -> None:
    log = tmp_path / "calls"
    settings: dict[str, Any] = {"page_ttl": 600, "memory_limit": "4MiB"}
    settings |= caches(tmp_path) if local == "both caches" else {}
    # What Python itself would write is not the mirror's doing, and an image does without.
    replica = bucket.replica(prefix=watched(log), environ={"PYTHONDONTWRITEBYTECODE": "1"}, **settings)
    small, large = replica.publish("small", 300_000), replica.publish("large", 3_000_000)
    for _ in range(2):
        for archive in (small, large):
            name = archive.filename.partition("-")[0]
            for accept in (JSON, HTML):
                assert (await replica.get(f"simple/{name}/", {"Accept": accept})).status == 200
            assert (await replica.get("simple/", {"Accept": accept})).complete
            assert (await replica.get(f"{archive.path}.metadata")).body == archive.metadata
            assert (await fetch(replica.mirror.origin + archive.path, method="HEAD")).status == 200
            assert (await replica.get(archive.path, {"Range": "bytes=5-9"})).body == archive.content[5:10]
            await replica.get_whole(archive)
            await bucket.holds(archive)
            assert (await replica.get(f"{name}/json")).status in (200, 404)
        assert (await replica.get("simple/unknown/")).status == 404
        assert (await replica.ready())[0] == 200
    replica.mirror.terminate()
    assert bucket.stored_keys("access/")
    assert reads(log) > 100  # of Python's own modules
    assert bool(changes(log)) == (local == "both caches"), changes(log)


# --- F-07 ---------------------------------------------------------------------------------------


async def stored_once(scene: Scene, *folders: Path) -> None:
    """Every archive that is asked for takes its size on disk, and not much more."""
    archives = [scene.publish(f"part{number}", 1_500_000) for number in range(6)]
    for archive in archives:
        await scene.get_whole(archive)
    expected = sum(archive.size for archive in archives)

    def settled() -> bool:
        return all(sum(len(copies(folder, archive)) for folder in folders) == 1 for archive in archives)

    await eventually(settled)
    await eventually(lambda: abs(taken_by(*folders) - expected) <= 0.05 * expected, f"{folders} hold more or less")


async def test_f07_a_directory_store_takes_what_its_files_take(tmp_path: Path) -> None:
    with running(tmp_path) as scene:
        await stored_once(scene, tmp_path)


async def test_f07_c39_an_archive_cache_takes_what_its_files_take(bucket: Bucket, tmp_path: Path) -> None:
    replica = bucket.replica(dist_cache_dir=tmp_path, cache_free_space=0)
    await stored_once(replica, tmp_path)


# --- F-08 ---------------------------------------------------------------------------------------

_CAP = 2 << 20
_BULK = 120_000


def bulky(number: int) -> Archive:
    """A wheel and core metadata of twice `_BULK` bytes each, about, that cannot be compressed."""
    version = f"1.{number}"
    noise = random.Random(number).randbytes(_BULK).hex().encode()
    return archive_of(f"bulky-{version}-py3-none-any.whl", version, noise, core_metadata("bulky", version) + noise)


async def test_f08_c18_pulling_ten_times_the_cap_stays_under_it(bucket: Bucket, tmp_path: Path) -> None:
    archives = [bulky(number) for number in range(10 * _CAP // (2 * _BULK) + 1)]
    bucket.upstream.publish(Project("bulky", tuple(archives)))
    replica = bucket.replica(page_ttl=600, dist_cache_size=_CAP, metadata_cache_size=_CAP, **caches(tmp_path))
    most = {"dist": 0, "metadata": 0}
    for archive in archives:
        assert (await replica.get(f"{archive.path}.metadata")).body == archive.metadata
        await replica.get_whole(archive)
        for name in most:
            most[name] = max(most[name], taken_by(tmp_path / name))
    assert _CAP / 2 < most["metadata"] <= _CAP, most
    # The spool of the archive that was asked for last, and that of the one before, which is just being taken over.
    on_its_way = 2 * (2 * _BULK + 16_384)
    assert _CAP / 2 < most["dist"] <= _CAP + on_its_way, most
    evicted = replica.mirror.counters()["cache_evicted"]
    assert evicted > len(archives), evicted
