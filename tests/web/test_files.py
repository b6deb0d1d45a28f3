"""Archives and sidecars over HTTP: whole, in part, conditional, broken off."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.errors import IntegrityError, NotHeld, StoreFailure, UpstreamBusy, UpstreamDown
from mirror.model import File
from mirror.web.sending import READ_AT_ONCE
from tests.support.rawhttp import Ending
from tests.web.conftest import SDIST, WHEEL
from tests.web.memory import Blob, MemoryRepository, Served, serving

PATH = f"/packages/ab/cd/{WHEEL}"
BIG = 3 * READ_AT_ONCE + 12345
IMMUTABLE = "max-age=365000000, immutable, public"


def big_file(repository: MemoryRepository, *, size: int = BIG, **how: object) -> tuple[File, bytes]:
    """A file that goes out by sendfile, or streamed."""
    content = random.Random(size).randbytes(size)
    return repository.add_file("demo", "demo-9.0.tar.gz", Blob(content, **how)), content  # type: ignore[arg-type]


async def test_c083_c079_whole_file(served: Served) -> None:
    content = served.repository.blobs[PATH[1:]].content
    answer = await served.get(PATH, {"Accept-Encoding": "gzip, deflate, zstd"})
    assert (answer.status, answer.body, answer.complete) == (200, content, True)
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "content-encoding" not in answer.headers
    assert answer.headers["etag"] == f'"sha256-{hashlib.sha256(content).hexdigest()}"'
    assert answer.headers["cache-control"] == IMMUTABLE
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == f'attachment; filename="{WHEEL}"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-cache"] == "HIT store"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("size", [0, 1, READ_AT_ONCE, READ_AT_ONCE + 1, BIG, 9 << 20])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_c083_files_of_every_size(served: Served, streamed: bool, size: int, version: str) -> None:
    file, content = big_file(served.repository, size=size, streamed=streamed)
    answer = await served.get(f"/{file.path}", version=version)
    assert answer.ending is Ending.COMPLETE
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(content).digest()
    await served.settled()


async def test_file_without_digest_is_not_kept_for_ever(served: Served) -> None:
    file = served.repository.add_file("demo", "weak-1.0.tar.gz", Blob(b"x", promised=False))
    for method in ("GET", "HEAD"):
        answer = await served.get(f"/{file.path}", method=method)
        assert answer.status == 200
        assert "etag" not in answer.headers
        assert answer.headers["cache-control"] == "no-cache"
    assert (await served.get(f"/{file.path}", {"Range": "bytes=0-0", "If-Range": '""'})).status == 200


async def test_c080_sidecars(served: Served) -> None:
    metadata = await served.get(f"{PATH}.metadata")
    assert metadata.body == served.repository.sidecars[PATH[1:], "metadata"]
    assert metadata.headers["cache-control"] == IMMUTABLE
    assert metadata.headers["content-type"] == "text/plain; charset=utf-8"
    provenance = await served.get(f"{PATH}.provenance")
    assert provenance.headers["cache-control"] == "max-age=600, public"
    assert provenance.headers["content-type"] == "application/vnd.pypi.integrity.v1+json"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=2990-", (2990, 3000)),
        ("bytes=2990-999999999999999999999999", (2990, 3000)),
        ("bytes=-1", (2999, 3000)),
        ("bytes=-16384", (0, 3000)),
        ("bytes=0-", (0, 3000)),
        ("Bytes=00-01", (0, 2)),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".metadata"])
async def test_c084_single_ranges(served: Served, value: str, expected: tuple[int, int], suffix: str) -> None:
    if suffix:
        served.repository.sidecars[PATH[1:], suffix[1:]] = served.repository.blobs[PATH[1:]].content
    content = served.repository.blobs[PATH[1:]].content
    start, stop = expected
    # no-cache on ranges is routine and must change nothing
    answer = await served.get(PATH + suffix, {"Range": value, "Cache-Control": "no-cache"})
    assert answer.status == 206
    assert answer.body == content[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/3000"
    assert answer.headers["content-length"] == str(stop - start)
    assert answer.headers["accept-ranges"] == "bytes"
    assert "etag" in answer.headers


@pytest.mark.parametrize("value", ["bytes=3000-", "bytes=3000-4000", "bytes=9999999999999999999999-", "bytes=-0"])
async def test_c085_range_past_the_end_is_416(served: Served, value: str) -> None:
    answer = await served.get(PATH, {"Range": value})
    assert answer.status == 416
    assert answer.headers["content-range"] == "bytes */3000"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "value",
    [
        "bytes=0-1,5-6",
        "bytes=0-5,3-9",
        "bytes=5-2",
        "bytes=",
        "bytes=-",
        "bytes",
        "items=0-1",
        "bytes=a-b",
        "bytes=1-2-3",
        "bytes 0-1",
        "bytes=-1-2",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=٣-٤",
        "bytes=0x1-2",
    ],
)
async def test_c086_several_or_malformed_ranges_give_the_whole(served: Served, value: str) -> None:
    async with served.connect() as connection:
        await connection.send(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nRange: {value}\r\n\r\n".encode())
        answer = await connection.response()
    assert answer.status == 200
    assert answer.body == served.repository.blobs[PATH[1:]].content
    assert "content-range" not in answer.headers


async def test_c086_range_in_several_lines_gives_the_whole(served: Served) -> None:
    async with served.connect() as connection:
        await connection.send(
            f"GET {PATH} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\nRange: bytes=5-6\r\n\r\n".encode()
        )
        assert (await connection.response()).status == 200


async def test_c087_if_range(served: Served) -> None:
    tag = (await served.get(PATH, method="HEAD")).headers["etag"]
    content = served.repository.blobs[PATH[1:]].content
    resumed = await served.get(PATH, {"Range": "bytes=1000-", "If-Range": tag})
    assert (resumed.status, resumed.body) == (206, content[1000:])
    for other in ('"sha256-other"', f"W/{tag}", "Tue, 02 Jan 2024 03:04:05 GMT", tag.strip('"'), f"{tag}, {tag}", "*"):
        answer = await served.get(PATH, {"Range": "bytes=1000-", "If-Range": other})
        assert (answer.status, answer.body) == (200, content)
        past_the_end = await served.get(PATH, {"Range": "bytes=99999-", "If-Range": other})
        assert past_the_end.status == 200


async def test_c088_if_none_match(served: Served) -> None:
    tag = (await served.get(PATH)).headers["etag"]
    served.repository.asked.clear()
    for method in ("GET", "HEAD"):
        answer = await served.get(PATH, {"If-None-Match": f'"x", {tag}', "Range": "bytes=0-1"}, method=method)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == tag
        assert answer.headers["cache-control"] == IMMUTABLE
    assert {a[0] for a in served.repository.asked} == {"file_facts"}
    for kind in (".metadata", ".provenance"):
        tag = (await served.get(PATH + kind)).headers["etag"]
        assert (await served.get(PATH + kind, {"If-None-Match": tag})).status == 304


async def test_c089_head_downloads_nothing(served: Served) -> None:
    answer = await served.get(PATH, {"Range": "bytes=0-1"}, method="HEAD")
    assert answer.status == 200
    assert answer.headers["content-length"] == "3000"
    assert answer.headers["accept-ranges"] == "bytes"
    assert [a[0] for a in served.repository.asked] == ["file_facts"]


async def test_c090_range_is_passed_on(served: Served) -> None:
    await served.get(PATH, {"Range": "bytes=-16384"})
    assert [a[0] for a in served.repository.asked] == ["open_file"]
    assert served.repository.asked[0][2].suffix == 16384


async def test_c091_c092_metadata(served: Served) -> None:
    assert (await served.get(f"{PATH}.metadata")).status == 200
    missing = await served.get(f"/packages/ab/cd/{SDIST}.metadata")
    assert missing.status == 404
    assert (await served.get("/packages/ab/cd/unknown-1.0.tar.gz.metadata")).status == 404


async def test_c093_signature_is_404(served: Served) -> None:
    assert (await served.get(f"{PATH}.asc")).status == 404


async def test_c097_yanked_file_is_served(served: Served) -> None:
    assert (await served.get(f"/packages/ab/cd/{SDIST}")).body == b"source" * 100


async def test_c034_escaped_plus_is_the_same_file(served: Served) -> None:
    file = served.repository.add_file("demo", "demo-1.0+cpu-py3-none-any.whl", Blob(b"plus"))
    for spelling in (file.path, file.path.replace("+", "%2B"), file.path.replace("+", "%2b")):
        assert (await served.get(f"/{spelling}")).body == b"plus"


async def test_query_of_a_file_is_ignored(served: Served) -> None:
    for query in ("?x=1", "?", "?a=/../b&format=text/html"):
        answer = await served.get(PATH + query)
        assert answer.body == served.repository.blobs[PATH[1:]].content


@pytest.mark.parametrize("method", ["open_file", "file_facts"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UpstreamDown("pypi", "timed out"), 503),
        (UpstreamBusy("pypi", "answered 503"), 503),
        (IntegrityError("pypi", WHEEL, "has another sha256 than promised"), 502),
        (StoreFailure("read", "files/x", "Input/output error"), 503),
        (NotHeld(WHEEL), 404),
        (RuntimeError("secret /etc/path"), 500),
    ],
)
async def test_failures_before_the_head(served: Served, method: str, error: Exception, status: int) -> None:
    served.repository.failures[method] = error
    answer = await served.get(PATH, method="HEAD" if method == "file_facts" else "GET")
    assert answer.status == status
    assert answer.headers["cache-control"] == "no-store"
    assert b"secret" not in answer.body


async def test_c094_error_before_the_first_byte_is_502(served: Served) -> None:
    error = IntegrityError("pypi", WHEEL, "has another sha256 than promised")
    file, _ = big_file(served.repository, streamed=True, stop_after=0, error=error)
    async with served.connect() as connection:
        await connection.request("GET", f"/{file.path}")
        assert (await connection.response()).status == 502
        # nothing was sent of it, so the connection is as good as before
        await connection.request("GET", PATH)
        assert (await connection.response()).status == 200
    await served.settled()


@pytest.mark.parametrize(
    "error", [IntegrityError("pypi", "x", "has another sha256"), RuntimeError("boom"), ConnectionResetError("upstream")]
)
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_c094_error_after_the_first_byte_cuts_the_connection(
    served: Served, error: Exception, version: str
) -> None:
    file, content = big_file(served.repository, streamed=True, stop_after=200_000, error=error)
    answer = await served.get(f"/{file.path}", version=version)
    assert answer.status == 200
    assert answer.ending in (Ending.CUT, Ending.RESET)
    assert content.startswith(answer.body)
    await served.counted("responses_aborted")
    await served.settled()


@pytest.mark.parametrize("how", [{"stop_after": 100_000}, {"stop_after": BIG - 1}])
async def test_p13_short_stream_cuts_the_connection(served: Served, how: dict[str, int]) -> None:
    file, _ = big_file(served.repository, streamed=True, **how)
    async with served.connect() as connection:
        await connection.request("GET", f"/{file.path}")
        await connection.request("GET", PATH)  # pipelined: must never be answered within the first body
        answer = await connection.response()
        assert answer.ending in (Ending.CUT, Ending.RESET)
        assert len(answer.body) <= how["stop_after"]
        with contextlib.suppress(ConnectionResetError):
            assert await connection.read() == b""
    await served.counted("responses_aborted")


async def test_p13_stream_longer_than_declared_is_broken_off(served: Served) -> None:
    file, content = big_file(served.repository, streamed=True, surplus=b"more")
    async with served.connect() as connection:
        await connection.request("GET", f"/{file.path}")
        answer = await connection.response()
        assert answer.ending in (Ending.CUT, Ending.RESET)
        assert content.startswith(answer.body)
        with contextlib.suppress(ConnectionResetError):
            assert await connection.read() == b""
    await served.counted("responses_aborted")


async def test_p13_file_that_is_shorter_than_its_size(served: Served) -> None:
    file, _ = big_file(served.repository, unlinked_tail=1000)
    answer = await served.get(f"/{file.path}")
    assert answer.ending in (Ending.CUT, Ending.RESET)
    await served.counted("responses_aborted")
    small = served.repository.add_file("demo", "small-1.0.tar.gz", Blob(b"x" * 100, unlinked_tail=1))
    assert (await served.get(f"/{small.path}")).status == 503
    await served.settled()


async def test_several_files_over_one_connection(served: Served) -> None:
    file, content = big_file(served.repository)
    stream = served.repository.add_file("demo", "stream-1.0.tar.gz", Blob(b"s" * 300_000, streamed=True))
    async with served.connect() as connection:
        for _ in range(3):
            await connection.request("GET", f"/{file.path}")
            assert (await connection.response()).body == content
            await connection.request("HEAD", f"/{file.path}")
            assert (await connection.response("HEAD")).status == 200
            await connection.request("GET", f"/{stream.path}", {"Range": "bytes=5-"})
            assert len((await connection.response()).body) == 299_995
            await connection.request("GET", PATH)
            assert (await connection.response()).status == 200


async def test_p12_pipelined_requests_are_answered_in_order(served: Served) -> None:
    file, content = big_file(served.repository)
    async with served.connect() as connection:
        head = "Host: x\r\n\r\n"
        await connection.send(
            f"GET /{file.path} HTTP/1.1\r\n{head}GET {PATH} HTTP/1.1\r\nRange: bytes=1-2\r\n{head}"
            f"HEAD /{file.path} HTTP/1.1\r\n{head}GET /simple/demo/ HTTP/1.1\r\n{head}".encode()
        )
        assert (await connection.response()).body == content
        assert (await connection.response()).status == 206
        assert (await connection.response("HEAD")).headers["content-length"] == str(len(content))
        assert (await connection.response()).body.startswith(b"<!DOCTYPE")


@pytest.mark.parametrize("expect", ["100-continue", "200-ok"])
async def test_p12_expectations_do_not_disturb(served: Served, expect: str) -> None:
    async with served.connect() as connection:
        for _ in range(2):
            await connection.request("GET", PATH, {"Expect": expect})
            assert (await connection.response()).status == 200


async def test_p12_http_1_0_is_closed_after_the_answer(served: Served) -> None:
    async with served.connect() as connection:
        await connection.request("GET", PATH, {"Range": "bytes=-5"}, version="HTTP/1.0")
        answer = await connection.response()
        assert (answer.status, len(answer.body)) == (206, 5)
        assert await connection.read() == b""


_number = st.one_of(st.integers(0, 12), st.integers(0, 2 * BIG), st.just(10**30))
_range = st.one_of(
    st.builds("{}-{}".format, _number, _number),
    st.builds("{}-".format, _number),
    st.builds("-{}".format, _number),
)
_field = st.one_of(
    st.builds("bytes={}".format, _range),
    st.builds("bytes={},{}".format, _range, _range),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
)


def expected_part(field: str, size: int) -> tuple[int, int] | str | None:
    """A reference that shares nothing with the server: part, whole (None) or "416"."""
    unit, _, spec = field.strip().partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit.lower() != "bytes" or not dash or not (first or last) or not (first + last).isdigit():
        return None
    if not first:
        return "416" if int(last) == 0 else (max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        return "416"
    return int(first), min(size, int(last) + 1) if last else size


@pytest.mark.parametrize("streamed", [False, True])
async def test_p12_any_range_gives_the_slice_of_a_reference(streamed: bool) -> None:
    repository = MemoryRepository()
    small = repository.add_file("demo", "small-1.0.tar.gz", Blob(bytes(range(10)), streamed=streamed))
    big, _ = big_file(repository, streamed=streamed)
    loop = asyncio.get_running_loop()
    async with serving(repository) as served:

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from([small, big]), _field, st.sampled_from(["HTTP/1.1", "HTTP/1.0"]), st.booleans())
        def check(file: File, field: str, version: str, resumed: bool) -> None:
            content = repository.blobs[file.path].content
            headers = {"Range": field}
            if resumed:
                headers["If-Range"] = f'"sha256-{hashlib.sha256(content).hexdigest()}"'
            request = served.get(f"/{file.path}", headers, version=version)
            answer = asyncio.run_coroutine_threadsafe(request, loop).result(20)
            match expected_part(field, len(content)):
                case None:
                    assert (answer.status, answer.body) == (200, content)
                case (start, stop):
                    assert (answer.status, answer.body) == (206, content[start:stop])
                    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"
                case _:
                    assert answer.status == 416

        await asyncio.to_thread(check)
