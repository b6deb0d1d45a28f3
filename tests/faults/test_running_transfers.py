"""The running mirror while files arrive: no wrong or short body ever ends as complete (U4, U5, U9 to U13, P3 to P6, P12, P13)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from mirror.verify import HOLD_BACK
from tests.faults.scene import Scene, eventually, running
from tests.support.packages import Archive
from tests.support.rawhttp import Ending, RawResponse

LARGE = 1_200_000
SMALL = 20_000
BROKEN = (Ending.CUT, Ending.RESET)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running(tmp_path_factory.mktemp("data"), finish_abandoned=0) as scene:
        yield scene


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The same with an upstream for which the mirror does not wait long."""
    with running(tmp_path_factory.mktemp("data"), upstream_min_rate=20_000, upstream_read_timeout=1) as scene:
        yield scene


@pytest.fixture(autouse=True)
def healed(scene: Scene) -> Iterator[None]:
    yield
    scene.upstream.heal()


async def announced(scene: Scene, name: str, size: int) -> Archive:
    """A file of which the mirror knows, and which it does not hold."""
    archive = scene.publish(name, size)
    assert archive.filename in await scene.files_of(name)
    return archive


def broken(answer: RawResponse, archive: Archive) -> bool:
    """Whether no client can take this for the file: the end is missing, and the connection says so."""
    assert answer.status == 200
    assert answer.headers["content-length"] == str(archive.size)
    return answer.ending in BROKEN and len(answer.body) <= archive.size - HOLD_BACK


async def nothing_kept(scene: Scene, archive: Archive) -> None:
    await scene.nothing_left()
    assert not scene.stored(archive.filename)


async def heals(scene: Scene, *archives: Archive) -> None:
    scene.upstream.heal()
    for archive in archives:
        await scene.get_whole(archive)
        await scene.kept(archive)


TRUNCATIONS: dict[str, dict[str, Any]] = {
    "u9-cut": {"cut_after": 200_000},
    "u9-length-lies": {"wrong_length": -300_000},
    "u10-chunked": {"cut_after": 200_000, "framing": "chunked"},
    "u10-reset": {"rst_after": 200_000},
    "u10-chunked-reset": {"rst_after": 200_000, "framing": "chunked"},
    "u10-well-formed-and-short": {"wrong_length": -1, "framing": "chunked"},
    "u11-http-1.0": {"cut_after": 200_000, "framing": "close"},
    "u11-http-1.0-without-length": {"wrong_length": -1, "framing": "close"},
}


@pytest.mark.parametrize("kind", TRUNCATIONS)
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_u9_u10_u11_a_truncated_file_is_a_broken_transfer(scene: Scene, kind: str, version: str) -> None:
    """A download is taken up again twice; an upstream that breaks off each time gets nowhere."""
    archive = await announced(scene, f"{kind}-{version[-1]}".replace(".", "-"), LARGE)
    scene.upstream.fault(f"/{archive.path}", **TRUNCATIONS[kind])
    async with scene.logging("download failed", file=archive.filename):
        answer = await scene.get(archive.path, version=version)
    if kind == "u9-length-lies":  # the head tells already
        assert (answer.status, answer.complete) == (502, True)
    else:
        assert broken(answer, archive)
        assert archive.content.startswith(answer.body)
    await nothing_kept(scene, archive)
    await heals(scene, archive)


@pytest.mark.parametrize("kind", ["u9-cut", "u10-reset", "u11-http-1.0"])
async def test_u9_u10_u11_a_small_truncated_file_is_an_error(scene: Scene, kind: str) -> None:
    archive = await announced(scene, f"small-{kind}".replace(".", "-"), SMALL)
    switches = {name: 5000 if name in ("cut_after", "rst_after") else it for name, it in TRUNCATIONS[kind].items()}
    scene.upstream.fault(f"/{archive.path}", **switches)
    async with scene.logging("download failed", file=archive.filename):
        answer = await scene.get(archive.path)
    assert (answer.status, answer.complete) == (503, True)
    await nothing_kept(scene, archive)
    await heals(scene, archive)


async def test_u4_a_body_that_stalls_is_a_broken_transfer(impatient: Scene) -> None:
    scene = impatient
    archive = await announced(scene, "stalls", LARGE)
    scene.upstream.fault(f"/{archive.path}", hang_mid_body=200_000)
    async with (
        scene.counting(responses_aborted=1, upstream_failures=3),
        scene.logging("upstream failed", reason="the body stalled"),
    ):
        assert broken(await scene.get(archive.path), archive)
    await nothing_kept(scene, archive)
    await heals(scene, archive)


