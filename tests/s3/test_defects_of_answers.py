"""Defects of caches before an object store that are known from elsewhere: F-09, F-10 and F-13, answers and their cost."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scene import eventually
from tests.s3.disks import caches, copies
from tests.s3.scene import Bucket, Replica
from tests.support.pages import HTML, JSON
from tests.support.rawhttp import RawResponse, fetch

# --- F-09 -----------------------------------------------------------------------------------------

PAST = "Mon, 01 Jan 2001 00:00:00 GMT"


async def test_f09_c23_not_modified_from_every_tier_and_replica(bucket: Bucket, tmp_path: Path) -> None:
    first = bucket.replica(page_ttl=600, **caches(tmp_path))
    archive = first.publish("tagged", 300_000)
    paths = {"simple/tagged/": JSON, "simple/tagged/ ": HTML, archive.path: "*/*", f"{archive.path}.metadata": "*/*"}
    etags = {}
    for path, accept in paths.items():
        answer = await first.get(path.strip(), {"Accept": accept})
        assert answer.status == 200
        etags[path] = answer.headers["etag"]
        assert not etags[path].startswith("W/")
        # Of bytes that a digest fixes there is no time of change to tell; "now" would be a lie.
        assert "last-modified" not in answer.headers
    await bucket.holds(archive)
    await bucket.holds_page("tagged")

    async def unchanged(replica: Replica, tier: str) -> None:
        for path, accept in paths.items():
            for method in ("GET", "HEAD"):
                conditions = {"Accept": accept, "If-None-Match": etags[path], "If-Modified-Since": PAST}
                answer = await fetch(replica.mirror.origin + path.strip(), method=method, headers=conditions)
                assert (answer.status, answer.body) == (304, b""), (tier, method, path)
                assert answer.headers["etag"] == etags[path]
                changed = await replica.get(path.strip(), {"Accept": accept, "If-None-Match": '"another"'})
                assert (changed.status, changed.complete) == (200, True), (tier, path)
                assert changed.headers["etag"] == etags[path]

    await unchanged(first, "memory and cache")
    first.mirror.restart()
    await unchanged(first, "caches")
    other = bucket.replica(page_ttl=600)
    await unchanged(other, "bucket, another replica")
    bucket.proxy.fault("files/*", error="InternalError")
    await unchanged(other, "upstream, since the bucket does not answer")
    bucket.proxy.heal()
    await bucket.upstream_gone()
    await unchanged(bucket.replica(offline=True), "bucket, offline")


# --- F-10 -----------------------------------------------------------------------------------------

_OF_THE_MOMENT = {"date", "x-cache", "x-request-id", "age"}


def lasting(answer: RawResponse) -> dict[str, str]:
    """The headers, without those that tell of this one answer; the lifetime left is any number."""
    fields = {name: value for name, value in answer.headers.items() if name not in _OF_THE_MOMENT}
    return fields | {"cache-control": re.sub(r"\d+", "N", fields.get("cache-control", ""))}


async def test_f10_c34_headers_are_the_same_on_every_path(bucket: Bucket, tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"memory_limit": "1MiB", "page_ttl": 600}
    seen: dict[str, dict[str, dict[str, str]]] = {}

    async def see(tier: str, replica: Replica, source: str) -> None:
        whole = await replica.get_whole(archive)
        assert whole.headers["x-cache"] == source, tier
        part = await replica.get(archive.path, {"Range": "bytes=2000000-2000999"})
        assert (part.status, part.body) == (206, archive.content[2_000_000:2_001_000]), tier
        answers = {
            "whole": whole,
            "part": part,
            "head": await fetch(replica.mirror.origin + archive.path, method="HEAD"),
            "json": await replica.get("simple/headed/", {"Accept": JSON}),
            "html": await replica.get("simple/headed/", {"Accept": HTML}),
            "metadata": await replica.get(f"{archive.path}.metadata"),
        }
        assert {answer.status for name, answer in answers.items() if name != "part"} == {200}, tier
        seen[tier] = {name: lasting(answer) for name, answer in answers.items()}

    diskless = bucket.replica(**tiny)
    bucket.proxy.fault("files/*", method="PUT", error="InternalError")
    archive = diskless.publish("headed", 3_000_000)
    await see("upstream past the disk, S3 refusing", diskless, "MISS upstream")
    bucket.proxy.heal()
    cached = bucket.replica(page_ttl=600, **caches(tmp_path / "good"))
    await see("upstream", cached, "MISS upstream")
    await bucket.holds(archive)
    await eventually(lambda: bool(copies(tmp_path / "good" / "dist", archive)))
    cached.mirror.restart()
    await see("both caches", cached, "HIT cache")
    await see("cache and memory", cached, "HIT cache")
    for place in copies(tmp_path, archive):
        place.unlink()
    await see("bucket, kept meanwhile", cached, "HIT store")
    await see("bucket, past the disk", diskless, "HIT store")
    (tmp_path / "broken").write_text("no folder")
    broken = bucket.replica(**tiny, **caches(tmp_path / "broken"))
    await see("bucket, the disk being broken", broken, "HIT store")
    bucket.proxy.refuse()
    await see("upstream, neither disk nor S3", broken, "MISS upstream")
    bucket.proxy.accept()
    [expected, *others] = seen.items()
    for tier, headers in others:
        assert headers == expected[1], tier
    whole = expected[1]["whole"]
    assert int(whole["content-length"]) == archive.size
    assert {"etag", "accept-ranges", "content-type", "cache-control", "content-disposition"} <= set(whole)
    assert expected[1]["head"] == whole
    assert expected[1]["part"] == whole | {
        "content-length": "1000",
        "content-range": f"bytes 2000000-2000999/{archive.size}",
    }


# --- F-13 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", ["no cache", "both caches"])
async def test_f13_c37_a_hundred_clients_of_a_cold_file_cost_one_upstream_call(
    bucket: Bucket, tmp_path: Path, local: str
) -> None:
    replica = bucket.replica(page_ttl=600, **(caches(tmp_path) if local == "both caches" else {}))
    archive = replica.publish("wanted", 500_000)
    await replica.files_of("wanted")
    held = bucket.upstream.fault(f"/{archive.path}", hang_mid_body=200_000)
    asking = await replica.joined(*(replica.get_whole(archive) for _ in range(100)))
    held.release()
    await asyncio.gather(*asking)
    assert bucket.upstream.requests[f"/{archive.path}"] == 1
    whole = [call for call in bucket.proxy.requests("GET", f"*/{archive.filename}") if "range" not in call.headers]
    assert [call.status for call in whole] == [404]
    assert not bucket.proxy.calls("HEAD", f"*/{archive.filename}")
    await bucket.holds(archive)
    assert bucket.proxy.calls("PUT", f"*/{archive.filename}") == 1


@pytest.mark.parametrize(("local", "calls"), [("no cache", 1), ("both caches", 0)])
async def test_f13_c26_a_warm_read_costs_at_most_one_call(
    bucket: Bucket, tmp_path: Path, local: str, calls: int
) -> None:
    replica = bucket.replica(page_ttl=600, **(caches(tmp_path) if local == "both caches" else {}))
    small, large = replica.publish("warm", 100_000), replica.publish("large", 3_000_000)
    for archive in (small, large):
        await replica.get_whole(archive)
        await bucket.holds(archive)
        await bucket.holds_page(archive.filename.partition("-")[0])
        assert (await replica.get(f"{archive.path}.metadata")).status == 200
    replica.mirror.restart()  # nothing is in memory any more
    asked = dict(bucket.upstream.requests)

    async def cost(path: str, expected: int, headers: Mapping[str, str] | None = None, method: str = "GET") -> None:
        bucket.proxy.reset_log()
        answer = await fetch(replica.mirror.origin + path, method=method, headers=headers)
        assert (answer.status in (200, 206, 304), answer.complete) == (True, True), (path, answer)
        made = [(call.operation, call.key) for call in bucket.proxy.log]
        assert len(made) == expected, (method, path, headers, made)

    await cost("simple/warm/", calls)
    await cost("simple/warm/", 0)  # from memory, in either case
    await cost("simple/large/", calls)
    for archive in (small, large):
        for again in range(2):
            await cost(archive.path, calls)
            await cost(archive.path, calls, {"Range": "bytes=5000-5999"})
            await cost(f"{archive.path}.metadata", calls)
            await cost(archive.path, 0, method="HEAD")
            await cost(archive.path, 0, {"If-None-Match": f'"sha256-{archive.sha256}"'})
            assert again or bucket.upstream.requests == asked
    assert not bucket.proxy.calls(operation="ListObjectsV2")
