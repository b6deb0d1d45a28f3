"""The scripted upstream answers as PyPI does, and otherwise exactly as it is told to."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import ssl
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
import trustme

from tests.support import graphs
from tests.support.packages import Archive, Project, wheel
from tests.support.pages import HTML, JSON
from tests.support.rawhttp import Ending, RawConnection, fetch
from tests.support.upstream import ScriptedUpstream, ThreadedUpstream

PIP = {"Accept": f"{JSON}, {HTML}; q=0.1, text/html; q=0.01"}
FILE = wheel("solo", "1.0", blob=4000, requires_python=">=3.8")
SOLO = Project("solo", (FILE,))


async def _page(upstream: ScriptedUpstream, name: str = "solo") -> dict[str, Any]:
    page: dict[str, Any] = json.loads((await fetch(f"{upstream.url}{name}/", headers=PIP)).body)
    return page


async def test_a_page_is_json_or_html_by_accept() -> None:
    async with ScriptedUpstream([SOLO]) as upstream:
        for accept, expected in [
            (PIP["Accept"], JSON),
            (f"{HTML};q=0.8, {JSON};q=0.2", HTML),
            ("text/html", "text/html; charset=utf-8"),
            ("image/png", "text/html; charset=utf-8"),
            (f"{JSON}, */*;q=0.1", JSON),
        ]:
            answer = await fetch(f"{upstream.url}solo/", headers={"Accept": accept})
            assert (answer.status, answer.headers["content-type"], answer.complete) == (200, expected, True)
            assert answer.headers["cache-control"] == "max-age=600, public"
            assert answer.headers["x-pypi-last-serial"] == "1000"


async def test_a_page_tells_all_and_its_links_lead_to_the_file_and_its_metadata() -> None:
    async with ScriptedUpstream([SOLO]) as upstream:
        (entry,) = (await _page(upstream))["files"]
        assert entry["hashes"] == {"sha256": FILE.sha256}
        assert (entry["size"], entry["upload-time"], entry["requires-python"]) == (FILE.size, FILE.upload_time, ">=3.8")
        assert (await fetch(entry["url"])).body == FILE.content
        metadata = (await fetch(entry["url"] + ".metadata")).body
        assert metadata == FILE.metadata
        assert entry["core-metadata"] == {"sha256": hashlib.sha256(metadata).hexdigest()}
        html = (await fetch(f"{upstream.url}solo/", headers={"Accept": "text/html"})).body.decode()
        assert f'href="{entry["url"]}#sha256={FILE.sha256}"' in html
        assert "data-upload-time" not in html


async def test_etag_304_gzip_and_head() -> None:
    async with ScriptedUpstream([SOLO]) as upstream:
        plain = await fetch(f"{upstream.url}solo/", headers=PIP)
        packed = await fetch(f"{upstream.url}solo/", headers=PIP | {"Accept-Encoding": "gzip, deflate"})
        assert packed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body
        again = await fetch(f"{upstream.url}solo/", headers=PIP | {"If-None-Match": plain.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        head = await fetch(f"{upstream.url}solo/", method="HEAD", headers=PIP)
        assert (head.status, head.headers["content-length"]) == (200, str(len(plain.body)))
        upstream.publish(replace(SOLO, serial=1001))
        changed = await fetch(f"{upstream.url}solo/", headers=PIP | {"If-None-Match": plain.headers["etag"]})
        assert (changed.status, changed.headers["x-pypi-last-serial"]) == (200, "1001")


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=0-0,5-6", 200, slice(None)),
        ("nonsense", 200, slice(None)),
    ],
)
async def test_ranges_of_files(wanted: str, status: int, part: slice) -> None:
    async with ScriptedUpstream([SOLO]) as upstream:
        answer = await fetch(f"{upstream.origin}{FILE.path}", headers={"Range": wanted})
        assert (answer.status, answer.body) == (status, FILE.content[part])
        if status == 206:
            assert answer.headers["content-range"].endswith(f"/{FILE.size}")


async def test_a_range_past_the_end_is_416_and_if_range_is_heeded() -> None:
    async with ScriptedUpstream([SOLO]) as upstream:
        url = f"{upstream.origin}{FILE.path}"
        past = await fetch(url, headers={"Range": f"bytes={FILE.size}-"})
        assert (past.status, past.headers["content-range"]) == (416, f"bytes */{FILE.size}")
        other = await fetch(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
        assert (other.status, len(other.body)) == (200, FILE.size)


async def test_names_are_redirected_or_missing() -> None:
    async with ScriptedUpstream(graphs.everything()) as upstream:
        odd = await fetch(f"{upstream.url}Foo._Bar/")
        assert (odd.status, odd.headers["location"]) == (301, "/simple/foo-bar/")
        bare = await fetch(f"{upstream.url}alpha")
        assert (bare.status, bare.headers["location"]) == (301, "/simple/alpha/")
        assert (await fetch(f"{upstream.url}nobody/")).status == 404
        assert (await fetch(f"{upstream.origin}packages/aa/bb/cc/x.whl")).status == 404
        assert (await fetch(upstream.url, method="POST")).status == 405
        listed = json.loads((await fetch(upstream.url, headers=PIP)).body)["projects"]
        assert {"name": "Foo._Bar", "_last-serial": 1000} in listed
        upstream.withdraw("alpha")
        assert (await fetch(f"{upstream.url}alpha/")).status == 404


async def test_the_legacy_json_api() -> None:
    async with ScriptedUpstream([graphs.yanked(), SOLO]) as upstream:
        document = json.loads((await fetch(f"{upstream.origin}pypi/yanked/json")).body)
        assert document["info"]["version"] == "1.0"
        assert set(document["releases"]) == {"1.0", "2.0"}
        assert document["releases"]["2.0"][0]["yanked_reason"] == graphs.HOSTILE_REASON
        release = json.loads((await fetch(f"{upstream.origin}pypi/yanked/2.0/json")).body)
        assert "releases" not in release
        assert (await fetch(release["urls"][0]["url"])).status == 200
        assert (await fetch(f"{upstream.origin}pypi/yanked/3.0/json")).status == 404
        assert (await fetch(f"{upstream.origin}pypi/nobody/json")).status == 404


async def test_a_hostile_reason_stays_inside_its_attribute() -> None:
    async with ScriptedUpstream([graphs.yanked()]) as upstream:
        html = (await fetch(f"{upstream.url}yanked/", headers={"Accept": "text/html"})).body
        assert b"<script>" not in html
        assert b"&lt;script&gt;" in html


async def test_the_minimal_index() -> None:
    async with ScriptedUpstream([SOLO, graphs.odd_name()], json=False) as upstream:
        answer = await fetch(f"{upstream.url}solo/", headers=PIP | {"Accept-Encoding": "gzip"})
        assert answer.headers.keys() == {"content-type", "content-length"}
        assert answer.headers["content-type"].startswith("text/html")
        assert b"metadata" not in answer.body
        assert b'data-upload-time="2024-01-02T03:04:05.678901Z"' in answer.body
        assert (await fetch(f"{upstream.url}Foo._Bar/")).status == 200
        assert (await fetch(f"{upstream.url}solo")).status == 308
        missing = await fetch(f"{upstream.url}nobody/")
        assert (missing.status, missing.body) == (404, b"")
        assert (await fetch(f"{upstream.origin}{FILE.path}.metadata")).status == 404


@pytest.mark.parametrize(
    ("style", "key", "value"),
    [
        ({"metadata": False}, "core-metadata", None),
        ({"metadata": "flag"}, "core-metadata", True),
        ({"upload_time": False}, "upload-time", None),
        ({"sizes": False}, "size", None),
        ({"hashes": "md5"}, "hashes", {"md5": FILE.md5}),
        ({"hashes": None}, "hashes", {}),
        ({"links": "relative"}, "url", f"../../{FILE.path}"),
    ],
)
async def test_style_switches_of_entries(style: dict[str, Any], key: str, value: object) -> None:
    async with ScriptedUpstream([SOLO], **style) as upstream:
        (entry,) = (await _page(upstream))["files"]
        assert entry.get(key) == value


async def test_style_switches_of_answers() -> None:
    async with ScriptedUpstream([SOLO], ranges=False, head=False, credentials=("u", "p"), links="other") as upstream:
        assert (await fetch(f"{upstream.url}solo/")).headers["www-authenticate"].startswith("Basic ")
        allowed = {"Authorization": "Basic dTpw"}
        (entry,) = json.loads((await fetch(f"{upstream.url}solo/", headers=PIP | allowed)).body)["files"]
        assert f":{upstream.ports[1]}/" in entry["url"]
        assert upstream.ports[0] != upstream.ports[1]
        answer = await fetch(entry["url"], headers={"Range": "bytes=0-1"} | allowed)
        assert (answer.status, len(answer.body)) == (200, FILE.size)
        assert (await fetch(entry["url"], method="HEAD", headers=allowed)).status == 405


async def test_requests_and_bytes_are_counted() -> None:
    async with ScriptedUpstream([SOLO]) as upstream:
        await fetch(f"{upstream.url}solo/", headers={"User-Agent": "x"})
        await fetch(f"{upstream.url}%73olo/", method="HEAD")
        await fetch(f"{upstream.origin}{FILE.path}")
        assert upstream.requests["/simple/solo/"] == 2
        assert [request.method for request in upstream.log] == ["GET", "HEAD", "GET"]
        assert upstream.log[0].headers["user-agent"] == "x"
        assert upstream.log[1].target == "/simple/%73olo/"
        assert upstream.sent[f"/{FILE.path}"] == FILE.size
        upstream.reset_counts()
        assert not upstream.requests


async def test_dead_and_alive_again_on_the_same_port() -> None:
    async with ScriptedUpstream([SOLO]) as upstream:
        url = f"{upstream.url}solo/"
        upstream.fault("*", hang_mid_body=True)
        async with asyncio.TaskGroup() as group:
            hanging = group.create_task(fetch(url))
            await upstream.wait_for("/simple/solo/")
            await upstream.stop()
        assert not hanging.result().complete
        with pytest.raises(ConnectionRefusedError):
            await fetch(url)
        upstream.heal()
        await upstream.start()
        assert (await fetch(url)).complete


def test_in_a_thread_of_its_own() -> None:
    with ThreadedUpstream([SOLO]) as upstream:
        url = f"{upstream.url}solo/"
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
        upstream.stop_now()
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(url)
        upstream.start_now()
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
        assert upstream.requests["/simple/solo/"] == 2


async def test_its_own_errors_come_to_light() -> None:
    upstream = ScriptedUpstream([SOLO])
    await upstream.start()
    upstream.fault("*", corrupt_byte_at=10**6)
    with pytest.raises(EOFError):
        await fetch(f"{upstream.url}solo/")
    with pytest.raises(BaseExceptionGroup, match="itself failed"):
        await upstream.stop()


async def test_tls() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    async with ScriptedUpstream([SOLO], tls=server) as upstream:
        assert upstream.url.startswith("https://")
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.ports[0], ssl=client)
        writer.write(b"GET /simple/solo/ HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        await writer.wait_closed()


async def test_pipelining_half_requests_and_http_1_0() -> None:
    async with ScriptedUpstream([SOLO]) as upstream, RawConnection("127.0.0.1", upstream.ports[0]) as connection:
        await connection.request("HEAD", "/simple/solo/")
        await connection.request("GET", "/nowhere")
        await connection.send(b"GET /simple/solo/ HTT")
        assert (await connection.response("HEAD")).status == 200
        assert (await connection.response()).status == 404
        await connection.send(b"P/1.0\r\n\r\n")
        assert (await connection.response()).complete
        assert await connection.read_to_end() == b""


async def test_a_client_that_aborts_or_half_closes_harms_nobody() -> None:
    async with ScriptedUpstream([graphs.bulky(3_000_000)]) as upstream:
        (archive,) = graphs.bulky(3_000_000).files
        async with RawConnection("127.0.0.1", upstream.ports[0], receive_buffer=4096) as connection:
            await connection.request("GET", f"/{archive.path}")
            await connection.read_exactly(1000)
            connection.abort()
        async with RawConnection("127.0.0.1", upstream.ports[0]) as connection:
            await connection.request("GET", f"/{archive.path}")
            connection.half_close()
            answer = await connection.response()
            assert (answer.ending, len(answer.body)) == (Ending.COMPLETE, archive.size)


def test_the_graphs_are_what_they_say() -> None:
    projects = {project.normal: project for project in graphs.everything()}
    assert projects["alpha"].files[0].requires == ("beta>=1", "gamma")
    assert projects["link-0"].files[0].requires == ("link-1",)
    assert projects["link-19"].files[0].requires == ()
    assert len(projects["root"].files[0].requires) == 30
    assert projects["torchy"].files[1].filename == "torchy-2.0+cpu-py3-none-any.whl"
    assert all(file.yanked for file in projects["regretted"].files)
    layered = graphs.layered()
    assert len(layered) == 61
    assert {need for project in layered for need in project.files[0].requires} <= {p.normal for p in layered}
    assert layered == graphs.layered()
    huge = graphs.huge()
    assert len({file.filename for file in huge.files}) == len({file.path for file in huge.files}) == 5000
    assert len({file.version for file in huge.files}) == 2500
    assert not any(isinstance(file, Archive) for file in huge.files)
