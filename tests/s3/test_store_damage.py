"""The bucket has lost or damaged what it held: rows S6 and S15; and promise 6, one GET for all who want one object."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

from mirror.verify import HOLD_BACK
from tests.faults.scene import eventually, eventually_async
from tests.s3.disks import copies
from tests.s3.scene import Bucket, Replica
from tests.support.packages import Archive

SMALL, LARGE = 20_000, 1_000_000
"""One fits into what is held back until its digest is proven, so a client never sees that it was damaged."""

ALONE: dict[str, Any] = {"derive_metadata": False}
"""Nobody but clients reads archives."""


async def served_from(where: str, replica: Replica, *archives: Archive) -> None:
    """Returns once that is where all of them are answered from."""

    async def is_so() -> bool:
        return {await replica.source_of(archive) for archive in archives} == {where}

    await eventually_async(is_so)


async def stored(replica: Replica, name: str, size: int = LARGE) -> Archive:
    """A project whose archive and page lie in the bucket."""
    archive = replica.publish(name, size)
    await replica.files_of(name)
    await replica.bucket.holds_page(name)
    await served_from("HIT store", replica, archive)
    return archive


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def page_key(bucket: Bucket, name: str) -> str:
    [key] = [key for key in bucket.stored_keys("meta/") if key.endswith(f"/{name}.json")]
    return key


async def healed(bucket: Bucket, replica: Replica, archive: Archive) -> None:
    """Returns once the object is the archive again, and is what answers."""
    await served_from("HIT store", replica, archive)
    assert bucket.body(bucket.key_of(archive)) == archive.content


async def test_s06_a_body_that_breaks_off_goes_on_where_it_stopped_and_in_the_end_from_upstream(bucket: Bucket) -> None:
    replica = bucket.replica(**ALONE)
    archive = await stored(replica, "cut")
    asked = replica.asked(archive.path)
    for cut in ({"cut_after": 300_000}, {"reset_after": 300_000}):
        bucket.proxy.reset_log()
        bucket.proxy.fault("files/*", method="GET", times=1, **cut)
        async with (
            replica.counting(store_failures=1, store_quarantined=0, responses_aborted=0),
            replica.logging("download broke off, resuming", file=archive.filename),
        ):
            assert await replica.source_of(archive) == "HIT store"
        have = replica.mirror.events("download broke off, resuming")[-1]["have"]
        ranges = [call.headers.get("range") for call in bucket.proxy.requests("GET", "files/*")]
        assert ranges == [None, f"bytes={have}-" if have else None]
    assert replica.asked(archive.path) == asked, "the bucket had all of it"

    bucket.proxy.fault("files/*", method="GET", cut_after=100_000)
    async with (
        replica.counting(store_failures=2, store_quarantined=0, responses_aborted=0),
        replica.logging("store left for upstream", file=archive.filename),
    ):
        await replica.get_whole(archive)
    assert replica.asked(archive.path) == asked + 1
    assert not bucket.stored_keys("quarantine/"), "what breaks off is not damaged"


async def test_s06_damage_that_shows_in_time_is_healed_unseen(bucket: Bucket) -> None:
    replica = bucket.replica(**ALONE)
    archive = await stored(replica, "small", SMALL)
    body, key = archive.content, bucket.key_of(archive)
    every = (body[:-100], body + b"more", b"", flipped(body, 10))
    for damaged in every:
        bucket.put(key, damaged)
        async with (
            replica.counting(store_quarantined=1, responses_aborted=0),
            replica.logging("stored archive is damaged", file=archive.filename),
        ):
            assert await replica.source_of(archive) == "MISS upstream"
        await healed(bucket, replica, archive)
    assert sorted(map(bucket.body, bucket.stored_keys("quarantine/"))) == sorted(every)


async def test_s06_nobody_gets_flipped_bits_as_a_whole_answer(bucket: Bucket) -> None:
    replica = bucket.replica(**ALONE)
    archive = await stored(replica, "flipped")
    size = len(archive.content)
    for in_transit, at in itertools.product((False, True), (0, size - HOLD_BACK // 2)):
        if in_transit:
            bucket.proxy.fault("files/*", method="GET", flip_bit_at=at, times=1)
        else:
            bucket.put(bucket.key_of(archive), flipped(archive.content, at))
        async with (
            replica.counting(store_quarantined=1, responses_aborted=1),
            replica.logging("stored archive is damaged", file=archive.filename),
        ):
            answer = await replica.get(archive.path)
        assert not answer.complete
        assert len(answer.body) <= size - HOLD_BACK
        assert await replica.source_of(archive) == "MISS upstream"
        await healed(bucket, replica, archive)
    assert len(bucket.stored_keys("quarantine/")) == 4


async def test_s06_damage_never_comes_into_the_cache(bucket: Bucket, tmp_path: Path) -> None:
    archive = await stored(bucket.replica(), "flipped")
    replica = bucket.replica(dist_cache_dir=tmp_path, cache_free_space=0)
    await replica.files_of("flipped")
    bucket.put(bucket.key_of(archive), flipped(archive.content, 5))
    async with replica.counting(store_quarantined=1):
        assert not (await replica.get(archive.path)).complete
    assert await replica.source_of(archive) == "MISS upstream"
    await served_from("HIT cache", replica, archive)
    await bucket.holds(archive)


async def test_s06_a_damaged_page_is_fetched_anew(bucket: Bucket) -> None:
    archive = await stored(bucket.replica(), "paged")
    replica = bucket.replica(page_ttl=600)
    key = page_key(bucket, "paged")
    bucket.put(key, damaged := bucket.body(key)[:-10])
    async with (
        replica.counting(store_quarantined=1, pages_upstream=1),
        replica.logging("stored page damaged", project="paged"),
    ):
        assert set(await replica.files_of("paged")) == {archive.filename}
    await bucket.holds_page("paged")
    assert bucket.body(key) != damaged
    assert [bucket.body(cell) for cell in bucket.stored_keys("quarantine/")] == [damaged]


async def test_l07_what_changed_on_disk_before_its_upload_never_reaches_the_bucket(
    bucket: Bucket, tmp_path: Path
) -> None:
    replica = bucket.replica(dist_cache_dir=tmp_path, cache_free_space=0, **ALONE)
    archive = replica.publish("rotten", LARGE)
    bucket.proxy.fault("files/*", method="PUT", error="SlowDown")
    async with replica.counting(store_writes_deferred=1):
        await replica.get_whole(archive)
    copy, debt = copies(tmp_path, archive)
    assert copy.samefile(debt)
    copy.chmod(0o600)
    copy.write_bytes(flipped(archive.content, 500_000))
    async with replica.counting(cache_damaged=1, store_writes_dropped=1, store_writes_caught_up=0):
        bucket.proxy.heal()
    assert not bucket.stored_keys("files/")
    assert await replica.source_of(archive) == "MISS upstream"
    await bucket.holds(archive)


async def test_s15_an_object_that_was_deleted_is_fetched_and_stored_again(bucket: Bucket) -> None:
    replica = bucket.replica(**ALONE)
    archive = await stored(replica, "gone")
    key, asked = bucket.key_of(archive), replica.asked(archive.path)
    bucket.delete(key)
    async with replica.counting(files_upstream=1, store_failures=0):
        assert await replica.source_of(archive) == "MISS upstream"
    assert replica.asked(archive.path) == asked + 1
    await healed(bucket, replica, archive)
    assert bucket.key_of(archive) == key

    bucket.delete(page := page_key(bucket, "gone"))
    assert set(await replica.files_of("gone")) == {archive.filename}
    await bucket.holds_page("gone")
    assert page_key(bucket, "gone") == page


async def test_s15_a_copy_serves_on_and_whoever_misses_the_object_stores_it_again(
    bucket: Bucket, tmp_path: Path
) -> None:
    """A copy on this machine answers before the bucket is asked, so its replica cannot know."""
    other = bucket.replica(**ALONE)
    archive = await stored(other, "gone")
    replica = bucket.replica(dist_cache_dir=tmp_path, cache_free_space=0)
    await served_from("HIT cache", replica, archive)
    bucket.delete(bucket.key_of(archive))
    assert await replica.source_of(archive) == "HIT cache"
    assert await other.source_of(archive) == "MISS upstream"
    await bucket.holds(archive)


async def test_s15_offline_what_the_bucket_has_lost_is_not_found(bucket: Bucket) -> None:
    archive = await stored(bucket.replica(), "gone")
    replica = bucket.replica(offline=True)
    assert await replica.source_of(archive) == "HIT store"
    bucket.delete(bucket.key_of(archive))
    assert (await replica.get(archive.path)).status == 404


async def test_promise_6_many_who_want_what_only_the_bucket_has_cost_one_get(bucket: Bucket, tmp_path: Path) -> None:
    patient: dict[str, Any] = {"s3_read_timeout": 60, "page_ttl": 600, **ALONE}
    writer = bucket.replica(**patient)
    archive = await stored(writer, "wanted")
    cached = bucket.replica(dist_cache_dir=tmp_path, cache_free_space=0, **patient)
    await cached.files_of("wanted")
    asked = writer.asked(archive.path)
    for replica in (writer, cached):
        bucket.proxy.reset_log()
        held = bucket.proxy.fault("files/*", method="GET", hang_after=400_000)
        asking = await replica.joined(*(replica.get_whole(archive) for _ in range(20)))
        await eventually(lambda held=held: held.hanging == 1)  # type: ignore[misc]
        held.release()
        answers = await asyncio.gather(*asking)
        assert {answer.headers["x-cache"] for answer in answers} == {"HIT store"}
        assert bucket.proxy.calls("GET", "files/*") == 1
        assert bucket.proxy.calls("HEAD") == 0
    assert writer.asked(archive.path) == asked
