"""Section 6: archives and what stands beside them, not held, on their way and held (items 83 to 97 and 99)."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.conformance.chain import HOSTILE, STATES, Chain, State, archive, catalogue, chained
from tests.conformance.test_json_page import odd_page
from tests.support.rawhttp import RawResponse

BIG = archive("big")
"""Larger than what is fetched whole for the sake of a range."""
SIZE = BIG.size


def is_part(answer: RawResponse, start: int, stop: int) -> None:
    assert (answer.status, answer.complete) == (206, True)
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(stop - start)
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"] == f'"sha256-{BIG.sha256}"'
    assert answer.body == BIG.content[start:stop]


def is_whole(answer: RawResponse) -> None:
    assert (answer.status, answer.complete) == (200, True)
    assert answer.headers["content-length"] == str(SIZE)
    assert answer.headers["accept-ranges"] == "bytes"
    assert "content-range" not in answer.headers
    assert answer.body == BIG.content


@pytest.mark.parametrize("state", STATES)
async def test_c083_whole_file(both: Chain, state: State) -> None:
    async with both.in_state(state, "big") as target:
        answer = await both.unstuck(both.get(target, {"Accept-Encoding": "gzip, deflate, zstd"}))
        is_whole(answer)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "content-encoding" not in answer.headers
        assert "transfer-encoding" not in answer.headers
        assert answer.headers["x-cache"] == ("HIT store" if state == "held" else "MISS upstream")


async def test_c083_every_file_of_a_page(every: Chain) -> None:
    for _ in range(2):
        for number, file in enumerate(catalogue()[0].files):
            answer = await every.get(await every.target("demo", number))
            assert (answer.status, answer.body) == (200, archive("demo", number).content)
            assert hashlib.sha256(answer.body).hexdigest() == file.sha256
        await every.settle()


RANGES = {
    "bytes=0-0": (0, 1),
    "bytes=100-199": (100, 200),
    f"bytes={SIZE - 10}-": (SIZE - 10, SIZE),
    f"bytes=2700000-{10**30}": (2_700_000, SIZE),
    "bytes=-1": (SIZE - 1, SIZE),
    "bytes=-16384": (SIZE - 16_384, SIZE),
    "Bytes=00-01": (0, 2),
}


@pytest.mark.parametrize("state", STATES)
async def test_c084_single_ranges(both: Chain, state: State) -> None:
    async with both.in_state(state, "big") as target:
        for value, (start, stop) in RANGES.items():
            is_part(await both.get(target, {"Range": value, "Cache-Control": "no-cache"}), start, stop)


@pytest.mark.parametrize("state", STATES)
async def test_c084_ranges_that_are_the_whole(chain: Chain, state: State) -> None:
    async with chain.in_state(state, "big") as target:
        is_part(await chain.unstuck(chain.get(target, {"Range": "bytes=0-"})), 0, SIZE)
        for value in (f"bytes=0-{SIZE - 1}", f"bytes=-{SIZE}", f"bytes=-{SIZE * 2}"):
            is_part(await chain.get(target, {"Range": value}), 0, SIZE)


async def test_c084_ranges_where_upstream_has_none(tmp_path: Path) -> None:
    async with chained(tmp_path, style={"json": False, "ranges": False, "head": False}) as chain:
        for value, (start, stop) in RANGES.items():
            is_part(await chain.get(await chain.target("big"), {"Range": value}), start, stop)


@pytest.mark.parametrize("state", STATES)
async def test_c085_range_past_the_end_is_416(both: Chain, state: State) -> None:
    async with both.in_state(state, "big") as target:
        for value in (f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=99999999999999999999-", "bytes=-0"):
            answer = await both.get(target, {"Range": value})
            assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{SIZE}"), value
            assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("state", STATES)
async def test_c086_several_or_malformed_ranges_give_the_whole(chain: Chain, state: State) -> None:
    async with chain.in_state(state, "big") as target:
        is_whole(await chain.unstuck(chain.get(target, {"Range": "bytes=0-1,5-6"})))
        for value in ("bytes=5-2", "bytes=", "bytes=-", "items=0-1", "bytes=a-b", "bytes=1-2-3", "bytes=+1-2"):
            is_whole(await chain.get(target, {"Range": value}))


@pytest.mark.parametrize("state", STATES)
async def test_c087_if_range(chain: Chain, state: State) -> None:
    async with chain.in_state(state, "big") as target:
        tag = f'"sha256-{BIG.sha256}"'
        is_part(await chain.get(target, {"Range": "bytes=2700000-2700099", "If-Range": tag}), 2_700_000, 2_700_100)
        wrong = {"Range": "bytes=2700000-2700099", "If-Range": '"sha256-other"'}
        is_whole(await chain.unstuck(chain.get(target, wrong)))
        for value in (f"W/{tag}", "Tue, 02 Jan 2024 03:04:05 GMT", f"{tag}, {tag}", "*"):
            is_whole(await chain.get(target, {"Range": "bytes=0-9", "If-Range": value}))
        is_whole(await chain.get(target, {"Range": f"bytes={SIZE}-", "If-Range": '"sha256-other"'}))


@pytest.mark.parametrize("state", STATES)
async def test_c088_if_none_match(chain: Chain, state: State) -> None:
    async with chain.in_state(state, "big") as target:
        tag = f'"sha256-{BIG.sha256}"'
        for value in (tag, f"W/{tag}", f'"x", {tag}', "*"):
            for method in ("GET", "HEAD"):
                answer = await chain.get(target, {"If-None-Match": value, "Range": "bytes=0-9"}, method=method)
                assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
                assert "content-length" not in answer.headers
        assert chain.upstream.sent[target] < 200_000  # the core metadata may be read out of the wheel
        is_part(await chain.get(target, {"If-None-Match": '"x"', "Range": "bytes=0-9"}), 0, 10)


@pytest.mark.parametrize("state", STATES)
async def test_c089_head_downloads_nothing(both: Chain, state: State) -> None:
    async with both.in_state(state, "big") as target:
        for fields in ({}, {"Range": "bytes=0-9"}):
            answer = await both.get(target, fields, method="HEAD")
            assert (answer.status, answer.headers["content-length"]) == (200, str(SIZE))
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["content-type"] == "application/octet-stream"
        assert both.upstream.sent[target] < 200_000  # the core metadata may be read out of the wheel


@pytest.mark.parametrize("state", STATES)
async def test_c090_range_of_a_file_not_held_does_not_wait_for_it(both: Chain, state: State) -> None:
    async with both.in_state(state, "big") as target:
        for value, (start, stop) in (
            ("bytes=-16384", (SIZE - 16_384, SIZE)),
            ("bytes=0-99", (0, 100)),
            ("bytes=1000000-1000099", (1_000_000, 1_000_100)),
            ("bytes=2700000-2700099", (2_700_000, 2_700_100)),
        ):
            is_part(await both.get(target, {"Range": value}), start, stop)
        # the rest of a download that is on its way hangs, and nobody has begun another
        assert both.upstream.sent[target] < 200_000


async def test_c091_metadata_is_the_advertised_one(chain: Chain) -> None:
    for number, file in enumerate(catalogue()[0].files):
        entry = await chain.entry("demo", number)
        answer = await chain.get(f"{await chain.target('demo', number)}.metadata")
        if not file.filename.endswith(".whl"):
            assert (answer.status, "core-metadata" in entry) == (404, False)
            continue
        assert (answer.status, answer.body) == (200, archive("demo", number).metadata)
        assert entry["core-metadata"] == {"sha256": hashlib.sha256(answer.body).hexdigest()}
        assert answer.headers["etag"] == f'"sha256-{file.metadata_sha256}"'


@pytest.mark.parametrize("how", ["held", "range", "head"])
async def test_c091_metadata_that_the_mirror_has_made(minimal: Chain, how: str) -> None:
    target = await minimal.target("big")
    match how:
        case "held":
            await minimal.hold("big")
        case "range":
            await minimal.get(target, {"Range": "bytes=-16384"})
        case "head":
            await minimal.get(target, method="HEAD")
    await minimal.settle()
    answer = await minimal.get(f"{target}.metadata")
    assert (answer.status, answer.body) == (200, BIG.metadata)
    assert (await minimal.entry("big"))["core-metadata"] == {"sha256": BIG.metadata_sha256}


async def test_c091_metadata_that_breaks_its_promise_is_read_out_of_the_wheel(chain: Chain) -> None:
    chain.upstream.fault("*.metadata", corrupt_byte_at=3)
    answer = await chain.get(f"{await chain.target('demo')}.metadata")
    assert (answer.status, answer.body) == (200, archive("demo").metadata)
    assert (await chain.entry("demo"))["core-metadata"] == {"sha256": archive("demo").metadata_sha256}


async def test_c091_false_promise_gives_way_to_what_the_wheel_says(chain: Chain) -> None:
    odd_page(chain, core_metadata={"sha256": "0" * 64})
    target = f"{await chain.target('demo')}.metadata"
    assert (await chain.get(target)).status == 502
    await chain.settle()
    assert (await chain.entry("demo"))["core-metadata"] == {"sha256": archive("demo").metadata_sha256}
    assert (await chain.get(target)).body == archive("demo").metadata


async def test_c092_metadata_that_is_not_advertised_is_404(both: Chain, tmp_path: Path) -> None:
    sdist = await both.target("demo", 2)
    assert (await both.get(f"{sdist}.metadata")).status == 404
    assert both.asked(f"{sdist}.metadata") == 0
    async with chained(tmp_path / "second", style={"metadata": False}, derive_metadata=False) as chain:
        wheel = await chain.hold("demo")
        assert "core-metadata" not in await chain.entry("demo")
        assert (await chain.get(f"{wheel}.metadata")).status == 404
        assert (await chain.get("/packages/aa/bb/demo-9.9-py3-none-any.whl.metadata")).status == 404


@pytest.mark.parametrize("state", STATES)
async def test_c093_signature_is_404(chain: Chain, state: State) -> None:
    async with chain.in_state(state, "big") as target:
        assert (await chain.get(f"{target}.asc")).status == 404
        assert (await chain.get(f"{target}.metadata.asc")).status == 404
        assert chain.asked(f"{target}.asc") == 0


@pytest.mark.parametrize("name", ["demo", "big"])
async def test_c094_wrong_bytes_never_look_whole_and_are_not_kept(both: Chain, name: str) -> None:
    target = await both.target(name)
    both.upstream.fault(target, corrupt_byte_at=archive(name).size // 2)
    with capture_logs() as logs:
        answer = await both.get(target)
        await both.settle()
    # a small file is not begun before it has passed, the head of a larger one is on its way by then
    assert (answer.status, answer.complete) == ((502, True) if name == "demo" else (200, False))
    assert any(archive(name).filename in str(line) for line in logs if line["log_level"] in ("warning", "error"))
    assert both.mirror.counters["integrity_failures"] >= 1
    before = both.asked(target)
    both.upstream.heal()
    again = await both.get(target)
    assert (again.status, again.body) == (200, archive(name).content)
    assert both.asked(target) == before + 1


async def shared(chain: Chain, target: str, clients: int, **switches: Any) -> list[RawResponse]:
    """What so many clients get of one download, which goes on, with these faults, when all of them have come."""
    held = chain.upstream.fault(target, hang_mid_body=500_000, times=1, **switches)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        asking = [group.create_task(chain.get(target)) for _ in range(clients)]
        while chain.mirror.counters["files_joined"] < clients - 1:
            await asyncio.sleep(0.001)
        await chain.spooled(500_000)
        held.release()
    return [each.result() for each in asking]


async def test_c095_many_clients_share_one_download(both: Chain) -> None:
    target = await both.target("big")
    answers = await shared(both, target, 12)
    for answer in answers:
        is_whole(answer)
    await both.settle()
    is_whole(await both.get(target))
    assert both.asked(target) == 1


async def test_c096_download_goes_on_without_its_client(both: Chain) -> None:
    target = await both.target("big")
    both.upstream.fault(target, hang_mid_body=True, times=1)
    async with both.connect() as leaving:
        await leaving.request("GET", target)
        await leaving.read_exactly(100_000)
        leaving.abort()
    both.upstream.heal()
    await both.settle()
    answer = await both.get(target)
    is_whole(answer)
    assert answer.headers["x-cache"] == "HIT store"
    assert both.asked(target) == 1


async def test_c096_every_client_sees_that_upstream_has_gone(both: Chain) -> None:
    target = await both.target("big")
    both.upstream.fault(target, status=503)
    answers = await shared(both, target, 5, rst_after=1_000_000)
    for answer in answers:
        assert not answer.complete
        assert BIG.content.startswith(answer.body)
    await both.settle()
    both.upstream.heal()
    both.clock.advance(60)
    is_whole(await both.get(target))


@pytest.mark.parametrize("state", STATES)
async def test_c097_yanked_file_is_served(chain: Chain, state: State) -> None:
    async with chain.in_state(state, "demo", 2) as target:
        assert (await chain.entry("demo", 2))["yanked"] == HOSTILE
        assert (await chain.unstuck(chain.get(target))).body == archive("demo", 2).content


@pytest.mark.parametrize("state", STATES)
async def test_c099_no_file_is_redirected(chain: Chain, state: State) -> None:
    async with chain.in_state(state, "big") as target:
        for fields in ({"Range": "bytes=0-9"}, {"Authorization": "Basic eDp5", "Range": "bytes=0-9"}):
            answer = await chain.get(target, fields)
            assert answer.status == 206
            assert "location" not in answer.headers
        assert not [request for request in chain.upstream.log if "authorization" in request.headers]
