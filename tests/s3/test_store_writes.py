"""What the service does to writes and listings: rows S7 to S11."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.cli.store_command import store_json
from tests.faults.scene import eventually
from tests.s3.scene import Bucket
from tests.s3.tuned import tuned

MIB = 2**20

IN_PARTS: dict[str, Any] = {
    "prefix": tuned(multipart_threshold=6 * MIB, part_size=5 * MIB),
    "cache_free_space": 0,
    "s3_connect_timeout": 3,
    "s3_read_timeout": 3,
}
"""Archives above 6 MiB are uploaded in parts, from the cache's folder."""


def listing(bucket: Bucket, uploads: dict[tuple[str, str], timedelta]) -> dict[str, Any]:
    """A fault that lists uploads, by key and number, with these ages: moto does not know when they began."""
    entries = "".join(
        f"<Upload><Key>{key}</Key><UploadId>{number}</UploadId>"
        f"<Initiated>{datetime.now(UTC) - age:%Y-%m-%dT%H:%M:%SZ}</Initiated></Upload>"
        for (key, number), age in uploads.items()
    )
    body = (
        f'<?xml version="1.0"?><ListMultipartUploadsResult><Bucket>{bucket.name}</Bucket>'
        f"<IsTruncated>false</IsTruncated>{entries}</ListMultipartUploadsResult>"
    )
    return {"operation": "ListMultipartUploads", "status": 200, "body": body.encode()}


async def test_s07_a_kill_in_the_middle_of_an_upload_leaves_nothing_to_see(
    exact_bucket: Bucket, tmp_path: Path
) -> None:
    bucket = exact_bucket
    replica, other = bucket.replica(dist_cache_dir=tmp_path, **IN_PARTS), bucket.replica()
    archive = replica.publish("large", 12 * MIB)
    held = bucket.proxy.fault(operation="UploadPart", skip=1, hang=True)
    await replica.get_whole(archive)
    await eventually(lambda: held.hanging > 0, "no part is on its way")
    replica.mirror.kill()
    bucket.proxy.heal()
    assert not [key for key in bucket.stored_keys("files/") if key.endswith(archive.filename)]
    [key] = bucket.unfinished()
    begun = [call.query["uploadId"] for call in bucket.proxy.requests(operation="UploadPart")]
    answer = await other.get_whole(archive)
    assert answer.headers["x-cache"] == "MISS upstream"
    await bucket.holds(archive)
    bucket.delete(key)

    # The next run pays what the cache still owes, and ends what has been unfinished for a day; not what is younger.
    client = bucket.service.client()
    young = "files/pypi/young-1.0.tar.gz"
    number = client.create_multipart_upload(Bucket=bucket.name, Key=young)["UploadId"]
    now, day = timedelta(), timedelta(hours=24)
    hour = timedelta(hours=1)
    bucket.proxy.fault(**listing(bucket, {("tmp/sweep-of-its-own", "1"): now}))
    bucket.proxy.fault(times=1, **listing(bucket, {(key, begun[0]): day + hour, (young, number): day - hour}))
    async with replica.logging("unfinished uploads ended", uploads=1):
        await asyncio.to_thread(replica.mirror.start)
    await eventually(lambda: bucket.unfinished() == [young], "the old upload stays, or the young one is gone")
    await bucket.holds(archive)
    await eventually(lambda: replica.mirror.counters()["store_writes_caught_up"] == 1)


async def test_s08_an_error_in_the_guise_of_success_is_an_error(exact_bucket: Bucket, tmp_path: Path) -> None:
    bucket = exact_bucket
    replica = bucket.replica(dist_cache_dir=tmp_path, **IN_PARTS)
    archive = replica.publish("large", 12 * MIB)
    fault = bucket.proxy.fault(operation="CompleteMultipartUpload", status=200, error="InternalError", times=2)
    async with (
        replica.counting(store_writes_deferred=1, store_writes_caught_up=1, store_writes_dropped=0),
        replica.logging("archive waits for the store", reason="it answered 500 InternalError"),
        replica.logging("archive has reached the store"),
    ):
        await replica.get_whole(archive)
    assert fault.hits == 2
    assert bucket.proxy.calls(operation="AbortMultipartUpload") == 1
    await bucket.holds(archive)
    assert bucket.unfinished() == []
    assert replica.asked(archive.path) == 1


