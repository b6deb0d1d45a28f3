"""Section 5: what clients and caches between may keep, and for how long (items 73 to 82)."""

from __future__ import annotations

import re
import ssl
from itertools import product
from pathlib import Path

import pytest

from tests.conformance.chain import IMMUTABLE, STATES, Chain, J, State, archive, authority, chained
from tests.conformance.test_json_page import odd_page

VALIDATED = ("/simple/demo/", "/simple/", "/demo/json", "/pypi/demo/1.0/json")
KEPT_ON_304 = ("etag", "cache-control", "vary", "x-cache", "access-control-allow-origin")


async def test_c073_if_none_match(both: Chain) -> None:
    for target in VALIDATED:
        await both.get(target)
    for target, coding in product(VALIDATED, ("identity", "gzip")):
        fields = {"Accept-Encoding": coding}
        first = await both.get(target, fields)
        tag = first.headers["etag"].removeprefix("W/")
        for value in (tag, f"W/{tag}", "*", f'"x", {tag}', f' "x" ,W/"y",, {tag} '):
            for method in ("GET", "HEAD"):
                again = await both.get(target, fields | {"If-None-Match": value}, method=method)
                assert (again.status, again.body) == (304, b""), value
                assert "content-length" not in again.headers
                assert "content-type" not in again.headers
                assert [again.headers.get(name) for name in KEPT_ON_304] == [first.headers.get(n) for n in KEPT_ON_304]
        for value in ('"x"', "x", tag.strip('"'), '"*"', "", tag[:-2] + '"'):
            assert (await both.get(target, fields | {"If-None-Match": value})).status == 200, value


async def test_c073_tag_of_another_coding_or_form_does_not_match(chain: Chain) -> None:
    plain = await chain.page("demo", J, Accept_Encoding="identity")
    tag = plain.headers["etag"]
    assert (await chain.page("demo", J, Accept_Encoding="gzip", If_None_Match=tag)).status == 200
    assert (await chain.page("demo", "text/html", If_None_Match=tag)).status == 200


async def test_c074_remaining_freshness_counts_down(both: Chain) -> None:
    for seconds, remaining in ((0, 600), (100, 500), (0.5, 499), (398.5, 101), (100, 1)):
        both.clock.advance(seconds)
        assert (await both.page("demo")).headers["cache-control"] == f"max-age={remaining}, public"
    assert both.asked("/simple/demo/") == 1


async def test_c074_it_is_never_more_than_upstreams(tmp_path: Path) -> None:
    async with chained(tmp_path, style={"max_age": 45}) as chain:
        assert (await chain.page("demo")).headers["cache-control"] == "max-age=45, public"
        chain.clock.advance(44)
        assert (await chain.page("demo")).headers["cache-control"] == "max-age=1, public"


async def test_c074_it_is_never_more_than_600(tmp_path: Path) -> None:
    async with chained(tmp_path, style={"max_age": None}, page_ttl=86_400.0, list_ttl=86_400.0) as chain:
        for target in ("/simple/demo/", "/simple/"):
            assert (await chain.get(target)).headers["cache-control"] == "max-age=600, public"
            chain.clock.advance(50_000)
            assert (await chain.get(target)).headers["cache-control"] == "max-age=600, public"
            chain.clock.advance(36_000)
            assert (await chain.get(target)).headers["cache-control"] == "max-age=400, public"
            chain.clock.advance(1_000)


async def test_c075_page_without_a_lifetime_is_no_cache_and_has_an_etag(tmp_path: Path) -> None:
    async with chained(tmp_path, style={"max_age": 0}) as chain:
        for _ in range(2):
            answer = await chain.page("demo")
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["etag"].startswith('"')
        assert (await chain.page("demo", J, If_None_Match=answer.headers["etag"])).status == 304


async def test_c076_no_last_modified_anywhere(both: Chain) -> None:
    file = archive("demo").path
    for target in (*VALIDATED, f"/{file}", f"/{file}.metadata", "/", "/simple/demo", "/simple/missing/"):
        answer = await both.get(target)
        assert "last-modified" not in answer.headers
        assert "cache-control" in answer.headers


async def test_c077_serial_is_passed_through(chain: Chain) -> None:
    first = await chain.page("demo")
    assert first.headers["x-pypi-last-serial"] == "4711"
    assert (await chain.page("demo", J, If_None_Match=first.headers["etag"])).headers["x-pypi-last-serial"] == "4711"
    assert (await chain.get("/demo/json")).headers["x-pypi-last-serial"] == "4711"
    assert (await chain.get("/simple/demo/", method="HEAD")).headers["x-pypi-last-serial"] == "4711"


async def test_c077_no_serial_is_invented(minimal: Chain) -> None:
    assert "x-pypi-last-serial" not in (await minimal.page("demo")).headers


@pytest.mark.parametrize("value", ["no-cache", "MAX-AGE=0, no-transform"])
async def test_c078_reload_asks_upstream_beyond_the_floor_only(both: Chain, value: str) -> None:
    await both.page("demo")
    for seconds, asked in ((0, 1), (29, 1), (2, 2), (5, 2), (31, 3)):
        both.clock.advance(seconds)
        answer = await both.page("demo", J, Cache_Control=value)
        assert answer.status == 200
        assert both.asked("/simple/demo/") == asked
    assert answer.headers["x-cache"] == "MISS upstream"
    assert answer.headers["cache-control"] == "max-age=600, public"


