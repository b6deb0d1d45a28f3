"""The service is gone, or answers too late: rows S1 and S2, and promise 5 (what is cached stays served).

Row S14 belongs to uploads, which the mirror does not take yet.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scene import eventually, eventually_async
from tests.s3.disks import caches
from tests.s3.scene import Bucket, Replica
from tests.s3.tuned import tuned
from tests.support.packages import Archive

ROW = 20
"""Requests in a row."""

BRIEFLY: dict[str, Any] = {
    "prefix": tuned(breaker_first_pause=1.0, breaker_longest_pause=2.0),
    "s3_connect_timeout": 1,
    "s3_read_timeout": 1,
}
"""The service is waited for, and left alone, for seconds."""

UNHURRIED: dict[str, Any] = {"s3_connect_timeout": 60, "s3_read_timeout": 60, "derive_metadata": False}
"""Whoever waited for the service would wait longer than the test; nothing but the archive is written below `files/`."""


def left_alone(replica: Replica, direction: str) -> int:
    """How often the mirror has begun to leave the service alone."""
    return sum(entry["direction"] == direction for entry in replica.mirror.events("object store left alone"))


async def in_store(replica: Replica, archive: Archive) -> None:
    """Returns once the archive is answered out of the bucket."""

    async def is_read() -> bool:
        return await replica.source_of(archive) == "HIT store"

    await eventually_async(is_read)


async def is_ready(replica: Replica) -> None:
    async def ready() -> bool:
        return (await replica.ready())[0] == 200

    await eventually_async(ready)


async def test_s01_a_service_that_refuses_connections_is_done_without(bucket: Bucket) -> None:
    replica = bucket.replica(**BRIEFLY)
    kept = replica.publish("kept", 300_000)
    await in_store(replica, kept)
    cold = [replica.publish(f"cold-{number}", 100_000) for number in range(ROW)]
    before = replica.mirror.counters()
    async with (
        replica.logging("archive not read", file=kept.filename),
        replica.logging("page not kept", project="cold-0"),
        replica.logging("archive not kept", file=cold[0].filename),
    ):
        bucket.proxy.refuse()
        assert await replica.source_of(kept) == "MISS upstream"
        for number, archive in enumerate(cold):
            assert set(await replica.files_of(f"cold-{number}")) == {archive.filename}
            await replica.get_whole(archive)
    status, told = await replica.ready()
    assert (status, told["status"]) == (503, "unready")
    assert "could not read" in told["store"], told
    assert replica.mirror.counters()["store_failures"] - before["store_failures"] >= 2 * ROW
    bucket.proxy.accept()
    await in_store(replica, kept)
    await in_store(replica, cold[0])  # writes are tried again at their own pace
    await bucket.holds(cold[0])


async def test_s01_a_black_hole_costs_one_time_limit_a_period(bucket: Bucket) -> None:
    replica = bucket.replica(**BRIEFLY)
    kept = replica.publish("kept", 300_000)
    await in_store(replica, kept)
    cold = [replica.publish(f"cold-{number}", 100_000) for number in range(ROW)]
    bucket.proxy.reset_log()
    bucket.proxy.fault(hang=True)
    for number, archive in enumerate(cold):
        assert set(await replica.files_of(f"cold-{number}")) == {archive.filename}
        await replica.get_whole(archive)
    swallowed = bucket.proxy.calls(operation="GetObject")
    # Each time limit that runs out begins a period; and there are fewer of them than requests.
    assert 1 <= swallowed <= left_alone(replica, "reads"), "a limit ran out, and the service was asked again at once"
    assert swallowed < ROW / 2
    await eventually(lambda: left_alone(replica, "writes") > 0, "no write was tried")
    assert (await replica.ready())[0] == 503
    bucket.proxy.heal()
    await in_store(replica, kept)


async def test_s01_what_the_service_missed_is_uploaded_from_the_cache(bucket: Bucket, tmp_path: Path) -> None:
    replica = bucket.replica(**BRIEFLY, **caches(tmp_path))
    archives = [replica.publish(f"owed-{number}", 300_000) for number in range(3)]
    bucket.proxy.refuse()
    async with replica.counting(store_writes_deferred=3, store_writes_caught_up=0, store_writes_dropped=0):
        for archive in archives:
            assert await replica.source_of(archive) == "MISS upstream"

    async def are_here() -> bool:
        return {await replica.source_of(archive) for archive in archives} == {"HIT cache"}

    await eventually_async(are_here)
    async with replica.counting(store_writes_deferred=0, store_writes_caught_up=3, store_writes_dropped=0):
        bucket.proxy.accept()
    for archive in archives:
        await bucket.holds(archive)
    assert [replica.asked(archive.path) for archive in archives] == [1, 1, 1]


@pytest.mark.parametrize("black_hole", [False, True], ids=["refused", "black hole"])
async def test_s01_a_mirror_that_starts_without_the_service_catches_up(bucket: Bucket, black_hole: bool) -> None:
    if black_hole:
        bucket.proxy.fault(hang=True)
    else:
        bucket.proxy.refuse()
    replica = bucket.replica(**BRIEFLY)
    [told] = replica.mirror.events("object store does not answer")
    assert told["reason"]
    archive = replica.publish("early", 300_000)
    asked = bucket.proxy.calls()
    for _ in range(ROW):
        assert set(await replica.files_of("early")) == {archive.filename}
        assert await replica.source_of(archive) == "MISS upstream"
    if black_hole:
        assert bucket.proxy.calls() - asked <= left_alone(replica, "reads")
    status, health = await replica.ready()
    assert (status, health["status"]) == (503, "unready")
    if black_hole:
        bucket.proxy.heal()
    else:
        bucket.proxy.accept()
    await is_ready(replica)
    assert replica.mirror.events("object store opened")
    await in_store(replica, archive)
    assert bucket.body(bucket.key_of(archive)) == archive.content


async def test_s02_no_byte_waits_for_a_write(bucket: Bucket) -> None:
    replica = bucket.replica(**UNHURRIED)
    archive = replica.publish("unhurried", 500_000)
    held = bucket.proxy.fault(method="PUT", hang=True)
    assert set(await replica.files_of("unhurried")) == {archive.filename}
    await eventually(lambda: held.hanging > 0, "the page is not being written")
    # A download is stored after its page; that one goes through, so that the archive's own write is the one that hangs.
    archives = bucket.proxy.fault("files/*", method="PUT", hang=True)
    held.release()
    assert await replica.source_of(archive) == "MISS upstream"
    await eventually(lambda: archives.hanging > 0, "the archive is not being written")
    assert not bucket.stored_keys("files/")
    async with replica.counting(store_failures=0):
        archives.release()
        await bucket.holds(archive)


async def test_s02_an_upload_beside_its_client_is_given_up_when_it_holds_him_up(bucket: Bucket) -> None:
    """Without a disk, a file too large for the memory goes to client and bucket at one time."""
    replica = bucket.replica(memory_limit=2**20, **UNHURRIED)
    archive = replica.publish("large", 12_000_000)
    await replica.files_of("large")
    held = bucket.proxy.fault("files/*", method="PUT", hang=True)
    async with (
        replica.counting(store_uploads_dropped=1, responses_aborted=0),
        replica.logging("upload given up", file=archive.filename, reason="it is too slow"),
    ):
        assert await replica.source_of(archive) == "MISS upstream"
        assert held.hits == 1
    assert not bucket.stored_keys("files/")
    bucket.proxy.heal()
    await in_store(replica, archive)


@pytest.mark.parametrize("stall", [{"hang": True}, {"hang_after": 200_000}], ids=["silent", "stalls"])
async def test_s02_a_read_that_takes_too_long_goes_on_from_upstream(bucket: Bucket, stall: dict[str, Any]) -> None:
    replica = bucket.replica(**BRIEFLY)
    archive = replica.publish("slow", 1_000_000)
    await in_store(replica, archive)
    asked = replica.asked(archive.path)
    bucket.proxy.fault("files/*", method="GET", **stall)
    await replica.get_whole(archive)
    assert replica.asked(archive.path) == asked + 1
    assert left_alone(replica, "reads") >= 1
    assert replica.mirror.counters()["store_failures"] >= 1
    bucket.proxy.heal()
    await in_store(replica, archive)


async def test_promise_5_the_caches_serve_while_service_and_upstream_are_away(bucket: Bucket, tmp_path: Path) -> None:
    replica = bucket.replica(**caches(tmp_path))
    archive = replica.publish("cached", 300_000)
    page = await replica.page("cached")
    await replica.get_whole(archive)
    await bucket.holds(archive)
    await bucket.holds_page("cached")
    bucket.proxy.refuse()
    await bucket.upstream_gone()

    async def is_served() -> None:
        assert await replica.source_of(archive) == "HIT cache"
        again = await replica.page("cached")
        assert (again.status, again.body, again.complete) == (200, page.body, True)
        assert again.headers["x-cache"].startswith("STALE")

    async with replica.counting(pages_stale=3, files_cache=3):
        for _ in range(3):
            await is_served()
    await asyncio.to_thread(replica.mirror.restart)
    await is_served()
    unknown = await replica.page("never-asked-for")
    assert unknown.status == 503
    assert "retry-after" in unknown.headers