async def test_s08_an_upload_whose_last_answer_is_lost_is_found_to_be_there(
    exact_bucket: Bucket, tmp_path: Path
) -> None:
    bucket = exact_bucket
    replica = bucket.replica(dist_cache_dir=tmp_path, **IN_PARTS)
    archive = replica.publish("large", 12 * MIB)
    bucket.proxy.fault(operation="CompleteMultipartUpload", hang_answer=True)
    async with (
        replica.counting(store_writes_deferred=0, store_failures=0),
        replica.logging("object store took an upload although it did not say so"),
    ):
        await replica.get_whole(archive)
    await bucket.holds(archive)
    assert bucket.proxy.calls(operation="CompleteMultipartUpload") == 1
    assert bucket.proxy.calls(operation="AbortMultipartUpload") == 0
    assert bucket.unfinished() == []


async def test_s09_without_exact_conditions_replicas_work_without_leases(exact_bucket: Bucket) -> None:
    bucket = exact_bucket
    services: tuple[dict[str, Any], ...] = (
        {"ignored": ["if-none-match", "if-match"]},
        {"error": "NotImplemented"},
    )
    for number, conditions in enumerate(services):
        bucket.proxy.fault(method="PUT", conditional=True, **conditions)
        replica = bucket.replica(cluster_wait=30)
        [opened] = replica.mirror.events("object store opened")
        assert (opened["exact"], opened["conditional_create"], opened["conditional_replace"]) == (False,) * 3
        assert "each may believe that it was the first" in opened["follows"]
        archive = replica.publish(f"weak-{number}", 300_000)
        async with replica.counting(leases_taken=0, leases_overdue=0, store_failures=0):
            assert await replica.source_of(archive) == "MISS upstream"
        await bucket.holds(archive)
        assert bucket.proxy.calls(key="leases/*") == 0
        assert (await replica.ready())[0] == 200
        bucket.proxy.heal()


async def test_s10_a_conflict_of_writes_is_tried_again(exact_bucket: Bucket) -> None:
    bucket = exact_bucket
    replica = bucket.replica(cluster_wait=30)
    archive = replica.publish("conflict", 300_000)
    fault = bucket.proxy.fault("leases/*", conditional=True, error="ConditionalRequestConflict", times=2)
    async with replica.counting(leases_taken=1, leases_overdue=0, store_failures=0):
        await replica.get_whole(archive)
    assert fault.hits == 2
    await bucket.holds(archive)
    await eventually(lambda: not bucket.stored_keys("leases/"), "the lease stays behind")


async def test_s10_conflicts_without_end_hold_up_nobody_for_long(exact_bucket: Bucket) -> None:
    bucket = exact_bucket
    replica = bucket.replica(cluster_wait=600)
    archive = replica.publish("conflict", 300_000)
    fault = bucket.proxy.fault("leases/*", conditional=True, error="ConditionalRequestConflict")
    async with (
        replica.counting(leases_taken=0, leases_overdue=0, store_failures=1),
        replica.logging("no lease, downloading without"),
    ):
        assert await replica.source_of(archive) == "MISS upstream"
    assert fault.hits == 3
    await bucket.holds(archive)


async def test_s11_listings_that_lag_are_announced_and_break_nothing(bucket: Bucket, tmp_path: Path) -> None:
    bucket.proxy.fault(operation="ListObjectsV2", lag=math.inf)
    replica = bucket.replica()
    [opened] = replica.mirror.events("object store opened")
    assert opened["lists"] is False
    assert "listings lag" in opened["follows"]
    archive = replica.publish("unlisted", 300_000)
    await replica.get_whole(archive)
    await bucket.holds(archive)
    await bucket.holds_page("unlisted")
    assert (await replica.ready())[0] == 200
    before = bucket.stored_keys()
    environ = {f"MIRROR_{name.upper()}": str(value) for name, value in bucket.settings().items()}
    environ["MIRROR_LOG_LEVEL"] = "error"

    verified = await asyncio.to_thread(store_json, tmp_path, "verify", environ=environ)
    assert verified["sound"] is True
    await asyncio.to_thread(store_json, tmp_path, "du", environ=environ)
    collected = await asyncio.to_thread(store_json, tmp_path, "gc", "--unused-for", "1d", "--force", environ=environ)
    assert collected["deleted"]["objects"] == 0
    assert set(before) <= set(bucket.stored_keys())
    assert await replica.source_of(archive) == "HIT store"
