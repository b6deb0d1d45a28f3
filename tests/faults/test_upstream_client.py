"""The faults of an upstream (U1-U18, U23, U26), each caused by a real server, as the client tells them."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import warnings
from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from structlog.testing import capture_logs

from mirror.errors import NoSuchProject, UpstreamBusy, UpstreamDown, UpstreamMisbehaved
from mirror.model import NO_VALIDATOR, PageDocument, Span, Validator
from mirror.names import project_name
from mirror.testing import MovableClock
from tests.support.http_client import Rig, black_hole, client, closed_port, entry, raw_server, replying
from tests.support.packages import Project, wheel
from tests.support.upstream import ScriptedUpstream

DEMO, OTHER = project_name("demo"), project_name("other")
FILE = wheel("demo", "1.0", blob=300_000)
PROJECTS = [Project("demo", (FILE,)), Project("other", ())]
PAGE = "/simple/demo/"


@pytest.fixture
async def index() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(PROJECTS) as running:
        yield running


async def page(rig: Rig, known: Validator = NO_VALIDATOR) -> PageDocument:
    got = await rig.upstream.fetch_page(DEMO, known)
    assert isinstance(got, PageDocument)
    return got


async def read(rig: Rig, index: ScriptedUpstream, span: Span = Span()) -> bytes:  # noqa: B008 - frozen
    """The file, or what its body raises."""
    stream = await rig.upstream.fetch_file(entry(FILE, index.origin), span)
    return b"".join([piece async for piece in stream.body])


async def drain(pieces: AsyncIterable[bytes], into: bytearray) -> None:
    """Reads as far as it comes; raises what the body raises."""
    async for piece in pieces:
        into += piece


def told(outcome: object) -> Exception:
    """What a call of several at the same time raised."""
    assert isinstance(outcome, Exception), outcome
    return outcome


# --- it cannot be reached ------------------------------------------------------------------------


async def test_u1_refused_is_told_soon_after_retries() -> None:
    async with client(f"http://127.0.0.1:{closed_port()}/simple/", retry_wait=0.1) as rig, asyncio.timeout(60):
        with pytest.raises(UpstreamDown, match="refused"):
            await page(rig)
        assert rig.counters["upstream_requests"] == 3
        assert rig.counters["upstream_retries"] == 2
        assert rig.counters["upstream_failures"] == 1


async def test_u1_the_breaker_opens_and_lets_a_probe_through(index: ScriptedUpstream) -> None:
    clock = MovableClock()
    async with client(index.url, clock=clock, retries=0, breaker_threshold=3) as rig:
        await index.stop()
        assert rig.upstream.state() == "up"
        for _ in range(3):
            with pytest.raises(UpstreamDown):
                await page(rig)
            clock.advance(0.5)
        assert rig.counters["upstream_breaker_opened"] == 1
        assert rig.upstream.state() == "down"
        with pytest.raises(UpstreamDown, match="several times") as caught:
            await page(rig)
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= 5
        assert rig.counters["upstream_requests"] == 3

        await index.start()
        with pytest.raises(UpstreamDown, match="several times"):
            await page(rig)
        clock.advance(5)
        await page(rig)
        assert rig.upstream.state() == "up"
        assert rig.counters["upstream_breaker_opened"] == 1


async def test_u1_while_a_probe_is_on_its_way_others_are_refused(index: ScriptedUpstream) -> None:
    clock = MovableClock()
    async with client(index.url, clock=clock, retries=0, breaker_threshold=1) as rig:
        fault = index.fault(PAGE, status=503, times=1)
        with pytest.raises(UpstreamDown):
            await page(rig)
        assert fault.hits == 1
        clock.advance(5)
        hanging = index.fault(PAGE, hang_before_headers=True)
        async with asyncio.TaskGroup() as group:
            probe = group.create_task(page(rig))
            await index.wait_for(PAGE, 2)
            with pytest.raises(UpstreamDown, match="several times"):
                await rig.upstream.fetch_page(OTHER, NO_VALIDATOR)
            hanging.release()
        assert probe.result().body
        await rig.upstream.fetch_page(OTHER, NO_VALIDATOR)


async def test_u1_an_abandoned_probe_does_not_hold_the_breaker_open(index: ScriptedUpstream) -> None:
    clock = MovableClock()
    async with client(index.url, clock=clock, retries=0, breaker_threshold=1) as rig:
        index.fault(PAGE, status=503, times=1)
        with pytest.raises(UpstreamDown):
            await page(rig)
        clock.advance(5)
        index.fault(PAGE, hang_before_headers=True, times=1)
        async with asyncio.TaskGroup() as group:
            probe = group.create_task(page(rig))
            await index.wait_for(PAGE, 2)
            probe.cancel()
        await page(rig)


@pytest.mark.parametrize("status", [404, 500])
async def test_u1_an_origin_that_answers_is_not_down(index: ScriptedUpstream, status: int) -> None:
    async with client(index.url, retries=0, breaker_threshold=1) as rig:
        index.fault(PAGE, status=status)
        for _ in range(2):
            with pytest.raises((NoSuchProject, UpstreamDown)):
                await page(rig)
        assert rig.counters["upstream_breaker_opened"] == 0
        assert rig.counters["upstream_requests"] == 2


async def test_u1_one_origin_down_leaves_the_others_up(index: ScriptedUpstream) -> None:
    async with client(index.url, retries=0, breaker_threshold=1) as rig:
        dead = entry(FILE, f"http://127.0.0.1:{closed_port()}/")
        with pytest.raises(UpstreamDown):
            await rig.upstream.fetch_file(dead)
        assert rig.counters["upstream_breaker_opened"] == 1
        await page(rig)


async def test_u2_a_black_hole_costs_one_connect_timeout() -> None:
    with black_hole() as port:
        async with client(f"http://127.0.0.1:{port}/simple/", connect_timeout=0.2) as rig:
            with pytest.raises(UpstreamDown, match="no connection within"):
                await page(rig)
            assert rig.counters["upstream_requests"] == 1
            assert rig.counters["upstream_retries"] == 0
            assert rig.counters["upstream_failures"] == 1


async def test_u3_no_first_byte(index: ScriptedUpstream) -> None:
    index.fault("*", hang_before_headers=True)
    async with client(index.url, connect_timeout=1, read_timeout=0.1) as rig:
        outcomes = await asyncio.gather(page(rig), read(rig, index), return_exceptions=True)
        for outcome in outcomes:
            with pytest.raises(UpstreamDown, match="no answer within"):
                raise told(outcome)
        assert rig.counters["upstream_requests"] == 2
        assert rig.counters["upstream_failures"] == 2


# --- it is slow ----------------------------------------------------------------------------------


async def test_u4_a_body_that_stalls_breaks_off(index: ScriptedUpstream) -> None:
    index.fault("*", hang_mid_body=True)
    async with client(index.url, read_timeout=1, retries=0) as rig:
        stream = await rig.upstream.fetch_file(entry(FILE, index.origin))
        received = bytearray()
        outcomes = await asyncio.gather(drain(stream.body, received), page(rig), return_exceptions=True)
        for outcome in outcomes:
            with pytest.raises(UpstreamDown, match="stalled"):
                raise told(outcome)
        assert received == FILE.content[: FILE.size // 2]
        assert rig.counters["upstream_failures"] == 2


async def test_u5_a_body_that_dribbles_breaks_off(index: ScriptedUpstream) -> None:
    index.fault("*", dribble=0.01)
    async with client(index.url, grace=0.2, min_rate=10_000, retries=0) as rig:
        with pytest.raises(UpstreamDown, match="10000 bytes per second"):
            await read(rig, index)
        with pytest.raises(UpstreamDown, match="10000 bytes per second"):
            await page(rig)
        assert rig.counters["upstream_failures"] == 2


async def test_u5_a_slow_reader_is_not_a_slow_upstream(index: ScriptedUpstream) -> None:
    async with client(index.url, grace=1, min_rate=10_000_000) as rig:
        stream = await rig.upstream.fetch_file(entry(FILE, index.origin))
        body = await anext(aiter(stream.body))
        await asyncio.sleep(1.1)  # longer than the grace; upstream itself never takes that long
        async for piece in stream.body:
            body += piece
        assert body == FILE.content


async def test_u5_no_least_rate(index: ScriptedUpstream) -> None:
    index.fault(PAGE, dribble=0.001)
    async with client(index.url, grace=0, min_rate=0) as rig:
        assert (await page(rig)).body


async def test_downloads_leave_connections_for_pages(index: ScriptedUpstream) -> None:
    async with client(index.url, max_connections=2, read_timeout=1) as rig:
        stream = await rig.upstream.fetch_file(entry(FILE, index.origin))
        with pytest.raises(UpstreamDown, match="in use"):
            await rig.upstream.fetch_file(entry(FILE, index.origin))
        assert rig.counters["upstream_failures"] == 1
        await page(rig)
        assert b"".join([piece async for piece in stream.body]) == FILE.content
        await (await rig.upstream.fetch_file(entry(FILE, index.origin))).aclose()


# --- it answers that it cannot -------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
async def test_u6_server_errors_are_retried_twice(index: ScriptedUpstream, status: int) -> None:
    index.fault("*", status=status)
    async with client(index.url) as rig:
        with pytest.raises(UpstreamDown, match=str(status)):
            await page(rig)
        assert index.requests[PAGE] == 3
        assert rig.counters["upstream_retries"] == 2
        assert rig.counters["upstream_failures"] == 1
        index.heal()
        index.fault("*", status=status, times=1)
        assert await read(rig, index) == FILE.content
        assert rig.counters["upstream_retries"] == 3
        assert rig.counters["upstream_failures"] == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("value", "seconds"), [("30", 30), ("date", 30), ("1000000000", 60)])
async def test_u7_one_pause_for_the_whole_origin(
    index: ScriptedUpstream, status: int, value: str, seconds: float
) -> None:
    clock = MovableClock()
    header = formatdate(clock.now() + 30, usegmt=True) if value == "date" else value
    index.fault(PAGE, status=status, headers={"Retry-After": header}, times=1)
    async with client(index.url, clock=clock) as rig:
        with pytest.raises(UpstreamBusy, match=str(status)) as caught:
            await page(rig)
        assert caught.value.retry_after == seconds
        clock.advance(10)
        with pytest.raises(UpstreamBusy, match="pause") as caught:
            await rig.upstream.fetch_page(OTHER, NO_VALIDATOR)
        assert caught.value.retry_after == seconds - 10
        assert sum(index.requests.values()) == 1
        assert rig.counters["upstream_failures"] == 2
        assert rig.counters["upstream_breaker_opened"] == 0
        clock.advance(seconds - 10)
        await page(rig)


async def test_u7_a_short_pause_is_waited_out(index: ScriptedUpstream) -> None:
    index.fault(PAGE, status=429, headers={"Retry-After": "1"}, times=1)
    async with client(index.url) as rig:
        await page(rig)
        assert rig.counters["upstream_retries"] == 1
        assert rig.counters["upstream_failures"] == 0


@pytest.mark.parametrize("status", [404, 410])
async def test_u8_absent_is_an_answer_and_no_failure(index: ScriptedUpstream, status: int) -> None:
    index.fault(PAGE, status=status)
    async with client(index.url) as rig:
        with pytest.raises(NoSuchProject):
            await page(rig)
        assert rig.counters["upstream_requests"] == 1
        assert rig.counters["upstream_failures"] == 0


# --- the body is not whole -----------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("switch", ["cut_after", "rst_after"])
async def test_u9_u10_a_truncated_file_breaks_off(index: ScriptedUpstream, framing: str, switch: str) -> None:
    index.fault("/packages/*", framing=framing, **{switch: 100_000})
    async with client(index.url) as rig:
        with pytest.raises(UpstreamDown):
            await read(rig, index)
        assert rig.counters["upstream_requests"] == 1
        assert rig.counters["upstream_failures"] == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("switch", ["cut_after", "rst_after"])
async def test_u9_u10_a_truncated_page_is_asked_for_again(index: ScriptedUpstream, framing: str, switch: str) -> None:
    async with client(index.url) as rig:
        whole = await page(rig)
        index.fault(PAGE, framing=framing, times=1, **{switch: 100})
        assert (await page(rig)).body == whole.body
        assert rig.counters["upstream_retries"] == 1
        index.fault(PAGE, framing=framing, **{switch: 100})
        with pytest.raises(UpstreamDown):
            await page(rig)
        assert rig.counters["upstream_failures"] == 1


async def test_u11_nothing_tells_a_truncated_http_1_0_body_but_its_size(index: ScriptedUpstream) -> None:
    index.fault("/packages/*", framing="close", cut_after=1000)
    async with client(index.url) as rig:
        stream = await rig.upstream.fetch_file(entry(FILE, index.origin))
        assert (stream.size, stream.stop) == (None, None)
        assert b"".join([piece async for piece in stream.body]) == FILE.content[:1000]


@pytest.mark.parametrize(
    ("span", "status", "headers", "why"),
    [
        (Span(), 206, {"Content-Range": "bytes 5-9/300"}, "another part"),
        (Span(100), 206, {"Content-Range": "bytes 200-205/300"}, "another part"),
        (Span(suffix=6), 206, {"Content-Range": "bytes 305-309/310"}, "another part"),
        (Span(100), 206, {}, "without saying"),
        (Span(100), 206, {"Content-Range": "bytes 9-5/300"}, "without saying"),
        (Span(100), 206, {"Content-Type": "multipart/byteranges; boundary=x"}, "without saying"),
        (Span(100), 206, {"Content-Range": "bytes 100-200/300"}, "contradict"),
        (Span(), 416, {"Content-Range": "bytes */300"}, "416"),
        (Span(100), 200, {"Content-Encoding": "gzip"}, "encoded"),
        (Span(), 200, {"Content-Encoding": "br"}, "encoded"),
        (Span(), 204, {}, "204"),
    ],
)
async def test_answers_that_do_not_fit_the_range_asked_for(
    index: ScriptedUpstream, span: Span, status: int, headers: dict[str, str], why: str
) -> None:
    index.fault("/packages/*", status=status, body=b"sixsix", headers=headers)
    async with client(index.url) as rig:
        with pytest.raises(UpstreamMisbehaved, match=why):
            await rig.upstream.fetch_file(entry(FILE, index.origin), span)
        assert rig.counters["upstream_failures"] == 1


async def test_content_range_is_believed_whatever_the_status(index: ScriptedUpstream) -> None:
    index.fault("/packages/*", status=200, body=b"sixsix", headers={"Content-Range": "bytes 90-95/300"})
    async with client(index.url) as rig:
        stream = await rig.upstream.fetch_file(entry(FILE, index.origin), Span(92))
        assert (stream.start, stream.stop, stream.size) == (90, 96, 300)
        await stream.aclose()


# --- it sends us elsewhere -----------------------------------------------------------------------


async def test_u14_a_redirect_loop_ends_after_five_hops(index: ScriptedUpstream) -> None:
    index.fault("*", redirect="{path}")
    async with client(index.url) as rig:
        with pytest.raises(UpstreamMisbehaved, match="after 5 redirects"):
            await page(rig)
        assert index.requests[PAGE] == 6
        assert rig.counters["upstream_redirects_refused"] == 1
        assert rig.counters["upstream_failures"] == 1


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://127.0.0.2/",
        "http://2130706433/",
        "http://127.1/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://0/",
        "//127.0.0.2/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://user:hunter2@127.0.0.1/",
        "http://[::1",
        "http://127.0.0.1:99999/",
    ],
)
async def test_u15_redirects_that_are_refused(index: ScriptedUpstream, target: str) -> None:
    index.fault("*", redirect=target)
    async with client(index.url) as rig:
        with capture_logs() as logs, pytest.raises(UpstreamMisbehaved) as caught:
            await page(rig)
        with pytest.raises(UpstreamMisbehaved):
            await read(rig, index)
        assert rig.counters["upstream_redirects_refused"] == 2
        assert rig.counters["upstream_failures"] == 2
        assert rig.counters["upstream_requests"] == 2
        assert [entry["event"] for entry in logs] == ["upstream redirect refused", "upstream failed"]
        assert "hunter2" not in repr(logs) + str(caught.value)


async def test_u15_a_host_that_resolves_to_a_private_address_is_refused(index: ScriptedUpstream) -> None:
    async with client(index.url) as rig:
        index.fault(PAGE, redirect=f"http://localhost:{index.ports[1]}/elsewhere")
        with pytest.raises(UpstreamMisbehaved, match="not public"):
            await page(rig)
        with pytest.raises(UpstreamMisbehaved, match="not public"):
            await rig.upstream.fetch_file(entry(FILE, f"http://localhost:{index.ports[1]}/"))
        assert rig.counters["upstream_addresses_refused"] == 2
        assert rig.counters["upstream_breaker_opened"] == 0
        assert index.requests["/elsewhere"] + index.requests[f"/{FILE.path}"] == 0
    async with client(index.url, file_hosts=("localhost",)) as rig:
        stream = await rig.upstream.fetch_file(entry(FILE, f"http://localhost:{index.ports[1]}/"))
        assert b"".join([piece async for piece in stream.body]) == FILE.content


async def test_u15_urls_that_a_page_names_are_held_to_the_same_rules(index: ScriptedUpstream) -> None:
    async with client(index.url, file_hosts=()) as rig:
        for origin in ("http://127.0.0.2/", "https://1.1.1.1/", "http://2130706433/", "file:///", "http://[::1"):
            with pytest.raises(UpstreamMisbehaved):
                await rig.upstream.fetch_file(entry(FILE, origin))
            with pytest.raises(UpstreamMisbehaved):
                await rig.upstream.fetch_small(origin, accept="*/*", limit=10)
        assert rig.counters["upstream_requests"] == 0
        assert rig.counters["upstream_failures"] == 10


# --- TLS -----------------------------------------------------------------------------------------


def _server_context(ca: trustme.CA, host: str, **issue: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(host, **issue).configure_cert(context)
    return context


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


async def test_a_certificate_of_the_bundle_is_trusted(authority: trustme.CA, bundle: Path) -> None:
    tls = _server_context(authority, "127.0.0.1")
    async with ScriptedUpstream(PROJECTS, tls=tls) as index, client(index.url, ca_bundle=bundle) as rig:
        await page(rig)


@pytest.mark.parametrize("fault", ["expired", "wrong host", "unknown authority"])
async def test_u16_a_certificate_that_is_not_right(authority: trustme.CA, bundle: Path, fault: str) -> None:
    match fault:
        case "expired":
            tls = _server_context(authority, "127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))
        case "wrong host":
            tls = _server_context(authority, "index.example.com")
        case _:
            tls = _server_context(trustme.CA(), "127.0.0.1")
    async with ScriptedUpstream(PROJECTS, tls=tls) as index, client(index.url, ca_bundle=bundle) as rig:
        with pytest.raises(UpstreamDown, match="certificate is not trusted"):
            await page(rig)
        assert index.log == []
        assert rig.counters["upstream_requests"] == 1
        assert rig.counters["upstream_failures"] == 1


async def test_u16_without_a_bundle_the_system_decides(authority: trustme.CA) -> None:
    tls = _server_context(authority, "127.0.0.1")
    async with ScriptedUpstream(PROJECTS, tls=tls) as index, client(index.url) as rig:
        with pytest.raises(UpstreamDown, match="certificate is not trusted"):
            await page(rig)
        assert rig.counters["upstream_failures"] == 1


async def test_u16_no_fallback_to_plain_http() -> None:
    seen: list[bytes] = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(5))
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(plain) as origin, client(f"{origin}simple/".replace("http:", "https:")) as rig:
        with pytest.raises(UpstreamDown, match="TLS"):
            await page(rig)
        assert [head[:1] for head in seen] == [b"\x16"], "one TLS handshake, and no request"
        assert rig.counters["upstream_failures"] == 1


async def test_u16_an_outdated_tls_is_not_spoken(authority: trustme.CA, bundle: Path) -> None:
    tls = _server_context(authority, "127.0.0.1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # being outdated is the point
        tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1
    tls.set_ciphers("ALL:@SECLEVEL=0")
    async with ScriptedUpstream(PROJECTS, tls=tls) as index, client(index.url, ca_bundle=bundle) as rig:
        with pytest.raises(UpstreamDown, match=r"TLS|lost"):  # an alert or a closed connection
            await page(rig)
        assert index.log == []
        assert rig.counters["upstream_failures"] == 1


async def test_u15_from_https_to_http_is_refused(authority: trustme.CA, bundle: Path, index: ScriptedUpstream) -> None:
    tls = _server_context(authority, "127.0.0.1")
    async with ScriptedUpstream(PROJECTS, tls=tls) as safe, client(safe.url, ca_bundle=bundle) as rig:
        safe.fault(PAGE, redirect=f"{index.url}demo/")
        with pytest.raises(UpstreamMisbehaved, match="gives up TLS"):
            await page(rig)
        assert rig.counters["upstream_redirects_refused"] == 1
        with pytest.raises(UpstreamMisbehaved, match="gives up TLS"):
            await read(rig, index)
        assert index.log == []


# --- names ---------------------------------------------------------------------------------------


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What a name server answers, one list after the other; asked for anything else it fails."""
    known: dict[str, list[str]] = {}

    def look_up(host: str, port: int, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> list[Any]:  # noqa: A002 - as socket names it
        if not known.get(host):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[host].pop(0), port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


async def test_u17_a_name_that_cannot_be_resolved(names: dict[str, list[str]]) -> None:
    async with client("http://index.example.com/simple/") as rig:
        with pytest.raises(UpstreamDown, match="cannot be resolved"):
            await page(rig)
        assert rig.counters["upstream_retries"] == 2
        assert rig.counters["upstream_failures"] == 1


async def test_u17_the_address_that_was_checked_is_the_one_connected_to(
    index: ScriptedUpstream, names: dict[str, list[str]]
) -> None:
    port = index.ports[0]
    names["index.example.com"] = ["127.0.0.1", "127.0.0.2"]
    names["rebinding.example.com"] = ["127.0.0.1"]
    async with client(f"http://index.example.com:{port}/simple/") as rig:
        await page(rig)
        assert names["index.example.com"] == ["127.0.0.2"], "one look-up serves the check and the connection"
        with pytest.raises(UpstreamMisbehaved, match="not public"):
            await rig.upstream.fetch_file(entry(FILE, f"http://rebinding.example.com:{port}/"))
        assert index.requests[f"/{FILE.path}"] == 0
        assert rig.counters["upstream_addresses_refused"] == 1


# --- answers that are none -----------------------------------------------------------------------


async def test_u18_a_304_to_nothing_is_asked_again_past_caches(index: ScriptedUpstream) -> None:
    async with client(index.url) as rig:
        index.fault(PAGE, status=304, times=1)
        assert (await page(rig)).body
        assert [r.headers.get("cache-control") for r in index.log] == [None, "no-cache"]
        assert rig.counters["upstream_unexpected_304"] == 1
        assert rig.counters["upstream_failures"] == 0
        index.fault(PAGE, status=304)
        with pytest.raises(UpstreamMisbehaved, match="304"):
            await page(rig)
        assert rig.counters["upstream_unexpected_304"] == 2
        assert rig.counters["upstream_failures"] == 1


@pytest.mark.parametrize("content_type", ["image/png", "application/zip", "application/pdf"])
async def test_u22_what_cannot_be_a_page(index: ScriptedUpstream, content_type: str) -> None:
    index.fault(PAGE, content_type=content_type)
    async with client(index.url) as rig:
        with pytest.raises(UpstreamMisbehaved, match=content_type):
            await page(rig)
        assert rig.counters["upstream_failures"] == 1


@pytest.mark.parametrize(
    "switches",
    [
        {"gzip_bomb": 50_000_000},
        {"gzip_bomb": 50_000_000, "framing": "chunked"},
        {"body": gzip.compress(gzip.compress(b"<html>")), "headers": {"Content-Encoding": "gzip, gzip"}},
        {"body": b"\x1f\x8b\x08nonsense", "headers": {"Content-Encoding": "gzip"}},
        {"body": gzip.compress(b"<html>" * 1000)[:-20], "headers": {"Content-Encoding": "gzip"}},
        {"body": b"<html>", "headers": {"Content-Encoding": "br"}},
        {"body": b"<html>" * 500_000},
        {"body": b"<html>" * 500_000, "framing": "chunked"},
    ],
)
async def test_u23_bodies_are_bounded_and_decoded_once(index: ScriptedUpstream, switches: dict[str, Any]) -> None:
    index.fault("/simple/*", **switches)
    async with client(index.url, max_page_bytes=1_000_000, max_list_bytes=1_000_000) as rig:
        with pytest.raises(UpstreamMisbehaved):
            await page(rig)
        assert rig.counters["upstream_failures"] == 1
        _, pieces = await rig.upstream.fetch_project_list()
        received = bytearray()
        with pytest.raises(UpstreamMisbehaved, match="cannot be decoded"):
            await drain(pieces, received)
        assert len(received) <= 1_000_000
        assert rig.counters["upstream_failures"] == 2


async def test_u23_an_endless_body_is_cut_off_while_it_comes() -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        while True:
            writer.write(b"<html>" * 10_000)
            await writer.drain()

    async with (
        raw_server(pour) as origin,
        client(f"{origin}simple/", max_page_bytes=1_000_000) as rig,
        asyncio.timeout(60),
    ):
        with pytest.raises(UpstreamMisbehaved, match="more than the 1000000 bytes"):
            await page(rig)
        assert rig.counters["upstream_failures"] == 1


async def test_u9_a_truncated_list_breaks_off(index: ScriptedUpstream) -> None:
    index.fault("/simple/", cut_after=20)
    async with client(index.url) as rig:
        _, pieces = await rig.upstream.fetch_project_list()
        with pytest.raises(UpstreamDown):
            await drain(pieces, bytearray())
        assert rig.counters["upstream_failures"] == 1


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        _HEAD + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
        _HEAD + b"X: a\r\n" * 10_000 + b"\r\n",
        _HEAD + b"ETag: a\0b\r\nContent-Length: 6\r\n\r\n<html>",
        _HEAD + b"Content-Length: 6\r\nContent-Length: 7\r\n\r\n<html>",
        _HEAD + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n<html>",
        _HEAD + b"Content-Length: -6\r\n\r\n<html>",
        _HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n<html>\r\n0\r\n\r\n",
        b"HTTP/1.1 20x OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0" * 1000,
        b"",
    ],
    ids=[
        "1 MB",
        "10000 fields",
        "NUL",
        "two lengths",
        "both framings",
        "negative",
        "chunk",
        "status",
        "ssh",
        "0",
        "none",
    ],
)
async def test_u26_heads_that_are_no_http(answer: bytes) -> None:
    async with raw_server(replying(answer)) as origin, client(f"{origin}simple/", retries=0) as rig:
        with pytest.raises((UpstreamMisbehaved, UpstreamDown)):
            await page(rig)
        assert rig.counters["upstream_failures"] == 1


