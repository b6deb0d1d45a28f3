"""Section 2: URLs, names, and what is answered where there is nothing, or nobody to ask (items 22 to 36)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest

from mirror.testing import MovableClock
from tests.conformance.chain import JSON, STATES, Chain, State, archive, catalogue, chained, mirroring
from tests.support.packages import Project, wheel
from tests.support.upstream import ScriptedUpstream

MOUNTS = ("", "/pypi")


@pytest.mark.parametrize("mount", MOUNTS)
async def test_c022_root_lists_projects_that_resolve(both: Chain, mount: str) -> None:
    names = ["big", "demo", "empty", "evil", "old-name"]
    root = f"{mount}/simple/"
    listed = json.loads((await both.get(root, {"Accept": JSON})).body)
    assert [entry["name"] for entry in listed["projects"]] == names
    links = re.findall(r'<a href="([^"]+)"', (await both.get(root)).body.decode())
    assert [urljoin(root, link) for link in links] == [f"{root}{name}/" for name in names]
    assert {(await both.get(urljoin(root, link))).status for link in links} == {200}


@pytest.mark.parametrize("mount", MOUNTS)
async def test_c023_c024_c025_other_spellings_redirect(chain: Chain, mount: str) -> None:
    for target, goal in (
        ("/simple/Foo._Bar/", "/simple/foo-bar/"),
        ("/simple/FOO/?a=b&c=//x", "/simple/foo/?a=b&c=//x"),
        ("/simple/foo", "/simple/foo/"),
        ("/simple/Foo_Bar?x", "/simple/foo-bar/?x"),
        ("/simple", "/simple/"),
        ("/simple?format=x", "/simple/?format=x"),
    ):
        fields = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "elsewhere.example.com"}
        answer = await chain.get(mount + target, fields)
        assert answer.status == 308
        location = answer.headers["location"]
        assert not urlsplit(location).netloc
        assert not location.startswith("/")
        assert urljoin(mount + target, location) == mount + goal
        assert urljoin(f"/prefix{mount}{target}", location) == f"/prefix{mount}{goal}"
    assert not chain.upstream.log


async def test_c026_invalid_name_is_404_and_asks_nobody(chain: Chain) -> None:
    names = ["..%2f", "%2e%2e", "%00", "a%00b", "-x", "x-", "a" * 201, "%C3%A9", "%E2%84%AAelvin", "a%25b", "a;b"]
    for name in [*names, "a%5Cb", "a%0Ab", "a%20b", "_", "~a", "a..%2f..%2fb"]:
        for target in (f"/simple/{name}/", f"/simple/{name}", f"/pypi/simple/{name}/", f"/{name}/json"):
            answer = await chain.get(target)
            assert (answer.status, answer.complete) == (404, True), target
    assert not chain.upstream.log


async def test_c026_longest_and_shortest_names_are_asked_for(chain: Chain) -> None:
    for name in ("a", "0", "a" * 200):
        assert (await chain.page(name)).status == 404
        assert chain.asked(f"/simple/{name}/") == 1


async def test_c027_unknown_project_is_404_for_a_minute(both: Chain) -> None:
    for _ in range(2):
        answer = await both.page("new")
        assert (answer.status, answer.body) == (404, b"There is no project named new.\n")
        assert answer.headers["cache-control"] == "no-store"
    assert both.asked("/simple/new/") == 1
    both.upstream.publish(Project("new", (wheel("new", "1.0"),)))
    both.clock.advance(60)
    assert (await both.page("new")).status == 200


async def test_c028_project_without_files(both: Chain) -> None:
    page = await both.json("empty")
    assert (page["name"], page["files"]) == ("empty", [])
    assert (await both.page("empty", "text/html")).body.count(b"<a ") == 0


async def test_c028_versions_without_files(chain: Chain) -> None:
    body = {"meta": {"api-version": "1.4"}, "name": "bare", "versions": ["1.0"], "files": []}
    chain.upstream.fault("/simple/bare/", status=200, body=json.dumps(body).encode(), content_type=JSON)
    page = await chain.json("bare")
    assert (page["versions"], page["files"]) == (["1.0"], [])


@pytest.mark.parametrize("fault", ["refused", 429, 500, 503, 403])
async def test_c029_failing_upstream_is_503_with_retry_after(chain: Chain, fault: str | int) -> None:
    if isinstance(fault, str):
        await chain.upstream.stop()
    else:
        chain.upstream.fault("*", status=fault)
    for target in ("/simple/demo/", "/simple/", "/demo/json", f"/{archive('demo').path}"):
        for method in ("GET", "HEAD"):
            answer = await chain.get(target, method=method)
            assert answer.status == 503, target
            assert 1 <= int(answer.headers["retry-after"]) <= 5
            assert answer.headers["cache-control"] == "no-store"


async def test_c030_stale_copy_is_served_and_marked_up_to_its_age(tmp_path: Path) -> None:
    async with chained(tmp_path, page_max_stale=7200.0) as chain:
        fresh = await chain.page("demo")
        assert fresh.headers["x-cache"] == "MISS upstream"
        await chain.upstream.stop()
        chain.clock.advance(3600)
        stale = await chain.page("demo")
        assert (stale.status, stale.body) == (200, fresh.body)
        assert stale.headers["x-cache"] == "STALE memory"
        assert stale.headers["cache-control"] == "no-cache"
        assert (await chain.page("demo", JSON, If_None_Match=fresh.headers["etag"])).status == 304
        chain.clock.advance(3600 + 600)
        assert (await chain.page("demo")).status == 503


async def test_c030_stale_copy_outlives_the_process(tmp_path: Path) -> None:
    clock = MovableClock()
    async with ScriptedUpstream(catalogue(), json=False) as upstream:
        async with mirroring(upstream, tmp_path, clock=clock) as chain:
            before = await chain.page("demo")
            await chain.settle()
        await upstream.stop()
        clock.advance(86_400)
        async with mirroring(upstream, tmp_path, clock=clock) as chain:
            after = await chain.page("demo")
    assert (after.status, after.body, after.headers["x-cache"]) == (200, before.body, "STALE store")
    assert after.headers["etag"] == before.headers["etag"]


TARGETS: dict[str, Callable[[Chain], str]] = {
    "list": lambda _: "/simple/",
    "page": lambda _: "/simple/demo/",
    "file": lambda _: f"/{archive('demo').path}",
    "big file": lambda _: f"/{archive('big').path}",
    "metadata": lambda _: f"/{archive('demo').path}.metadata",
    "legacy": lambda _: "/pypi/demo/json",
    "release": lambda _: "/demo/1.0/json",
    "redirect": lambda _: "/simple/demo",
    "home": lambda _: "/",
    "livez": lambda _: "/livez",
    "readyz": lambda _: "/readyz",
    "missing page": lambda _: "/simple/missing/",
    "missing sidecar": lambda _: f"/{archive('demo').path}.asc",
    "missing file": lambda _: "/packages/aa/bb/demo-9.9.tar.gz",
    "nothing": lambda _: "/nothing/at/all",
}
PASSING = ("date", "x-request-id", "transfer-encoding")


@pytest.mark.parametrize("kind", TARGETS)
async def test_c031_head_is_get_without_its_body(chain: Chain, kind: str) -> None:
    target = TARGETS[kind](chain)
    await chain.get(target)
    await chain.settle()
    for coding in ("identity", "gzip", "zstd"):
        fields = {"Accept-Encoding": coding, "Accept": "*/*"}
        async with chain.connect() as connection:
            await connection.request("HEAD", target, fields)
            head = await connection.response("HEAD")
            # a body would be taken for the head of what follows
            await connection.request("GET", target, fields)
            got = await connection.response()
        assert got.complete
        assert head.status == got.status
        assert [f for f in head.fields if f[0] not in PASSING] == [f for f in got.fields if f[0] not in PASSING]
        if kind != "list":
            assert int(head.headers["content-length"]) == len(got.body)


async def test_c032_other_methods_are_405(chain: Chain) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        for target in ("/", "/simple/", "/simple/demo/", f"/{archive('demo').path}", "/demo/json", "/nothing"):
            answer = await chain.get(target, method=method)
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
            assert answer.headers["cache-control"] == "no-store"
    assert not chain.upstream.log


async def test_c033_file_urls_have_no_query_and_sidecars_are_suffixes(tmp_path: Path) -> None:
    async with chained(tmp_path, style={"query": "?token=abc"}) as chain:
        for url in [entry["url"] for entry in (await chain.entries("demo")).values()]:
            assert "?" not in url
            assert "#" not in url
        target = await chain.target("demo")
        assert (await chain.get(target)).body == archive("demo").content
        # nothing depends on a query that a client adds
        assert (await chain.get(f"{target}?x=1")).body == archive("demo").content
        seen = [request.target for request in chain.upstream.log if request.path == target]
        assert seen == [f"{target}?token=abc"]


@pytest.mark.parametrize("state", STATES)
async def test_c034_escaped_plus_is_the_same_file(chain: Chain, state: State) -> None:
    async with chain.in_state(state, "demo", 1) as target:
        assert "+" in target
        first = await chain.unstuck(chain.get(target))
        for spelling in (target.replace("+", "%2B"), target.replace("+", "%2b")):
            assert (await chain.get(spelling)).body == first.body == archive("demo", 1).content
        assert (await chain.get(target.replace("+", "%20"))).status == 404
    assert chain.upstream.requests.total() <= 1


async def test_c035_file_urls_are_relative_to_the_page(every: Chain) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.com", "Forwarded": "host=evil"}
    for mount in MOUNTS:
        await every.settle()  # what is learnt of the files changes the page
        page = f"{mount}/simple/demo/"
        plain = await every.get(page, {"Accept": JSON})
        assert (await every.get(page, {"Accept": JSON} | forwarded)).body == plain.body
        for entry in json.loads(plain.body)["files"]:
            assert not urlsplit(entry["url"]).netloc
            assert (await every.get(urljoin(page, entry["url"]))).status == 200
        assert b"evil" not in (await every.get(f"{mount}/big/json", forwarded)).body


async def test_c035_links_of_a_page_that_was_redirected(chain: Chain) -> None:
    file = archive("demo")
    link = f"../../packages/{file.path.removeprefix('packages/')}"
    entry = {"filename": file.filename, "url": link, "hashes": {"sha256": file.sha256}}
    body = {"meta": {"api-version": "1.0"}, "name": "demo", "files": [entry]}
    chain.upstream.fault("/simple/demo/", redirect="/moved/demo/")
    chain.upstream.fault("/moved/demo/", status=200, body=json.dumps(body).encode(), content_type=JSON)
    assert await chain.target("demo") == f"/{file.path}"
    assert (await chain.get(f"/{file.path}")).body == file.content


async def test_c036_path_of_a_file_is_that_of_upstream(every: Chain) -> None:
    for number, file in enumerate(catalogue()[0].files):
        assert await every.target("demo", number) == f"/{file.path}"
        assert (await every.get(f"/{file.path}")).body == archive("demo", number).content


async def test_c036_file_of_a_lock_file_needs_no_page(every: Chain) -> None:
    file: Any = archive("big")
    assert (await every.get(f"/{file.path}")).body == file.content
    assert (await every.get(f"/pypi/{file.path}")).body == file.content
