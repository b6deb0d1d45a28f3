"""The caches' disk is full, turns read-only, is removed or damaged; and there is no disk, and no bucket either.

Rows L1, L2, L5, L6 and P-38, K-25, C-20: clients get the right bytes all the same, and what can come back does so by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faults.scene import eventually, eventually_async
from tests.s3.disks import caches, comes_from_cache, copies
from tests.s3.scene import Bucket, Replica
from tests.s3.tuned import tuned
from tests.support.mirror import MirrorProcess
from tests.support.namespaces import system, with_mounts
from tests.support.needs import needs, needs_root
from tests.support.packages import Archive, Project, archive_of, core_metadata
from tests.support.rawhttp import RawConnection

MIB = 1 << 20
HUGE = 40 * MIB


async def comes_back(replica: Replica, name: str) -> None:
    """Returns once a new archive is answered from the cache, and its metadata without a question to the bucket."""
    archive = replica.publish(name, 300_000)
    await comes_from_cache(replica, archive)
    await replica.bucket.holds(archive)

    async def is_kept() -> bool:
        before = replica.bucket.proxy.calls("GET", f"*/{archive.filename}.metadata")
        assert (await replica.get(f"{archive.path}.metadata")).body == archive.metadata
        return replica.bucket.proxy.calls("GET", f"*/{archive.filename}.metadata") == before

    await eventually_async(is_kept)


async def serves(replica: Replica, *archives: Archive) -> None:
    """Pages, metadata and archives, each twice."""
    for archive in (*archives, *archives):
        assert archive.filename in await replica.files_of(archive.filename.partition("-")[0])
        assert (await replica.get(f"{archive.path}.metadata")).body == archive.metadata
        await replica.get_whole(archive)
        await replica.bucket.holds(archive)
    assert (await replica.ready())[0] == 200


@contextmanager
def failing(replica: Replica, event: str = "cache_failures") -> Iterator[None]:
    """The block has to count this event."""
    before = replica.mirror.counters()[event]
    yield
    assert replica.mirror.counters()[event] > before, replica.mirror.tail()


# --- the caches' disk -----------------------------------------------------------------------------


def fill(folder: Path) -> Path:
    """Takes all the room that there is."""
    with (folder / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    return folder / "filler"


@pytest.mark.faults
async def test_l01_p38_a_full_disk_is_done_without_and_used_again_when_there_is_room(
    bucket: Bucket, tmp_path: Path
) -> None:
    prefix = with_mounts(f"mount -t tmpfs -o size=12m,mode=700 tmpfs {tmp_path}")
    replica = bucket.replica(prefix=prefix, page_ttl=600, memory_limit="4MiB", **caches(tmp_path))
    disk = Path(f"/proc/{replica.mirror.pid}/root{tmp_path}")
    await comes_back(replica, "before")

    during = replica.publish("during", 3_000_000)
    await replica.files_of("during")
    held = bucket.upstream.fault(f"/{during.path}", hang_mid_body=1_500_000)
    asking = await replica.joined(*(replica.get_whole(during) for _ in range(3)))
    await asyncio.to_thread(fill, disk)
    with failing(replica, "fills_unspooled"):
        held.release()
        await asyncio.gather(*asking)
    filler = await asyncio.to_thread(fill, disk)  # the spool that was given up has left room
    with failing(replica), failing(replica, "fills_in_memory"):
        await serves(replica, replica.publish("small", 100_000), replica.publish("large", 3_000_000))
    filler.unlink()
    await comes_back(replica, "after")


@pytest.mark.faults
async def test_l02_a_disk_that_turns_read_only_still_gives_what_it_holds(bucket: Bucket, tmp_path: Path) -> None:
    needs_root()
    needs("nsenter")
    # The folder is mounted below itself, so that another mount of the same disk, read-only, can be put over it.
    prefix = with_mounts(f"mount -t tmpfs -o size=64m,mode=700 tmpfs {tmp_path}")
    replica = bucket.replica(prefix=prefix, page_ttl=600, memory_limit="4MiB", **caches(tmp_path))

    def in_its_mounts(*command: str | Path) -> None:
        system("nsenter", f"--mount=/proc/{replica.mirror.pid}/ns/mnt", *command)

    held = replica.publish("held", 300_000)
    await serves(replica, held)
    assert await replica.source_of(held) == "HIT cache"

    def turn_read_only() -> None:
        in_its_mounts("mount", "--bind", tmp_path, tmp_path)
        in_its_mounts("mount", "-o", "remount,bind,ro", tmp_path)

    turn_read_only()
    with failing(replica, "fills_in_memory"), failing(replica, "fills_unspooled"):
        assert await replica.source_of(held) == "HIT cache"
        await serves(replica, replica.publish("small", 100_000), replica.publish("large", 3_000_000))
    in_its_mounts("umount", tmp_path)
    await comes_back(replica, "after")
    turn_read_only()
    replica.mirror.terminate()


async def test_l06_folders_removed_under_foot_are_made_again(bucket: Bucket, tmp_path: Path) -> None:
    replica = bucket.replica(page_ttl=600, **caches(tmp_path))
    held = replica.publish("held", 300_000)
    await serves(replica, held)
    await bucket.upstream_gone()
    for folder in (tmp_path / "metadata", tmp_path / "dist"):
        remove(folder)
    await serves(replica, held)
    await asyncio.to_thread(bucket.upstream.start_now)
    during = replica.publish("during", 1_000_000)
    await replica.files_of("during")
    fault = bucket.upstream.fault(f"/{during.path}", hang_mid_body=500_000)
    asking = await replica.joined(replica.get_whole(during), replica.get_whole(during))
    for folder in (tmp_path / "metadata", tmp_path / "dist"):
        remove(folder)
    fault.release()
    await asyncio.gather(*asking)  # its spool is gone: the next request has it kept
    await comes_from_cache(replica, during)
    await serves(replica, during)
    await comes_back(replica, "after")


def remove(folder: Path) -> None:
    """With all that is in it, even if somebody goes on writing."""
    for _ in range(100):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not folder.exists():
                return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            return
    raise AssertionError(f"{folder} cannot be removed")


@pytest.mark.parametrize("running", [True, False], ids=["in a run", "between two runs"])
async def test_l05_l07_caches_that_are_damaged_are_replaced(bucket: Bucket, tmp_path: Path, running: bool) -> None:
    replica = bucket.replica(page_ttl=600, **caches(tmp_path))
    held = replica.publish("held", 300_000)
    await serves(replica, held)
    await eventually(lambda: bool(copies(tmp_path, held)))
    await bucket.upstream_gone()
    if not running:
        replica.mirror.terminate()
    for place in copies(tmp_path, held):
        os.chmod(place, 0o600)
        damaged = bytearray(held.content)
        damaged[held.size // 2] ^= 1
        place.write_bytes(bytes(damaged))
    for database in (tmp_path / "metadata").rglob("cache.db*"):
        size = database.stat().st_size
        database.write_bytes(random.Random(1).randbytes(size))
    if not running:
        replica.mirror.start()
    with failing(replica, "store_quarantined"):
        await serves(replica, held)
    assert not bucket.stored_keys("quarantine/")  # it was the copy alone
    await asyncio.to_thread(bucket.upstream.start_now)
    await comes_back(replica, "after")
    assert replica.mirror.counters()["cache_rebuilt"] >= 1


# --- no disk ------------------------------------------------------------------------------------------


def huge(name: str, size: int = HUGE) -> Archive:
    """A wheel of so many bytes, as far as an index can tell."""
    return archive_of(
        f"{name}-1.0-py3-none-any.whl", "1.0", random.Random(name).randbytes(size), core_metadata(name, "1.0")
    )


async def drawn(replica: Replica, archive: Archive) -> None:
    """Reads the archive without keeping it; its bytes have to be right."""
    seen, size = hashlib.sha256(), 0
    async with RawConnection("127.0.0.1", urlsplit(replica.mirror.origin).port or 0) as connection:
        await connection.request("GET", f"/{archive.path}", {"Connection": "close"})
        head = b""
        while b"\r\n\r\n" not in head:
            head += await connection.read()
        head, _, piece = head.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        while piece or size < archive.size:
            seen.update(piece)
            size += len(piece)
            if size >= archive.size:
                break
            piece = await connection.read()
            assert piece, f"{size} of {archive.size} bytes"
    assert (size, seen.hexdigest()) == (archive.size, archive.sha256)


@contextmanager
def growing_at_most(mirror: MirrorProcess, limit: int) -> Iterator[None]:
    """The mirror's resident memory never grows by more than that in the block."""
    before = mirror.rss()
    most, over = [before], threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            most[0] = max(most[0], mirror.rss())

    looking = threading.Thread(target=look, name="memory of the mirror")
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()
    assert most[0] - before < limit, f"{(most[0] - before) / MIB:.0f} MiB more than the {before / MIB:.0f} before"