async def test_u26_a_flood_of_interim_answers_ends_at_the_deadline() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 20)
            await writer.drain()
            await asyncio.sleep(0.001)

    async with (
        raw_server(flood) as origin,
        client(f"{origin}simple/", connect_timeout=1, read_timeout=0.1) as rig,
    ):
        with pytest.raises(UpstreamDown, match="no answer within"):
            await page(rig)
        assert rig.counters["upstream_failures"] == 1


# --- what the library does by itself -------------------------------------------------------------


async def test_trap_a_short_http_1_0_body_is_no_error_for_aiohttp(index: ScriptedUpstream) -> None:
    index.fault("/packages/*", framing="close", cut_after=1000)
    async with aiohttp.ClientSession() as session, session.get(f"{index.origin}{FILE.path}") as response:
        assert response.status == 200
        assert len(await response.read()) == 1000


async def test_trap_aiohttp_decodes_gzip_by_itself_and_keeps_the_encoded_length(index: ScriptedUpstream) -> None:
    encoded = gzip.compress(b"<html>" * 1000)
    index.fault(PAGE, body=encoded, headers={"Content-Encoding": "gzip"})
    async with aiohttp.ClientSession() as session, session.get(f"{index.url}demo/") as response:
        assert await response.read() == b"<html>" * 1000
        assert response.content_length == len(encoded)


async def test_trap_aiohttp_follows_redirects_by_itself_also_to_this_machine(index: ScriptedUpstream) -> None:
    index.fault(PAGE, redirect=f"http://127.0.0.1:{index.ports[1]}/simple/other/")
    async with aiohttp.ClientSession() as session, session.get(f"{index.url}demo/") as response:
        assert response.status == 200
        assert response.url.path == "/simple/other/"
