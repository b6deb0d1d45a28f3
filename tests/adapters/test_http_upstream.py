"""The HTTP upstream against indexes that behave, each in its own way."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from pathlib import Path

import pytest

from mirror.adapters.http.options import UpstreamOptions
from mirror.errors import ConfigError, NoSuchFile, NoSuchProject, StartError, UnsatisfiableSpan, UpstreamMisbehaved
from mirror.model import NO_VALIDATOR, NotModified, PageDocument, Span, UpstreamStream, Validator
from mirror.names import project_name
from tests.support.http_client import client, closed_port, entry, raw_server
from tests.support.packages import Project, wheel
from tests.support.pages import JSON
from tests.support.upstream import ScriptedUpstream

DEMO = project_name("demo")
FILE = wheel("demo", "1.0", blob=300_000)
PROJECT = Project("Demo", (FILE,))


async def whole(stream: UpstreamStream) -> bytes:
    return b"".join([piece async for piece in stream.body])


async def test_a_page_with_all_its_facts() -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        page = await rig.upstream.fetch_page(DEMO, NO_VALIDATOR)
        assert isinstance(page, PageDocument)
        assert page.content_type == JSON
        assert json.loads(page.body)["files"][0]["filename"] == FILE.filename
        assert page.url == f"{index.url}demo/"
        assert (page.serial, page.max_age) == (1000, 600)
        assert page.validator.etag is not None
        request = index.log[-1]
        assert request.headers["accept-encoding"] == "gzip"
        assert request.headers["via"] == f"1.1 {rig.upstream.instance}"
        assert request.headers["user-agent"].startswith("mirror/")
        assert "cookie" not in request.headers
        assert (rig.counters["upstream_requests"], rig.counters["upstream_failures"]) == (1, 0)


async def test_a_page_that_did_not_change() -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        page = await rig.upstream.fetch_page(DEMO, NO_VALIDATOR)
        assert isinstance(page, PageDocument)
        assert await rig.upstream.fetch_page(DEMO, page.validator) == NotModified(600, 1000)
        other = await rig.upstream.fetch_page(DEMO, Validator(etag='"another"'))
        assert isinstance(other, PageDocument)
        assert other.body == page.body


async def test_last_modified_is_sent_back() -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        await rig.upstream.fetch_page(DEMO, Validator(last_modified="Tue, 02 Jan 2024 03:04:05 GMT"))
        assert index.log[-1].headers["if-modified-since"] == "Tue, 02 Jan 2024 03:04:05 GMT"


async def test_a_minimal_index_works() -> None:
    async with ScriptedUpstream([PROJECT], json=False, head=False, ranges=False) as index, client(index.url) as rig:
        page = await rig.upstream.fetch_page(DEMO, NO_VALIDATOR)
        assert isinstance(page, PageDocument)
        assert (page.content_type, page.validator, page.serial, page.max_age) == ("text/html", NO_VALIDATOR, None, None)
        assert FILE.filename.encode() in page.body
        with pytest.raises(NoSuchProject):
            await rig.upstream.fetch_page(project_name("absent"), NO_VALIDATOR)
        file = entry(FILE, index.origin, size=None)
        assert await rig.upstream.fetch_size(file) == FILE.size
        stream = await rig.upstream.fetch_file(file, Span(first=1000))
        assert (stream.start, stream.stop, stream.size) == (0, FILE.size, FILE.size)
        assert await whole(stream) == FILE.content
        with pytest.raises(NoSuchProject):
            await rig.upstream.fetch_legacy_json(DEMO, None)


async def test_redirects_to_the_page_are_followed() -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        index.fault("/simple/demo/", redirect="/simple/Demo", status=308, times=1)
        page = await rig.upstream.fetch_page(DEMO, NO_VALIDATOR)
        assert isinstance(page, PageDocument)
        assert page.url == f"{index.url}demo/"
        assert rig.counters["upstream_requests"] == 4  # /simple/demo/, /simple/Demo, /simple/Demo/, /simple/demo/


@pytest.mark.parametrize("links", ["same", "other"])
async def test_a_file_whole_and_in_parts(links: str) -> None:
    async with ScriptedUpstream([PROJECT], links=links) as index, client(index.url) as rig:
        file = entry(FILE, index.origin)
        stream = await rig.upstream.fetch_file(file)
        assert (stream.start, stream.stop, stream.size) == (0, FILE.size, FILE.size)
        assert hashlib.sha256(await whole(stream)).hexdigest() == FILE.sha256
        for span, start, stop in [
            (Span(1000), 1000, FILE.size),
            (Span(1000, 1999), 1000, 2000),
            (Span(suffix=500), FILE.size - 500, FILE.size),
            (Span(0, 10**12), 0, FILE.size),
        ]:
            stream = await rig.upstream.fetch_file(file, span)
            assert (stream.start, stream.stop, stream.size) == (start, stop, FILE.size)
            assert await whole(stream) == FILE.content[start:stop]
        request = index.log[-1]
        assert request.headers["accept-encoding"] == "identity"
        assert "cache-control" not in request.headers


async def test_past_upstreams_caches() -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        await (await rig.upstream.fetch_file(entry(FILE, index.origin), bypass_caches=True)).aclose()
        assert index.log[-1].headers["cache-control"] == "no-cache"


async def test_a_span_past_the_end() -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        for size in (FILE.size, None):
            with pytest.raises(UnsatisfiableSpan) as caught:
                await rig.upstream.fetch_file(entry(FILE, index.origin, size=size), Span(FILE.size))
            assert caught.value.size == FILE.size
        with pytest.raises(UpstreamMisbehaved, match="its index says"):
            await rig.upstream.fetch_file(entry(FILE, index.origin, size=FILE.size + 10), Span(FILE.size))
        assert rig.counters["upstream_failures"] == 1


async def test_a_stream_can_be_left_early_and_its_connection_is_free_again() -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url, max_connections=2) as rig:
        for _ in range(3):
            stream = await rig.upstream.fetch_file(entry(FILE, index.origin))
            await anext(aiter(stream.body))
            await stream.aclose()
            await stream.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(aiter(stream.body))


async def test_absent_files_and_sidecars() -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        absent = entry(FILE, index.origin, url=f"{index.origin}packages/absent-1.0.whl")
        with pytest.raises(NoSuchFile):
            await rig.upstream.fetch_file(absent)
        with pytest.raises(NoSuchFile):
            await rig.upstream.fetch_size(absent)
        with pytest.raises(NoSuchFile):
            await rig.upstream.fetch_small(f"{absent.url}.metadata", accept="*/*", limit=10)
        assert rig.counters["upstream_failures"] == 0


@pytest.mark.parametrize("head", [True, False])
async def test_sizes(head: bool) -> None:
    async with ScriptedUpstream([PROJECT], head=head) as index, client(index.url) as rig:
        assert await rig.upstream.fetch_size(entry(FILE, index.origin, size=None)) == FILE.size
        assert sum(index.sent.values()) <= 1


async def test_small_bodies_within_their_limit() -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        url = f"{index.origin}{FILE.path}.metadata"
        size = len(FILE.metadata)
        assert await rig.upstream.fetch_small(url, accept="text/plain", limit=size) == FILE.metadata
        assert index.log[-1].headers["accept"] == "text/plain"
        with pytest.raises(UpstreamMisbehaved, match="more than"):
            await rig.upstream.fetch_small(url, accept="*/*", limit=size - 1)
        index.fault("*.metadata", framing="chunked")
        with pytest.raises(UpstreamMisbehaved, match="more than"):
            await rig.upstream.fetch_small(url, accept="*/*", limit=size - 1)
        assert rig.counters["upstream_failures"] == 2


async def test_legacy_json() -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        assert json.loads(await rig.upstream.fetch_legacy_json(DEMO, None))["info"]["version"] == "1.0"
        assert json.loads(await rig.upstream.fetch_legacy_json(DEMO, "1.0"))["urls"][0]["size"] == FILE.size
        with pytest.raises(NoSuchProject):
            await rig.upstream.fetch_legacy_json(DEMO, "1!2.0+a/../b")
        assert index.log[-1].target == "/pypi/demo/1!2.0+a%2F..%2Fb/json"


def test_where_the_legacy_json_lies() -> None:
    assert UpstreamOptions(url="https://h.example/a/simple/").legacy_json("x") == "https://h.example/a/pypi/x/json"
    assert UpstreamOptions(url="https://h.example/a/").legacy_json("x") is None
    own = UpstreamOptions(url="https://h.example/a/", legacy_json_url="https://h.example/json/{name}")
    assert own.legacy_json("x/1") == "https://h.example/json/x/1"


@pytest.mark.parametrize("gzip", [True, False])
async def test_the_list_of_all_projects(gzip: bool) -> None:
    async with ScriptedUpstream([PROJECT], gzip=gzip) as index, client(index.url) as rig:
        content_type, pieces = await rig.upstream.fetch_project_list()
        assert content_type == JSON
        body = b"".join([piece async for piece in pieces])
        assert json.loads(body)["projects"][0]["name"] == "Demo"


# --- credentials ---------------------------------------------------------------------------------


async def test_credentials_out_of_the_url_go_to_their_exact_origin_only() -> None:
    async with ScriptedUpstream([PROJECT], credentials=("ci", "p@ss")) as index:
        url = index.url.replace("://", "://ci:p%40ss@")
        async with client(url) as rig:
            page = await rig.upstream.fetch_page(DEMO, NO_VALIDATOR)
            assert isinstance(page, PageDocument)
            assert "p@ss" not in page.url
            other = entry(FILE, f"http://127.0.0.1:{index.ports[1]}/")
            with pytest.raises(UpstreamMisbehaved, match="401"):
                await rig.upstream.fetch_file(other)
            index.fault("/simple/demo/", redirect=f"http://127.0.0.1:{index.ports[1]}/elsewhere", times=1)
            with pytest.raises(UpstreamMisbehaved, match="401"):
                await rig.upstream.fetch_page(DEMO, NO_VALIDATOR)
        sent = [(r.path, r.headers.get("authorization")) for r in index.log]
        basic = "Basic " + base64.b64encode(b"ci:p@ss").decode()
        assert sent == [
            ("/simple/demo/", basic),
            (f"/{FILE.path}", None),
            ("/simple/demo/", basic),
            ("/elsewhere", None),
        ]


def test_credentials_show_nowhere() -> None:
    options = UpstreamOptions(url="https://ci:hunter2@index.example.com/simple")
    assert (options.username, options.password) == ("ci", "hunter2")
    assert options.url == "https://index.example.com/simple/"
    assert "hunter2" not in repr(options)


@pytest.mark.parametrize("status", [401, 403, 407, 418])
async def test_statuses_that_are_no_answer_are_told_plainly(status: int) -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        index.fault("*", status=status)
        with pytest.raises(UpstreamMisbehaved, match=str(status)):
            await rig.upstream.fetch_page(DEMO, NO_VALIDATOR)
        assert (rig.counters["upstream_requests"], rig.counters["upstream_failures"]) == (1, 1)


async def test_the_netrc_file_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ci password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        await rig.upstream.fetch_page(DEMO, NO_VALIDATOR)
        assert "authorization" not in index.log[-1].headers


async def test_cookies_are_not_kept() -> None:
    async with ScriptedUpstream([PROJECT]) as index, client(index.url) as rig:
        index.fault("*", headers={"Set-Cookie": "a=b; Path=/"})
        for _ in range(2):
            await rig.upstream.fetch_page(DEMO, NO_VALIDATOR)
        assert "cookie" not in index.log[-1].headers


# --- proxies -------------------------------------------------------------------------------------


async def test_a_proxy_of_the_environment_is_taken_with_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")

    async with raw_server(proxy) as origin:
        monkeypatch.setenv("http_proxy", origin.replace("://", "://joe:pw@"))
        monkeypatch.setenv("no_proxy", "direct.example.com")
        async with client("http://index.example.com/simple/", proxied=True) as rig:
            page = await rig.upstream.fetch_page(DEMO, NO_VALIDATOR)
            assert isinstance(page, PageDocument)
            assert page.body == b"<html>"
    assert heads[0].startswith(b"GET http://index.example.com/simple/demo/ HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"joe:pw") in heads[0]


async def test_no_proxy_goes_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with ScriptedUpstream([PROJECT]) as index, client(index.url, proxied=True) as rig:
        await rig.upstream.fetch_page(DEMO, NO_VALIDATOR)


async def test_a_malformed_proxy_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(ConfigError, match="https_proxy"):
        async with client("https://index.example.com/simple/", proxied=True):
            pass


# --- the start -----------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["ftp://h.example/", "https:///simple/", "https://h.example/?a", "https://[h/", "x"])
def test_a_malformed_index_url_is_told_at_the_start(url: str) -> None:
    with pytest.raises(ConfigError):
        UpstreamOptions(url=url)


@pytest.mark.parametrize("content", [None, b"no certificate"])
async def test_an_unreadable_ca_bundle_is_told_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(StartError, match=r"ca\.pem"):
        async with client("https://index.example.com/simple/", ca_bundle=bundle):
            pass
