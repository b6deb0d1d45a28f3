"""The service answers, and says no: rows S3, S4, S5 and S12."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.scene import eventually_async
from tests.s3.scene import Bucket, Replica, on_bucket
from tests.s3.tuned import tuned
from tests.support.mirror import MirrorProcess
from tests.support.packages import Archive
from tests.support.s3.services import Moto, Rclone

ALARM = "object store and credentials do not agree"


async def stored(bucket: Bucket, replica: Replica, name: str) -> Archive:
    """A project that upstream has and whose archive and page lie in the bucket."""
    archive = replica.publish(name, 300_000)
    await replica.get_whole(archive)
    await bucket.holds(archive)
    await bucket.holds_page(name)
    return archive


async def health(replica: Replica, condition: Callable[[int, str], bool]) -> None:
    """Returns once status and reason of /readyz are so; one check of the store answers for three seconds."""

    async def is_so() -> bool:
        status, told = await replica.ready()
        return condition(status, told["store"])

    await eventually_async(is_so)


def refused_start(bucket: Bucket, **settings: Any) -> str:
    """The one line with which a mirror with these settings ends as it starts; the exit code has to be 1."""
    mirror = MirrorProcess(upstream_url=bucket.upstream.url, **(bucket.settings() | settings))
    with pytest.raises(AssertionError, match=r"did not start \(exit code 1\)"):
        mirror.start()
    assert not [entry for entry in mirror.log if "exception" in entry]
    [line] = mirror.text
    return line


@pytest.mark.parametrize("code", ["SlowDown", "InternalError"])
async def test_s03_two_tries_then_the_bytes_stream_through(bucket: Bucket, code: str) -> None:
    replica = bucket.replica(prefix=tuned(retry_wait=0.001), derive_metadata=False)
    kept = await stored(bucket, replica, "kept")
    cold = replica.publish("cold", 300_000)
    await replica.files_of("cold")
    await bucket.holds_page("cold")
    reads = bucket.proxy.fault("files/*/kept-*", method="GET", error=code)
    writes = bucket.proxy.fault("files/*/cold-*", method="PUT", error=code)
    asked = replica.asked(kept.path)
    async with (
        replica.logging("archive not read", file=kept.filename),
        replica.logging("archive not kept", file=cold.filename),
        replica.counting(store_retries=2, store_failures=2, store_breaker_opened=0),
    ):
        assert await replica.source_of(kept) == "MISS upstream"
        assert await replica.source_of(cold) == "MISS upstream"
    assert (reads.hits, writes.hits) == (2, 2)
    assert replica.asked(kept.path) == asked + 1
    bucket.proxy.heal()
    await replica.get_whole(cold)
    await bucket.holds(cold)
    once = bucket.proxy.fault("files/*/kept-*", method="GET", error=code, times=1)
    async with replica.counting(store_retries=1, store_failures=0):
        assert await replica.source_of(kept) == "HIT store", "one failure is not seen"
    assert once.hits == 1


async def test_s04_keys_that_were_rotated_raise_an_alarm_and_no_storm(own_rclone: Rclone) -> None:
    with on_bucket(own_rclone) as bucket:
        replica, offline = bucket.replica(), bucket.replica(offline=True, page_ttl=600)
        archives = [await stored(bucket, replica, f"kept-{number}") for number in range(5)]
        own_rclone.secret_key, before = "rotated", own_rclone.secret_key
        await asyncio.to_thread(own_rclone.restart)
        async with replica.counting(store_breaker_opened=0, files_store=0, files_upstream=20):
            for archive in archives * 4:
                assert await replica.source_of(archive) == "MISS upstream"
            assert set(await replica.files_of("kept-0")) == {archives[0].filename}
        alarms = replica.mirror.events(ALARM)
        assert alarms[0]["level"] == "error"
        assert "secret" in alarms[0]["reason"]
        assert len(alarms) <= 2, "reads and writes may each say it once a minute"
        await health(replica, lambda status, why: status == 503 and "secret" in why)
        # Nobody else can be asked here, and "missing" would be a lie.
        for path in ("simple/kept-0/", archives[0].path):
            answer = await offline.get(path)
            assert answer.status == 503, (path, answer.body)
        own_rclone.secret_key = before
        await asyncio.to_thread(own_rclone.restart)
        await health(replica, lambda status, _: status == 200)
        assert await replica.source_of(archives[0]) == "HIT store"
        assert await offline.source_of(archives[0]) == "HIT store"


async def test_s04_expired_credentials_are_no_misses(bucket: Bucket) -> None:
    """Amazon answers 400 to an expired token, and 403 to what a policy forbids."""
    replica = bucket.replica()
    kept = await stored(bucket, replica, "kept")
    for code, why in (("ExpiredToken", "expired"), ("AccessDenied", "do not allow it")):
        fault = bucket.proxy.fault(error=code)
        async with replica.counting(files_upstream=1, store_retries=0, store_breaker_opened=0):
            assert await replica.source_of(kept) == "MISS upstream"
        assert fault.hits
        assert any(why in entry["reason"] for entry in replica.mirror.events("archive not read"))
        if code == "ExpiredToken":
            await health(replica, lambda status, told: status == 503 and "expired" in told)
        bucket.proxy.heal()
    assert "expired" in replica.mirror.events(ALARM)[0]["reason"]


def test_s04_wrong_keys_at_the_start_are_told_in_one_line(bucket: Bucket) -> None:
    line = refused_start(bucket, s3_secret_access_key="wrong-and-never-to-be-shown")
    assert "refuses the credentials" in line
    assert bucket.name in line
    assert "never-to-be-shown" not in line


def test_s05_a_missing_bucket_at_the_start_is_told_in_one_line(bucket: Bucket) -> None:
    name = bucket.service.unused_name()
    line = refused_start(bucket, s3_bucket=name)
    assert f"There is no bucket {name}" in line
    assert "s3-bucket" in line


async def test_s05_a_bucket_that_is_deleted_is_seen_and_done_without(exact_bucket: Bucket, moto_service: Moto) -> None:
    bucket = exact_bucket
    replica = bucket.replica()
    kept = await stored(bucket, replica, "kept")
    client = moto_service.client()
    held = bucket.stored_keys()
    for key in held:
        bucket.delete(key)
    client.delete_bucket(Bucket=bucket.name)
    cold = replica.publish("cold", 300_000)
    async with (
        replica.logging("archive not read", file=kept.filename),
        replica.logging("page not kept", project="cold"),
        replica.logging("archive not kept", file=cold.filename),
    ):
        for archive in (kept, cold):
            name = archive.filename.partition("-")[0]
            assert set(await replica.files_of(name)) == {archive.filename}
            assert await replica.source_of(archive) == "MISS upstream"
    await health(replica, lambda status, why: status == 503 and "no such bucket" in why)
    client.create_bucket(Bucket=bucket.name)
    await replica.get_whole(cold)
    await bucket.holds(cold)


@pytest.mark.parametrize("at_start", [False, True], ids=["running", "starting"])
async def test_s12_clocks_that_differ_are_named(bucket: Bucket, at_start: bool) -> None:
    replica = None if at_start else bucket.replica()
    fault = bucket.proxy.fault(error="RequestTimeTooSkewed")
    if replica is None:
        replica = bucket.replica()
        [told] = replica.mirror.events("object store does not answer")
        assert "clocks" in told["reason"]
    archive = replica.publish("skewed", 300_000)
    assert await replica.source_of(archive) == "MISS upstream"
    assert fault.hits
    [alarm, *more] = replica.mirror.events(ALARM)
    assert alarm["reason"].startswith("the clocks of this machine and of the service differ by too much")
    assert len(more) <= 1
    await health(replica, lambda status, why: status == 503 and "clocks" in why)
    bucket.proxy.heal()
    await replica.get_whole(archive)
    await bucket.holds(archive)


async def test_s04_a_refusal_makes_no_404_of_a_file_that_only_the_store_has(bucket: Bucket) -> None:
    replica = bucket.replica(derive_metadata=False)
    kept = await stored(bucket, replica, "only-here")
    bucket.upstream.fault(f"/{kept.path}", status=404)
    refusal = bucket.proxy.fault("files/*", method="GET", error="AccessDenied")
    answer = await replica.get(kept.path)
    assert (answer.status, refusal.hits > 0) == (503, True)
    assert "retry-after" in answer.headers
    bucket.proxy.heal()

    async def is_back() -> bool:
        return (await replica.get(kept.path)).body == kept.content

    await eventually_async(is_back)
