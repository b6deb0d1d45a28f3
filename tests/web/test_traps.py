"""What aiohttp does by itself, pinned: each test fails when a new version behaves otherwise and a rule may go."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from tests.support.rawhttp import Ending, RawConnection
from tests.web.memory import serving_app


def app_of(handler: object) -> web.Application:
    app = web.Application()
    app.router.add_get("/{name}", handler)  # type: ignore[arg-type]
    return app


async def test_trap_swallowed_error_gives_an_end_that_looks_valid() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        return response

    async with serving_app(app_of(handler)) as port, RawConnection("127.0.0.1", port) as connection:
        await connection.request("GET", "/x")
        assert (await connection.response()).ending is Ending.COMPLETE


async def test_trap_raised_error_leaves_a_chunked_body_open_ended() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        raise RuntimeError("in mid-stream")

    async with serving_app(app_of(handler)) as port, RawConnection("127.0.0.1", port) as connection:
        await connection.request("GET", "/x")
        assert (await connection.response()).ending is not Ending.COMPLETE


async def test_trap_short_body_keeps_the_connection_open() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.match_info["name"] == "next":
            return web.Response(text="next")
        response = web.StreamResponse()
        response.content_length = 5000
        await response.prepare(request)
        await response.write(b"x" * 1000)
        return response

    async with serving_app(app_of(handler)) as port, RawConnection("127.0.0.1", port) as connection:
        await connection.request("GET", "/short")
        await connection.request("GET", "/next")
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 2:
            received += await connection.read()
    # the second answer has come on the same connection, inside the first one's body
    assert len(received) < 5000


async def test_trap_surplus_is_cut_off_in_silence() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 3
        await response.prepare(request)
        await response.write(b"abcdef")
        return response

    async with serving_app(app_of(handler)) as port, RawConnection("127.0.0.1", port) as connection:
        await connection.request("GET", "/x")
        answer = await connection.response()
        assert (answer.body, answer.complete) == (b"abc", True)


async def test_trap_routing_decodes_what_must_not_be_decoded() -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.match_info["name"])
        return web.Response()

    async with serving_app(app_of(handler)) as port, RawConnection("127.0.0.1", port) as connection:
        for name in ("a%2Fb", "..%2F..%2Fetc", "a%00b", "a%0d%0ab"):
            await connection.request("GET", f"/{name}")
            await connection.response()
    assert seen == ["a/b", "../../etc", "a\0b", "a\r\nb"]


async def test_trap_aborted_connection_wakes_its_writer_as_if_all_were_written() -> None:
    outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def handler(request: web.Request) -> web.Response:
        response = web.Response(body=bytes(24 << 20))
        await response.prepare(request)
        assert request.transport is not None
        asyncio.get_running_loop().call_later(0.05, request.transport.abort)
        await response.write_eof()
        outcome.set_result(True)
        return response

    async with (
        serving_app(app_of(handler)) as port,
        RawConnection("127.0.0.1", port, receive_buffer=4096) as connection,
    ):
        await connection.request("GET", "/x")
        assert await outcome


async def test_trap_a_client_that_leaves_does_not_cancel_its_handler() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()
    requests: list[web.Request] = []
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handler(request: web.Request) -> web.Response:
        requests.append(request)
        entered.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            outcome.set_result("cancelled")
            raise
        outcome.set_result("ran to its end")
        return web.Response()

    async with serving_app(app_of(handler)) as port:
        async with RawConnection("127.0.0.1", port) as connection:
            await connection.request("GET", "/x")
            await entered.wait()
            connection.abort()
        while requests[0].transport is not None:  # until the server has heard of it
            await asyncio.sleep(0.001)
        go_on.set()
        assert await outcome == "ran to its end"


async def test_trap_a_line_break_in_a_header_value_ends_in_an_empty_reply() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(headers={"X-Name": request.match_info["name"]})

    async with serving_app(app_of(handler)) as port, RawConnection("127.0.0.1", port) as connection:
        await connection.request("GET", "/a%0d%0aSet-Cookie:%20x=1")
        assert b"Set-Cookie: x=1" not in await connection.read_to_end()


async def test_trap_half_a_head_is_waited_for_without_end() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    async with serving_app(app_of(handler)) as port, RawConnection("127.0.0.1", port) as connection:
        await connection.send(b"GET /x HTTP/1.1\r\nHost: x\r\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await connection.read()
