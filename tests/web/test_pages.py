"""Project pages and the project list over HTTP: negotiation, URLs, caching headers."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import sys

import pytest

from mirror.errors import StoreFailure, UpstreamBusy, UpstreamDown
from mirror.model import File, Origin, ProjectPage
from mirror.names import ProjectName
from tests.support.rawhttp import Ending
from tests.web.conftest import WHEEL
from tests.web.memory import Blob, MemoryRepository, Served, serving

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

J = "application/vnd.pypi.simple.v1+json"
HT = "application/vnd.pypi.simple.v1+html"
TH = "text/html; charset=utf-8"
BOTH = ("/simple/demo/", "/simple/")


def unpacked(body: bytes, coding: str) -> bytes:
    match coding:
        case "gzip":
            return gzip.decompress(body)
        case "zstd":
            return zstd.decompress(body)
    return body


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        pytest.param(J, J, id="c001"),
        pytest.param(HT, HT, id="c002"),
        pytest.param("text/html", TH, id="c003"),
        pytest.param(None, TH, id="c004"),
        pytest.param("*/*", TH, id="c005"),
        pytest.param("application/*", J, id="c006"),
        pytest.param(f"{J}, {HT}; q=0.1, text/html; q=0.01", J, id="c007"),
        pytest.param(f"{J}, */*;q=0.1", J, id="c008"),
        pytest.param(f"text/html, {J};q=0.5", TH, id="c009"),
        pytest.param(f"{HT};q=0.2, {J};q=0.1", HT, id="c010"),
        pytest.param(f"{J};q=0, text/html", TH, id="c011"),
        pytest.param(f"text/html, {HT}, {J}", J, id="c012"),
        pytest.param("application/vnd.pypi.simple.latest+json", J, id="c013"),
        pytest.param("application/vnd.pypi.simple.latest+html", HT, id="c014"),
        pytest.param(";;q=x", TH, id="c018"),
    ],
)
async def test_c001_to_c018_accept_decides_the_form(
    served: Served, target: str, accept: str | None, content_type: str
) -> None:
    answer = await served.get(target, {"Accept": accept} if accept else None)
    assert answer.status == 200
    assert answer.headers["content-type"] == content_type
    assert answer.body.startswith(b"{" if content_type == J else b"<!DOCTYPE html>")
    assert answer.headers["vary"] == "Accept, Accept-Encoding"


async def test_c002_html_body_is_the_same_under_both_names(served: Served) -> None:
    typed, plain = [await served.get("/simple/demo/", {"Accept": a}) for a in (HT, "text/html")]
    assert typed.body == plain.body


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize(
    "accept",
    [
        pytest.param("image/png", id="c015"),
        pytest.param("application/vnd.pypi.simple.v2+json", id="c016"),
        pytest.param("application/json", id="c017"),
    ],
)
async def test_c015_unmatched_accept_is_406(served: Served, target: str, accept: str) -> None:
    answer = await served.get(target, {"Accept": accept})
    assert answer.status == 406
    assert answer.headers["vary"] == "Accept, Accept-Encoding"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert not served.repository.asked


@pytest.mark.parametrize("target", BOTH)
async def test_c019_vary_on_304(served: Served, target: str) -> None:
    first = await served.get(target)
    again = await served.get(target, {"If-None-Match": first.headers["etag"]})
    assert again.status == 304
    assert again.headers["vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize("target", BOTH)
async def test_c020_format_parameter_overrides_accept(served: Served, target: str) -> None:
    for spelling in (J, J.replace("+", "%2B"), J.replace("+", "%20")):
        answer = await served.get(f"{target}?x=1&format={spelling}", {"Accept": "text/html"})
        assert answer.headers["content-type"] == J
    assert (await served.get(f"{target}?format=image/png")).status == 406


@pytest.mark.parametrize("target", BOTH)
async def test_c021_each_representation_has_its_own_etag(served: Served, target: str) -> None:
    tags, bodies = set(), {}
    for accept in (J, HT, "text/html"):
        for coding in ("identity", "gzip", "zstd"):
            answer = await served.get(target, {"Accept": accept, "Accept-Encoding": coding})
            tags.add(answer.headers["etag"])
            bodies[accept, coding] = answer.body
            assert answer.headers.get("content-encoding", "identity") == coding
    assert len(tags) == 9
    for accept in (J, HT, "text/html"):
        assert gzip.decompress(bodies[accept, "gzip"]) == bodies[accept, "identity"]
        assert zstd.decompress(bodies[accept, "zstd"]) == bodies[accept, "identity"]


async def test_c021_etags_are_equal_on_every_replica(repository: MemoryRepository) -> None:
    tags = []
    for _ in range(2):
        async with serving(repository) as replica:
            tags.append((await replica.get("/simple/demo/", {"Accept": J, "Accept-Encoding": "zstd"})).headers["etag"])
    assert tags[0] == tags[1]
    assert tags[0].startswith('"')


async def test_etag_follows_the_content(served: Served) -> None:
    before = await served.get("/simple/demo/")
    served.repository.add_file("demo", "demo-3.0.tar.gz", Blob(b"new"))
    after = await served.get("/simple/demo/", {"If-None-Match": before.headers["etag"]})
    assert after.status == 200
    assert b"demo-3.0.tar.gz" in after.body
    assert after.headers["etag"] != before.headers["etag"]


async def test_c022_root_lists_projects(served: Served) -> None:
    listed = json.loads((await served.get("/simple/", {"Accept": J})).body)
    assert [p["name"] for p in listed["projects"]] == ["demo", "other"]
    links = re.findall(rb'<a href="([^"]+)"', (await served.get("/simple/")).body)
    assert [link.decode().removeprefix("/simple/") for link in links] == ["demo/", "other/"]


@pytest.mark.parametrize("mount", ["", "/pypi"])
@pytest.mark.parametrize(
    ("target", "location"),
    [
        pytest.param("/simple/Foo._Bar/", "../foo-bar/", id="c023"),
        pytest.param("/simple/Foo%2E_Bar/", "../foo-bar/", id="c023-escaped"),
        pytest.param("/simple/Foo._Bar/?a=b&c=//x", "../foo-bar/?a=b&c=//x", id="c023-query"),
        pytest.param("/simple/foo", "foo/", id="c024"),
        pytest.param("/simple/Foo_bar", "foo-bar/", id="c024-not-normalised"),
        pytest.param("/simple", "simple/", id="c025"),
        pytest.param("/simple?x=1", "simple/?x=1", id="c025-query"),
    ],
)
async def test_c023_to_c025_other_spellings_redirect_within_the_prefix(
    served: Served, mount: str, target: str, location: str
) -> None:
    answer = await served.get(mount + target)
    assert answer.status == 308
    assert answer.headers["location"] == location
    assert not served.repository.asked


@pytest.mark.parametrize(
    "name",
    ["..%2f", "%2e%2e", "a%00b", "-x", "x-", "a" * 201, "%C3%A9", "%E2%84%AA8s", "a%25", "a;b", "a%5Cb", "a%0Ab"],
)
async def test_c026_invalid_name_is_404_and_asks_nobody(served: Served, name: str) -> None:
    for target in (f"/simple/{name}/", f"/pypi/{name}/json", f"/{name}/json"):
        answer = await served.get(target)
        assert answer.status == 404
        assert answer.headers["cache-control"] == "no-store"
    assert not served.repository.asked


async def test_c027_unknown_project_is_404(served: Served) -> None:
    answer = await served.get("/simple/unknown/", {"Accept": J})
    assert (answer.status, answer.body) == (404, b"There is no project named unknown.\n")
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_c028_project_without_files(served: Served) -> None:
    served.repository.put_page(ProjectPage(ProjectName("empty"), (), versions=("1.0",)))
    answer = await served.get("/simple/empty/", {"Accept": J})
    assert answer.status == 200
    assert json.loads(answer.body)["files"] == []


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (UpstreamDown("pypi", "connection refused"), "2"),
        (UpstreamBusy("pypi", "answered 429", retry_after=0.2), "1"),
        (UpstreamBusy("pypi", "answered 429", retry_after=3.1), "4"),
        (UpstreamBusy("pypi", "answered 429", retry_after=3600), "5"),
        (StoreFailure("read", "meta/x", "No space left on device"), "2"),
    ],
)
@pytest.mark.parametrize("target", ["/simple/demo/", "/demo/json"])
async def test_c029_unreachable_upstream_is_503_with_retry_after(
    served: Served, target: str, error: Exception, seconds: str
) -> None:
    served.repository.failures["project_page"] = error
    answer = await served.get(target)
    assert answer.status == 503
    assert answer.headers["retry-after"] == seconds
    assert answer.headers["cache-control"] == "no-store"


async def test_c030_stale_copy_is_marked_and_not_cacheable(served: Served) -> None:
    served.repository.stale, served.repository.origin = True, Origin.STORE
    answer = await served.get("/simple/demo/")
    assert answer.status == 200
    assert answer.headers["x-cache"] == "STALE store"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("origin", "mark"),
    [(Origin.MEMORY, "HIT memory"), (Origin.STORE, "HIT store"), (Origin.UPSTREAM, "MISS upstream")],
)
async def test_x_cache_says_what_answered(served: Served, origin: Origin, mark: str) -> None:
    served.repository.origin = origin
    assert (await served.get("/simple/demo/")).headers["x-cache"] == mark


@pytest.mark.parametrize(
    "target",
    [
        "/simple/demo/",
        "/simple/",
        "/",
        "/livez",
        "/readyz",
        "/metrics",
        "/demo/json",
        "/simple",
        "/nothing",
        "/simple/x/",
    ]
    + [f"/packages/ab/cd/{WHEEL}{suffix}" for suffix in ("", ".metadata", ".provenance", ".asc")],
)
async def test_c031_head_has_the_headers_of_get_and_no_body(served: Served, target: str) -> None:
    async with served.connect() as connection:
        await connection.request("HEAD", target)
        head = await connection.response("HEAD")
        # were there a body, it would be read as the head of this answer
        await connection.request("GET", target)
        got = await connection.response()
    assert got.complete
    assert head.status == got.status
    varying = ("date", "x-request-id", "transfer-encoding")
    assert [field for field in head.fields if field[0] not in varying] == [
        field for field in got.fields if field[0] not in varying
    ]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_c032_other_methods_are_405(served: Served, method: str) -> None:
    for target in ("/simple/demo/", "/", f"/packages/ab/cd/{WHEEL}"):
        answer = await served.get(target, method=method)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("mount", ["/simple/", "/pypi/simple/"])
async def test_c033_c035_c036_file_urls_are_relative_and_keep_upstreams_path(served: Served, mount: str) -> None:
    for entry in json.loads((await served.get(f"{mount}demo/", {"Accept": J})).body)["files"]:
        assert entry["url"] == f"../../packages/ab/cd/{entry['filename']}"
        prefix = mount.removesuffix("simple/")
        got = await served.get(f"{prefix}packages/ab/cd/{entry['filename']}")
        assert got.status == 200
    assert {a[1] for a in served.repository.asked if a[0] == "open_file"} == set(served.repository.blobs)


async def test_page_is_the_same_bytes_below_both_mounts(served: Served) -> None:
    one, other = [await served.get(f"{mount}/simple/demo/") for mount in ("", "/pypi")]
    assert (one.body, one.headers["etag"]) == (other.body, other.headers["etag"])


@pytest.mark.parametrize("form", ["*", '"x", {}', "{}", "W/{}", ' "y" ,W/"z",, W/{} '])
@pytest.mark.parametrize("target", BOTH)
async def test_c073_if_none_match(served: Served, target: str, form: str) -> None:
    first = await served.get(target)
    tag = first.headers["etag"].removeprefix("W/")
    again = await served.get(target, {"If-None-Match": form.format(tag)})
    assert (again.status, again.body) == (304, b"")
    for name in ("etag", "cache-control", "vary"):
        assert again.headers[name] == first.headers[name]
    assert "content-length" not in again.headers


@pytest.mark.parametrize("value", ['"x"', 'W/"x"', "x", '"', '"x', "", '"*"'])
async def test_c073_other_tags_do_not_match(served: Served, value: str) -> None:
    assert (await served.get("/simple/demo/", {"If-None-Match": value})).status == 200


async def test_c073_if_none_match_in_several_lines(served: Served) -> None:
    tag = (await served.get("/simple/demo/")).headers["etag"]
    async with served.connect() as connection:
        head = f'GET /simple/demo/ HTTP/1.1\r\nHost: x\r\nIf-None-Match: "a"\r\nIf-None-Match: {tag}\r\n\r\n'
        await connection.send(head.encode())
        assert (await connection.response()).status == 304


async def test_c074_upstream_page_tells_its_remaining_freshness(served: Served) -> None:
    served.repository.max_age = 123
    assert (await served.get("/simple/demo/")).headers["cache-control"] == "max-age=123, public"


async def test_c075_page_without_freshness_is_no_cache(served: Served) -> None:
    served.repository.max_age = 0
    assert (await served.get("/simple/demo/")).headers["cache-control"] == "no-cache"


async def test_c076_no_last_modified(served: Served) -> None:
    for target in (*BOTH, "/demo/json", f"/packages/ab/cd/{WHEEL}"):
        assert "last-modified" not in (await served.get(target)).headers


async def test_c077_serial_is_passed_on(served: Served) -> None:
    assert (await served.get("/simple/demo/")).headers["x-pypi-last-serial"] == "4711"


@pytest.mark.parametrize(
    ("value", "newest"),
    [
        ("no-cache", True),
        ("max-age=0", True),
        ("MAX-AGE=0, no-transform", True),
        ("no-transform,no-cache", True),
        ("max-age=60", False),
        ("max-age=05", False),
        ("x-no-cache", False),
        ("", False),
    ],
)
async def test_c078_reload_is_passed_to_the_repository(served: Served, value: str, newest: bool) -> None:
    await served.get("/simple/demo/", {"Cache-Control": value})
    assert served.repository.asked == [("project_page", "demo", newest)]


async def test_c116_cors(served: Served) -> None:
    for target in (*BOTH, "/demo/json"):
        assert (await served.get(target)).headers["access-control-allow-origin"] == "*"


async def test_html_pages_allow_nothing(served: Served) -> None:
    for target in BOTH:
        answer = await served.get(target)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["server"] == "mirror"


async def test_large_page_is_rendered_once_for_many_callers(repository: MemoryRepository) -> None:
    files = tuple(
        File(filename=f"big-{i}.tar.gz", url="https://files.example.com/x", path=f"packages/{i}/big-{i}.tar.gz", size=1)
        for i in range(300)
    )
    repository.put_page(ProjectPage(ProjectName("big"), files, versions=("1",)))
    async with serving(repository) as served:
        answers = await asyncio.gather(*(served.get("/simple/big/", {"Accept": J}) for _ in range(8)))
    assert {a.body for a in answers} == {answers[0].body}
    assert len(json.loads(answers[0].body)["files"]) == 300


async def test_pages_are_right_without_any_memory(repository: MemoryRepository) -> None:
    async with serving(repository, page_memory=0) as served:
        first, second = [await served.get("/simple/demo/") for _ in range(2)]
    assert first.body == second.body


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
async def test_long_list_is_whole_in_every_coding(repository: MemoryRepository, streamed: bool, coding: str) -> None:
    repository.names, repository.names_streamed = tuple(f"project-{i:05}" for i in range(30_000)), streamed
    async with serving(repository) as served:
        answer = await served.get("/simple/", {"Accept": J, "Accept-Encoding": coding})
        await served.settled()
    assert answer.complete
    assert answer.headers["transfer-encoding"] == "chunked"
    assert [p["name"] for p in json.loads(unpacked(answer.body, coding))["projects"]] == list(repository.names)


@pytest.mark.parametrize("streamed", [False, True])
async def test_http_1_0_client_is_told_the_length_of_the_list(repository: MemoryRepository, streamed: bool) -> None:
    repository.names, repository.names_streamed = tuple(f"project-{i:04}" for i in range(5000)), streamed
    async with serving(repository) as served:
        for _ in range(2):
            answer = await served.get("/simple/", {"Accept": J, "Accept-Encoding": "gzip"}, version="HTTP/1.0")
            assert answer.ending is Ending.COMPLETE
            assert len(json.loads(answer.body)["projects"]) == 5000
        await served.settled()
    assert len([a for a in repository.asked if a[0] == "project_list"]) == 3


async def test_list_that_fails_half_way_is_cut(repository: MemoryRepository) -> None:
    repository.names, repository.names_streamed = tuple(f"project-{i:04}" for i in range(5000)), True
    repository.names_error = StoreFailure("read", "meta/pypi/projects.txt", "Input/output error")
    async with serving(repository) as served:
        answer = await served.get("/simple/", {"Accept": J})
        assert not answer.complete
        await served.counted("responses_aborted")
        await served.settled()