async def test_c20_p09_neither_disk_nor_bucket_four_large_files_pass_in_bounded_memory(bucket: Bucket) -> None:
    archives = [huge(f"huge{number}") for number in range(4)]
    bucket.upstream.publish(*(Project(f"huge{number}", (archive,)) for number, archive in enumerate(archives)))
    replica = bucket.replica(page_ttl=600, memory_limit="16MiB")
    small = replica.publish("small", 100_000)
    bucket.proxy.refuse()
    await replica.get_whole(small)
    for number in range(4):
        await replica.files_of(f"huge{number}")
    with growing_at_most(replica.mirror, 60 * MIB):
        await asyncio.gather(*(drawn(replica, archive) for archive in archives))
    counters = replica.mirror.counters()
    assert counters["fills_unspooled"] == 4
    assert counters["store_failures"]
    bucket.proxy.accept()


async def test_c20_a_large_cold_file_reaches_the_bucket_with_its_first_reader(bucket: Bucket) -> None:
    archive = huge("huge")
    bucket.upstream.publish(Project("huge", (archive,)))
    replica = bucket.replica(page_ttl=600, memory_limit="4MiB")
    await replica.files_of("huge")
    with growing_at_most(replica.mirror, 60 * MIB):
        await drawn(replica, archive)
        await bucket.holds(archive)
    assert await replica.source_of(archive) == "HIT store"
    assert bucket.upstream.requests[f"/{archive.path}"] == 1
    counters = replica.mirror.counters()
    assert (counters["store_uploads_dropped"], counters["store_failures"]) == (0, 0)


