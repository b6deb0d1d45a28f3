"""Each fault switch has the effect that it promises, as seen by a client that reads raw bytes."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from tests.support.faults import Fault
from tests.support.packages import Project, wheel
from tests.support.rawhttp import Ending, RawConnection, fetch
from tests.support.upstream import ScriptedUpstream

FILE = wheel("solo", "1.0", blob=4000)
PATH = f"/{FILE.path}"


@pytest.mark.parametrize(
    ("framing", "cut", "reset"),
    [
        ("length", Ending.CUT, Ending.RESET),
        ("chunked", Ending.CUT, Ending.RESET),
        ("close", Ending.CLOSED, Ending.RESET),
    ],
)
async def test_cut_after_and_rst_after_in_each_framing(framing: str, cut: Ending, reset: Ending) -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        url = upstream.origin + FILE.path
        upstream.fault("/packages/*", cut_after=1000, framing=framing, times=1)
        answer = await fetch(url)
        assert (answer.ending, answer.body) == (cut, FILE.content[:1000])
        assert (await fetch(url)).complete
        upstream.fault("/packages/*", rst_after=1000, framing=framing, times=1)
        answer = await fetch(url)
        assert (answer.ending, answer.body) == (reset, FILE.content[:1000])
        upstream.fault("/packages/*", framing=framing, times=1)
        whole = await fetch(url)
        assert whole.body == FILE.content
        assert whole.ending is (Ending.CLOSED if framing == "close" else Ending.COMPLETE)
        assert whole.version == ("HTTP/1.0" if framing == "close" else "HTTP/1.1")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("by", [7, -7])
async def test_wrong_length_is_framed_as_if_it_were_right(framing: str, by: int) -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        upstream.fault("/packages/*", wrong_length=by, framing=framing)
        answer = await fetch(upstream.origin + FILE.path)
        assert len(answer.body) == FILE.size + by
        assert answer.ending is (Ending.CLOSED if framing == "close" else Ending.COMPLETE)


async def test_corrupt_byte_at() -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        upstream.fault(PATH, corrupt_byte_at=2000)
        answer = await fetch(upstream.origin + FILE.path)
        differing = [i for i in range(FILE.size) if answer.body[i] != FILE.content[i]]
        assert (differing, answer.complete) == ([2000], True)


async def test_first_times_skip_and_heal() -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        url = upstream.origin + FILE.path
        fault = upstream.fault("/packages/*", status=503, headers={"Retry-After": "3"}, skip=1, times=2)
        answers = [await fetch(url) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 503, 503, 200]
        assert answers[1].headers["retry-after"] == "3"
        assert fault.hits == 2
        upstream.fault("*", status=500)
        assert (await fetch(url)).status == 500
        upstream.heal()
        assert (await fetch(url)).status == 200


async def test_the_newest_matching_fault_wins_and_method_narrows_it() -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        upstream.fault("*", status=500)
        upstream.fault("*/solo/", status=502, method="HEAD")
        assert (await fetch(f"{upstream.url}solo/")).status == 500
        assert (await fetch(f"{upstream.url}solo/", method="HEAD")).status == 502


async def test_replaced_answers() -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        url = f"{upstream.url}solo/"
        upstream.fault("*", html_instead=True, times=1)
        portal = await fetch(url)
        assert (portal.status, portal.headers["content-type"]) == (200, "text/html")
        assert b"log in" in portal.body
        upstream.fault("*", body=b"null", content_type="application/json", times=1)
        null = await fetch(url)
        assert (null.body, null.headers["content-type"]) == (b"null", "application/json")
        upstream.fault("*", redirect="{path}?again", times=1)
        loop = await fetch(url)
        assert (loop.status, loop.headers["location"]) == (302, "/simple/solo/?again")
        upstream.fault("*", redirect="file:///etc/passwd", status=307, times=1)
        assert (await fetch(url)).status == 307
        upstream.fault("*", gzip_bomb=1_000_000, times=1)
        bomb = await fetch(url)
        assert len(bomb.body) < 2000
        assert gzip.decompress(bomb.body) == bytes(1_000_000)
        upstream.fault("*", status=304, times=1)
        unasked = await fetch(url)
        assert (unasked.status, unasked.body) == (304, b"")
        upstream.fault("*", raw=b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\nbody", times=1)
        raw = await fetch(url)
        assert (raw.headers["x"], raw.body) == ("\0", b"body")


async def test_headers_are_added_replaced_and_removed() -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        changes = {"etag": None, "cache-control": "no-store", "X-Extra": "1"}
        upstream.fault("*", headers=changes)
        answer = await fetch(f"{upstream.url}solo/")
        assert "etag" not in answer.headers
        assert (answer.headers["cache-control"], answer.headers["x-extra"]) == ("no-store", "1")


async def test_a_content_length_that_lies_goes_out_as_it_is() -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        upstream.fault("*", headers={"Content-Length": str(FILE.size + 5), "Connection": "close"}, cut_after=FILE.size)
        answer = await fetch(upstream.origin + FILE.path)
        assert (answer.ending, answer.body) == (Ending.CUT, FILE.content)


async def stands_still(connection: RawConnection, fault: Fault) -> None:
    """Nothing comes of the answer, which hangs by now."""
    async with asyncio.timeout(60):
        while not fault.hanging:
            await asyncio.sleep(0.005)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await connection.read(1)


async def test_hang_before_headers_until_released() -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        fault = upstream.fault("*", hang_before_headers=True)
        async with RawConnection("127.0.0.1", upstream.ports[0]) as connection:
            await connection.request("GET", PATH)
            await stands_still(connection, fault)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(fetch(upstream.origin + FILE.path))
            await upstream.wait_for(PATH, 2)
            assert not waiting.done()
            fault.release()
        assert waiting.result().body == FILE.content


@pytest.mark.parametrize(("where", "expected"), [(True, FILE.size // 2), (100, 100), (0, 0)])
async def test_hang_mid_body_until_healed(where: bool | int, expected: int) -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        fault = upstream.fault("*", hang_mid_body=where)
        async with RawConnection("127.0.0.1", upstream.ports[0]) as connection:
            await connection.request("GET", PATH)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await connection.read_exactly(1)
            assert await connection.read_exactly(expected) == FILE.content[:expected]
            await stands_still(connection, fault)
            upstream.heal()
            assert await connection.read_exactly(FILE.size - expected) == FILE.content[expected:]
            assert not fault.hanging


async def test_a_hang_is_moved_on_within_the_body() -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        fault = upstream.fault(PATH, hang_mid_body=100, cut_after=2000)
        async with RawConnection("127.0.0.1", upstream.ports[0]) as connection:
            await connection.request("GET", PATH)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await connection.read_exactly(1)
            body = b""
            for until in (100, 250, 1000):
                fault.release(until)
                body += await connection.read_exactly(until - len(body))
                await stands_still(connection, fault)
            fault.release()
            assert body + await connection.read_to_end() == FILE.content[:2000]


async def test_a_hang_ends_when_its_client_leaves() -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        fault = upstream.fault("*", hang_mid_body=100)
        async with RawConnection("127.0.0.1", upstream.ports[0]) as connection:
            await connection.request("GET", PATH)
            await connection.read_exactly(1)
        async with asyncio.timeout(60):
            while not upstream.sent[PATH]:
                await asyncio.sleep(0.01)
        assert not fault.hanging


@pytest.mark.parametrize("switches", [{"rate": 40_000}, {"dribble": 0.0}, {"delay": 0.01}])
async def test_slow_bodies_are_whole_and_come_in_small_pieces(switches: dict[str, float]) -> None:
    async with ScriptedUpstream([Project("solo", (FILE,))]) as upstream:
        upstream.fault("*", framing="chunked", **switches)
        async with RawConnection("127.0.0.1", upstream.ports[0]) as connection:
            await connection.request("GET", PATH, {"Connection": "close"})
            framed = await connection.read_to_end()
        sizes = {"rate": b"\r\n320\r\n", "dribble": b"\r\n1\r\n", "delay": b"\r\n%x\r\n" % FILE.size}
        assert framed.count(sizes[next(iter(switches))]) >= 1
        upstream.fault("*", **switches)
        assert (await fetch(upstream.origin + FILE.path)).body == FILE.content


async def test_an_unknown_switch_is_refused() -> None:
    with pytest.raises(TypeError, match="cut_of"):
        ScriptedUpstream().fault("*", cut_of=3)
    with pytest.raises(TypeError, match="jason"):
        ScriptedUpstream(jason=False)