async def test_u4_a_stall_that_ends_is_overcome(impatient: Scene) -> None:
    scene = impatient
    archive = await announced(scene, "stalls-once", LARGE)
    scene.upstream.fault(f"/{archive.path}", hang_mid_body=200_000, times=1)
    async with scene.counting(responses_aborted=0, upstream_failures=1):
        await scene.get_whole(archive)
    assert scene.asked(archive.path) == 2
    scene.upstream.heal()


async def test_u5_a_body_that_dribbles_is_given_up(impatient: Scene) -> None:
    scene = impatient
    archive = await announced(scene, "dribbles", LARGE)
    scene.publish("dribbling-page")
    scene.upstream.fault(f"/{archive.path}", dribble=0.02, times=1)
    scene.upstream.fault("/simple/dribbling-page/", dribble=0.02)
    reason = "fewer than 20000 bytes per second came"
    async with scene.counting(upstream_failures=2), scene.logging("upstream failed", reason=reason):
        page, _ = await asyncio.gather(scene.page("dribbling-page"), scene.get_whole(archive))
    assert (page.status, page.complete) == (503, True)
    scene.upstream.heal()
    await scene.files_of("dribbling-page")


@pytest.mark.parametrize("at", [0, -1], ids=["first-byte", "last-byte"])
async def test_u12_wrong_hash_right_length_small(scene: Scene, at: int) -> None:
    archive = await announced(scene, f"wrong-small-{abs(at)}", SMALL)
    wrong = scene.upstream.fault(f"/{archive.path}", corrupt_byte_at=at)
    async with scene.counting(integrity_failures=2, responses_aborted=0):
        answer = await scene.get(archive.path)
    assert (answer.status, answer.complete) == (502, True)
    first, second = (request for request in scene.upstream.log if request.path == f"/{archive.path}")
    assert "cache-control" not in first.headers
    assert second.headers["cache-control"] == "no-cache"
    assert wrong.hits == 2
    await nothing_kept(scene, archive)
    await heals(scene, archive)


async def test_u12_a_damaged_cache_upstream_is_bypassed(scene: Scene) -> None:
    archive = await announced(scene, "wrong-once", SMALL)
    scene.upstream.fault(f"/{archive.path}", corrupt_byte_at=100, times=1)
    async with scene.counting(integrity_failures=1):
        await scene.get_whole(archive)
    await scene.kept(archive)


