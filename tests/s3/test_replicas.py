"""Replicas that share nothing but a bucket: what one has fetched, the others serve."""

from __future__ import annotations

import asyncio

from tests.faults.scene import eventually, eventually_async
from tests.s3.scene import Bucket
from tests.support.packages import Project, wheel


async def test_f03_a_replica_shows_the_refreshed_page_of_another_within_its_lifetime(bucket: Bucket) -> None:
    bucket.upstream.publish(Project("shared", (wheel("shared", "1.0"),)))
    a, b = bucket.replica(page_ttl=1), bucket.replica(page_ttl=1)
    assert set(await a.files_of("shared")) == set(await b.files_of("shared")) == {"shared-1.0-py3-none-any.whl"}
    bucket.upstream.publish(Project("shared", (wheel("shared", "1.0"), wheel("shared", "2.0")), serial=2000))
    await asyncio.sleep(1.1)  # the lifetime of the page, on real clocks
    assert len(await a.files_of("shared")) == 2
    await bucket.upstream_gone()

    async def shows_both() -> bool:
        return len(await b.files_of("shared")) == 2

    await eventually_async(shows_both)


async def test_the_etag_of_page_and_file_is_the_same_on_every_replica(bucket: Bucket) -> None:
    archive = wheel("tagged", "1.0", blob=300_000)
    bucket.upstream.publish(Project("tagged", (archive,)))
    a, b = bucket.replica(), bucket.replica()
    for path in ("simple/tagged/", archive.path):
        first, second = await a.get(path), await b.get(path)
        assert first.headers["etag"] == second.headers["etag"]
        for replica in (a, b):
            again = await replica.get(path, {"If-None-Match": first.headers["etag"]})
            assert again.status == 304, path


async def test_s13_one_upstream_fetch_per_cluster_where_conditional_writes_are_exact(exact_bucket: Bucket) -> None:
    archive = wheel("wanted", "1.0", blob=2_000_000)
    exact_bucket.upstream.publish(Project("wanted", (archive,)))
    replicas = [exact_bucket.replica(cluster_wait=30) for _ in range(3)]
    await asyncio.gather(*(replica.files_of("wanted") for replica in replicas))
    held = exact_bucket.upstream.fault(f"/{archive.path}", hang_mid_body=1_000_000)
    gets = [asyncio.ensure_future(replica.get_whole(archive)) for replica in replicas for _ in range(5)]
    await eventually(lambda: exact_bucket.upstream.requests[f"/{archive.path}"] >= 1)
    held.release()
    await asyncio.gather(*gets)
    assert exact_bucket.upstream.requests[f"/{archive.path}"] == 1
    await eventually(lambda: not exact_bucket.stored_keys("leases/"), "leases stay behind")
    counters = [replica.mirror.counters() for replica in replicas]
    assert sum(each["leases_taken"] for each in counters) == 1
    assert sum(each["leases_overdue"] for each in counters) == 0


async def test_s13_two_replicas_without_leases_fetch_at_most_twice_and_both_are_right(bucket: Bucket) -> None:
    archive = wheel("twice", "1.0", blob=2_000_000)
    bucket.upstream.publish(Project("twice", (archive,)))
    replicas = [bucket.replica() for _ in range(2)]
    await asyncio.gather(*(replica.get_whole(archive) for replica in replicas for _ in range(5)))
    assert bucket.upstream.requests[f"/{archive.path}"] <= 2
    await bucket.holds(archive)


async def test_another_replica_takes_over_when_the_holder_of_a_lease_dies(exact_bucket: Bucket) -> None:
    archive = wheel("orphaned", "1.0", blob=2_000_000)
    exact_bucket.upstream.publish(Project("orphaned", (archive,)))
    a, b = (exact_bucket.replica(cluster_wait=60) for _ in range(2))
    await asyncio.gather(a.files_of("orphaned"), b.files_of("orphaned"))
    held = exact_bucket.upstream.fault(f"/{archive.path}", hang_mid_body=1_000_000)
    abandoned = asyncio.ensure_future(a.get(archive.path))
    await eventually(lambda: held.hits == 1)
    a.mirror.kill()
    assert not (await abandoned).complete
    held.release()
    await b.get_whole(archive)
    assert exact_bucket.upstream.requests[f"/{archive.path}"] == 2


async def test_readiness_tells_what_the_service_can_do(bucket: Bucket, exact_bucket: Bucket) -> None:
    for scene, exact in ((bucket, False), (exact_bucket, True)):
        status, told = await scene.replica().ready()
        assert (status, told["store"], told["store_can"]["exact"]) == (200, "usable", exact)