async def test_c078_reload_of_a_file_asks_nobody(chain: Chain) -> None:
    target = await chain.hold("demo")
    chain.clock.advance(3600)
    chain.upstream.reset_counts()
    for fields in ({"Cache-Control": "no-cache"}, {"Cache-Control": "max-age=0", "Range": "bytes=-100"}):
        assert (await chain.get(target, fields)).status in (200, 206)
    assert not chain.upstream.log


@pytest.mark.parametrize("state", STATES)
async def test_c079_file_is_immutable_under_a_strong_etag(both: Chain, state: State) -> None:
    async with both.in_state(state, "big") as target:
        for answer in (
            await both.get(target, method="HEAD"),
            await both.get(target, {"Range": "bytes=0-9"}),
            await both.unstuck(both.get(target)),
        ):
            assert answer.headers["cache-control"] == IMMUTABLE
            assert answer.headers["etag"] == f'"sha256-{archive("big").sha256}"'


async def test_c079_file_without_a_digest_is_not_immutable(tmp_path: Path) -> None:
    async with chained(tmp_path, style={"hashes": None}) as chain:
        answer = await chain.get(await chain.target("demo"))
        assert answer.headers["cache-control"] == "no-cache"
        assert "etag" not in answer.headers


async def test_c080_metadata_is_immutable_and_provenance_is_not(tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("127.0.0.1").configure_cert(tls)
    async with chained(tmp_path, tls=tls) as chain:
        url = f"{chain.upstream.origin}integrity/demo/provenance"
        odd_page(chain, provenance=url, core_metadata={"sha256": archive("demo").metadata_sha256})
        chain.upstream.fault("/integrity/demo/provenance", status=200, body=b'{"version":1}')
        target = await chain.target("demo")
        assert (await chain.get(f"{target}.metadata")).headers["cache-control"] == IMMUTABLE
        answer = await chain.get(f"{target}.provenance")
        assert (answer.status, answer.body) == (200, b'{"version":1}')
        found = re.fullmatch(r"max-age=(\d+), public", answer.headers["cache-control"])
        assert found
        assert 0 < int(found[1]) <= 600
        again = await chain.get(f"{target}.provenance", {"If-None-Match": answer.headers["etag"]})
        assert (again.status, again.headers["cache-control"]) == (304, answer.headers["cache-control"])
        # attestations may be added to a file that has been published
        chain.upstream.fault("/integrity/demo/provenance", status=200, body=b'{"version":2}')
        assert (await chain.get(f"{target}.provenance")).body == b'{"version":2}'


async def test_c081_failures_are_kept_by_nobody(chain: Chain) -> None:
    file = f"/{archive('demo').path}"
    await chain.get(file)
    chain.upstream.fault("/simple/broken/", status=500)
    for status, target, fields in (
        (404, "/simple/missing/", {}),
        (404, "/nothing", {}),
        (404, f"{file}.asc", {}),
        (404, f"{file}x", {}),
        (404, "/simple/-/", {}),
        (400, "//host/simple/", {}),
        (400, "/demo/json", {"Host": "a b"}),
        (406, "/simple/demo/", {"Accept": "image/png"}),
        (416, file, {"Range": "bytes=9999999-"}),
        (503, "/simple/broken/", {}),
        (508, "/simple/demo/", {"Via": f"1.1 {chain.mirror.upstream.instance}"}),
    ):
        for method in ("GET", "HEAD"):
            if status == 416 and method == "HEAD":
                continue
            answer = await chain.get(target, fields, method=method)
            assert (answer.status, answer.headers["cache-control"]) == (status, "no-store"), target
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"


NO_REQUESTS = (
    b"nonsense\r\n\r\n",
    b"GET /simple/ HTTP/9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: <script>alert(1)</script>\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
)


async def test_c081_what_is_no_request_is_refused_in_our_own_words(chain: Chain) -> None:
    for head in NO_REQUESTS:
        async with chain.connect() as connection:
            await connection.send(head)
            answer = await connection.response()
            assert (answer.status, answer.complete) == (400, True), head
            assert answer.body == b"This is no well-formed HTTP request.\n"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["server"] == "mirror"
            assert await connection.read() == b""
    assert (await chain.page("demo")).status == 200


async def test_c082_credentials_of_a_client_change_nothing_and_go_nowhere(chain: Chain) -> None:
    fields = {"Authorization": "Basic dXNlcjpwYXNzd29yZA==", "Cookie": "session=1"}
    file = f"/{archive('demo').path}"
    for target in ("/simple/demo/", "/simple/", file, f"{file}.metadata", "/demo/json"):
        first, second = await chain.get(target, fields), await chain.get(target)
        assert (first.status, first.body) == (second.status, second.body)
        assert first.headers.get("etag") == second.headers.get("etag")
    assert chain.upstream.log
    assert not [request for request in chain.upstream.log if {"authorization", "cookie"} & set(request.headers)]


async def test_c082_credentials_for_upstream_are_no_matter_of_clients(tmp_path: Path) -> None:
    async with chained(
        tmp_path, style={"credentials": ("ci", "secret")}, upstream_username="ci", upstream_password="secret"
    ) as chain:
        answer = await chain.page("demo")
        assert (answer.status, answer.headers["cache-control"]) == (200, "max-age=600, public")
        assert "www-authenticate" not in answer.headers