@pytest.mark.parametrize("multipart", [False, True], ids=["one request", "parts"])
async def test_k25_a_client_that_leaves_half_way_leaves_nothing_in_the_bucket(
    exact_bucket: Bucket, multipart: bool
) -> None:
    bucket, archive = exact_bucket, huge("huge", 16 * MIB)
    bucket.upstream.publish(Project("huge", (archive,)))
    prefix = tuned(largest_put=6 * MIB, part_size=5 * MIB) if multipart else []
    replica = bucket.replica(prefix=prefix, page_ttl=600, memory_limit="4MiB")
    await replica.files_of("huge")
    held = bucket.upstream.fault(f"/{archive.path}", hang_mid_body=archive.size // 2)
    async with replica.connection() as leaving:
        await leaving.request("GET", f"/{archive.path}")
        await leaving.read_exactly(archive.size // 4)
        begun = "UploadPart" if multipart else "PutObject"
        await eventually(lambda: bucket.proxy.calls(key=f"*/{archive.filename}", operation=begun) > 0)
        assert bool(bucket.unfinished()) == multipart
        leaving.abort()
        held.release()
        await eventually(lambda: replica.mirror.counters()["store_uploads_dropped"] == 1)
    await eventually(lambda: not bucket.unfinished())
    assert not bucket.stored_keys("files/")
    assert not [entry for entry in replica.mirror.log if entry["level"] == "error"]
    bucket.upstream.heal()
    await drawn(replica, archive)
    await bucket.holds(archive)
    assert not bucket.unfinished()