@pytest.mark.parametrize("at", [0, LARGE // 2, -1], ids=["first-byte", "middle", "last-byte"])
async def test_u12_wrong_hash_right_length_large_for_twenty_clients(scene: Scene, at: int) -> None:
    archive = await announced(scene, f"wrong-large-{at % 97}", LARGE)
    wrong = scene.upstream.fault(f"/{archive.path}", corrupt_byte_at=at, hang_mid_body=200_000)
    versions = ["HTTP/1.1", "HTTP/1.0"] * 10
    async with scene.counting(integrity_failures=1, responses_aborted=20, files_joined=19):
        asking = await scene.joined(*(scene.get(archive.path, version=version) for version in versions))
        wrong.release()
        answers = await asyncio.gather(*asking)
    for answer in answers:
        assert broken(answer, archive)
    assert scene.asked(archive.path) == 1
    await nothing_kept(scene, archive)
    await heals(scene, archive)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_u13_longer_than_promised(scene: Scene, size: int, framing: str) -> None:
    archive = await announced(scene, f"longer-{framing}-{size}", size)
    surplus = 40_000_000
    scene.upstream.fault(f"/{archive.path}", wrong_length=surplus, framing=framing)
    aborted = int(size == LARGE and framing != "length")
    async with scene.counting(integrity_failures=1 if aborted else 2, responses_aborted=aborted):
        answer = await scene.get(archive.path)
    if aborted:
        assert broken(answer, archive)
    else:
        assert (answer.status, answer.complete) == (502, True)
    # What the buffers of both sockets take is sent in vain; the rest never is.
    await eventually(lambda: 0 < scene.upstream.sent[f"/{archive.path}"] < surplus * 3 // 4)
    await nothing_kept(scene, archive)
    await heals(scene, archive)


async def test_p13_after_a_short_body_nothing_follows_on_its_connection(scene: Scene) -> None:
    archive = await announced(scene, "pipelined-short", LARGE)
    scene.upstream.fault(f"/{archive.path}", cut_after=200_000)
    async with scene.counting(responses_aborted=1), scene.connection() as connection:
        await connection.request("GET", f"/{archive.path}")
        await connection.request("GET", "/livez")
        assert broken(await connection.response(), archive)
        with pytest.raises((EOFError, ConnectionError)):
            await connection.response()
    await heals(scene, archive)


async def test_p3_a_download_that_nobody_wants_any_more(scene: Scene) -> None:
    """With `finish_abandoned` 0: given up at the beginning, finished from the middle on."""
    early, late = await announced(scene, "left-early", 4_000_000), await announced(scene, "left-late", 4_000_000)
    async with scene.counting(fills_abandoned=1):
        for archive, come in ((early, 500_000), (late, 3_000_000)):
            held = scene.upstream.fault(f"/{archive.path}", hang_mid_body=come)
            async with scene.connection() as connection:
                await connection.request("GET", f"/{archive.path}")
                await connection.read_exactly(1)
                await scene.spooled(come)
                await scene.leaves(connection, archive, held, come)
            held.release()
            await scene.nothing_left()
    assert not scene.stored(early.filename)
    scene.upstream.heal()
    assert (await scene.get_whole(late)).headers["x-cache"] == "HIT store"
    assert scene.asked(late.path) == 1
    await heals(scene, early)


async def test_p4_the_first_client_leaves_and_the_others_get_all(scene: Scene) -> None:
    archive = await announced(scene, "leader", LARGE)
    held = scene.upstream.fault(f"/{archive.path}", hang_mid_body=200_000)
    async with scene.counting(files_joined=99), scene.connection() as leader:
        await leader.request("GET", f"/{archive.path}")
        await leader.read_exactly(1)
        waiters = await scene.joined(*(scene.get_whole(archive) for _ in range(99)), begun=True)
        await scene.leaves(leader, archive, held, 200_000)
        held.release()
        await asyncio.gather(*waiters)
    assert scene.asked(archive.path) == 1


async def test_p5_the_download_fails_half_way_for_all_who_wait(scene: Scene) -> None:
    archive = await announced(scene, "fails-half-way", LARGE)
    half = archive.size // 2
    scene.upstream.fault(f"/{archive.path}", status=500)
    held = scene.upstream.fault(f"/{archive.path}", hang_mid_body=half - 1, cut_after=half, times=1)
    async with scene.counting(responses_aborted=30, files_joined=29), scene.logging("download failed"):
        waiters = await scene.joined(*(scene.get(archive.path) for _ in range(30)))
        held.release()
        answers = await asyncio.gather(*waiters)
    assert all(broken(answer, archive) for answer in answers)
    await nothing_kept(scene, archive)
    await heals(scene, archive)


async def test_p6_a_client_that_stands_still_harms_nobody(scene: Scene) -> None:
    archive = await announced(scene, "stalled", 24_000_000)
    held = scene.upstream.fault(f"/{archive.path}", hang_mid_body=20_000_000)
    before = scene.mirror.rss()
    stalled = [scene.connection(receive_buffer=4096) for _ in range(4)]
    try:
        for connection in stalled:
            await connection.__aenter__()
            await connection.request("GET", f"/{archive.path}")
            await connection.read_exactly(1)
        await scene.spooled(20_000_000)
        (reading,) = await scene.joined(scene.get_whole(archive), begun=True)
        held.release()
        await reading
        assert scene.asked(archive.path) == 1
        assert scene.mirror.rss() < before + 60_000_000
    finally:
        for connection in stalled:
            connection.abort()
    await scene.kept(archive)


RANGES = [
    "bytes=0-0",
    "bytes=0-",
    "bytes=1-",
    "bytes=-1",
    "bytes=-65536",
    "bytes=-99999999999",
    "bytes=100-199",
    "bytes={last}-{last}",
    "bytes={last}-",
    "bytes={last}-99999999999999999999999",
    "bytes={size}-",
    "bytes={size}-{size}",
    "bytes=-0",
    "bytes=5-4",
    "bytes=0-0,2-2",
    "bytes=0-99,50-149",
    "bytes=a-b",
    "bytes=",
    "lines=0-1",
]


def expected(archive: Archive, value: str) -> tuple[int, bytes]:
    """Status and body by RFC 9110 §14: what is no single satisfiable range of bytes is ignored or 416."""
    kind, _, spec = value.partition("=")
    first, dash, last = spec.partition("-")
    if kind != "bytes" or not dash or not (first + last).isdigit() or (first and last and int(last) < int(first)):
        return 200, archive.content
    if first:
        part = archive.content[int(first) : int(last) + 1 if last else None]
    else:
        part = archive.content[-int(last) :] if int(last) else b""
    return (206, part) if part else (416, b"")


@pytest.mark.parametrize("size", [SMALL, LARGE * 2])
async def test_p12_ranges_cold_and_warm_are_slices_of_the_file(scene: Scene, size: int) -> None:
    archive = await announced(scene, f"ranges-{size}", size)
    values = [value.format(last=archive.size - 1, size=archive.size) for value in RANGES]

    async def check(value: str, version: str) -> None:
        answer = await scene.get(archive.path, {"Range": value}, version=version)
        status, body = expected(archive, value)
        assert (answer.status, answer.complete) == (status, True), value
        if status == 416:
            assert answer.headers["content-range"] == f"bytes */{archive.size}"
        else:
            assert answer.body == body, value
            assert answer.headers["content-length"] == str(len(body))
        if status == 206:
            start = archive.size - len(body) if value.startswith("bytes=-") else int(value[6:].partition("-")[0])
            assert answer.headers["content-range"] == f"bytes {start}-{start + len(body) - 1}/{archive.size}"

    for value in values:
        await check(value, "HTTP/1.1")
    await scene.kept(archive)
    asked = scene.asked(archive.path)
    for value in values:
        await check(value, "HTTP/1.1")
        await check(value, "HTTP/1.0")
    assert scene.asked(archive.path) == asked


@pytest.mark.parametrize("size", [SMALL, LARGE * 2])
async def test_p12_head_conditions_and_old_clients(scene: Scene, size: int) -> None:
    archive = await announced(scene, f"head-{size}", size)
    cold = await scene.get(archive.path, method="HEAD")
    old = await scene.get(archive.path, version="HTTP/1.0")
    assert (old.status, old.ending, old.body) == (200, Ending.COMPLETE, archive.content)
    await scene.kept(archive)
    warm = await scene.get(archive.path, method="HEAD")
    for head in (cold, warm):
        assert (head.status, head.headers["content-length"], head.body) == (200, str(archive.size), b"")
        assert head.headers["etag"] == warm.headers["etag"]
    half = {"Range": f"bytes={archive.size // 2}-"}
    resumed = await scene.get(archive.path, {**half, "If-Range": warm.headers["etag"]})
    assert (resumed.status, resumed.body) == (206, archive.content[archive.size // 2 :])
    changed = await scene.get(archive.path, {**half, "If-Range": '"another"'})
    assert (changed.status, changed.body) == (200, archive.content)
    assert (await scene.get(archive.path, {"If-None-Match": warm.headers["etag"]})).status == 304
    expecting = await scene.get(archive.path, {"Expect": "100-continue"})
    assert (expecting.status, expecting.complete) == (200, True)


async def test_p12_pipelined_requests_are_answered_in_order(scene: Scene) -> None:
    cold = await announced(scene, "pipelined-cold", LARGE)
    warm = await announced(scene, "pipelined-warm", LARGE)
    await scene.kept(warm)
    async with scene.connection() as connection:
        for method, target in (
            ("GET", f"/{cold.path}"),
            ("HEAD", f"/{cold.path}"),
            ("GET", "/simple/pipelined-warm/"),
            ("GET", "/simple/no-such-project/"),
            ("GET", f"/{warm.path}"),
            ("GET", "/livez"),
        ):
            await connection.request(method, target, {"Accept": "application/vnd.pypi.simple.v1+json"})
        first = await connection.response()
        assert (first.status, first.complete, first.body) == (200, True, cold.content)
        assert (await connection.response("HEAD")).headers["content-length"] == str(cold.size)
        assert json.loads((await connection.response()).body)["name"] == "pipelined-warm"
        assert (await connection.response()).status == 404
        assert (await connection.response()).body == warm.content
        assert json.loads((await connection.response()).body) == {"status": "alive"}
