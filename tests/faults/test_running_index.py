"""The running mirror with an index that answers wrongly (U6, U8, U14, U15, U18 to U26)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scene import Scene, eventually, eventually_async, running
from tests.support.packages import Project, archive_of, wheel
from tests.support.pages import JSON
from tests.support.rawhttp import RawResponse


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running(tmp_path_factory.mktemp("data")) as scene:
        yield scene


@pytest.fixture(autouse=True)
def healed(scene: Scene) -> Iterator[None]:
    yield
    scene.upstream.heal()


def refused(answer: RawResponse) -> bool:
    """Whether it says, whole, that upstream could not be asked; never 404, which installers believe."""
    return answer.status == 503 and answer.complete and "retry-after" in answer.headers


def stale(answer: RawResponse) -> bool:
    """Whether it is the copy held, marked as such and not to be reused unasked."""
    said = answer.headers
    return answer.status == 200 and said["x-cache"].startswith("STALE") and said["cache-control"] == "no-cache"


async def served_as_failure(scene: Scene, name: str, **switches: Any) -> None:
    """A page with this fault is an upstream failure: 503 where nothing is held, else the copy held; never stored."""
    scene.publish(name)
    scene.publish(f"{name}-new")
    good = await scene.files_of(name)
    await eventually(lambda: bool(scene.stored(f"{name}.json")))
    on_disk = [path.read_bytes() for path in scene.stored(f"{name}.json")]
    if "body" in switches:
        switches = {"status": 200} | switches  # also where upstream would answer 304
    fault = scene.upstream.fault(f"/simple/{name}*", **switches)
    first = await scene.page(f"{name}-new")
    assert refused(first), first
    again = await scene.page(name)
    assert stale(again), again
    assert {entry["filename"]: entry for entry in json.loads(again.body)["files"]} == good
    assert fault.hits >= 2
    assert not scene.stored(f"{name}-new.json")
    assert [path.read_bytes() for path in scene.stored(f"{name}.json")] == on_disk
    scene.upstream.heal()
    for healed in (name, f"{name}-new"):
        answer = await scene.page(healed)
        assert (answer.status, answer.headers["x-cache"]) == (200, "MISS upstream")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_u6_server_errors_are_retried_once_more_and_never_cached(scene: Scene, status: int) -> None:
    expected = {"upstream_failures": 2, "upstream_retries": 2, "pages_stale": 1}
    async with scene.counting(**expected), scene.logging("upstream failed", reason=f"it answered {status}"):
        await served_as_failure(scene, f"error-{status}", status=status)


@pytest.mark.parametrize("status", [401, 403, 418])
async def test_other_refusals_are_no_404(scene: Scene, status: int) -> None:
    async with scene.counting(upstream_failures=2, pages_stale=1, upstream_retries=0):
        await served_as_failure(scene, f"refusal-{status}", status=status)


async def test_u8_a_404_is_passed_on_remembered_and_destroys_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "data", missing_ttl=600) as scene:
        archives = {status: scene.publish(f"gone-{status}") for status in (404, 410)}
        for status, archive in archives.items():
            await scene.files_of(f"gone-{status}")
            await scene.kept(archive)
            gone = scene.upstream.fault(f"/simple/gone-{status}/", status=status)
            for _ in range(3):
                assert (await scene.page(f"gone-{status}")).status == 404
            assert gone.hits == 1
            await eventually(lambda status=status: bool(scene.stored(f"gone-{status}.json")))  # type: ignore[misc]
            assert (await scene.get_whole(archive)).headers["x-cache"] == "HIT store"


@pytest.mark.parametrize("status", [404, 410])
async def test_u8_a_404_is_remembered_shortly(scene: Scene, status: int) -> None:
    scene.publish(f"back-{status}")
    await scene.files_of(f"back-{status}")
    scene.upstream.fault(f"/simple/back-{status}/", status=status)
    assert (await scene.page(f"back-{status}")).status == 404
    scene.upstream.heal()

    async def is_back() -> bool:
        return (await scene.page(f"back-{status}")).status == 200

    await eventually_async(is_back)


@pytest.mark.parametrize("what", ["page", "file"])
async def test_u14_redirects_without_end_are_followed_five_times(scene: Scene, what: str) -> None:
    archive = scene.publish(f"hops-{what}")
    if what == "file":
        await scene.files_of(f"hops-{what}")
    path = archive.path if what == "file" else f"simple/hops-{what}/"
    for redirect in ("{path}x", "{path}"):
        hops = scene.upstream.fault(f"/{path}*", redirect=redirect)
        reason = "yet another URL, after 5 redirects"
        async with (
            scene.counting(upstream_redirects_refused=1, upstream_failures=1),
            scene.logging("upstream redirect refused", reason=reason),
        ):
            assert refused(await scene.get(path))
        assert hops.hits == 6
        scene.upstream.heal()
    assert (await scene.get(path)).status == 200


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]:{other}{{path}}",
        "http://2130706433:{other}{{path}}",
        "http://localhost:{other}{{path}}",
        "http://user:canary-9c1e@127.0.0.1:{index}{{path}}",
        "file:///etc/passwd",
    ],
)
async def test_u15_redirects_to_forbidden_places_are_refused(scene: Scene, target: str) -> None:
    """`other` is a server on this machine that would answer."""
    index, other = scene.upstream.ports
    name = f"private-{zlib.crc32(target.encode())}"
    archive = scene.publish(name)
    await scene.files_of(name)
    scene.upstream.fault(f"/{archive.path}", redirect=target.format(index=index, other=other), times=1)
    before = len(scene.upstream.log)
    addresses = scene.mirror.counters()["upstream_addresses_refused"]
    redirects = scene.mirror.counters()["upstream_redirects_refused"]
    answer = await scene.get(archive.path)
    assert refused(answer), answer
    assert [request.headers["host"] for request in scene.upstream.log[before:]] == [f"127.0.0.1:{index}"]
    counters = scene.mirror.counters()
    assert counters["upstream_addresses_refused"] + counters["upstream_redirects_refused"] > addresses + redirects
    assert "canary-9c1e" not in scene.mirror.tail(10) + answer.body.decode()
    await scene.get_whole(archive)


async def test_u18_304_to_an_unconditional_request_is_asked_again(scene: Scene) -> None:
    archive = scene.publish("unasked-304")
    scene.upstream.fault("/simple/unasked-304/", status=304, headers={"ETag": '"x"'}, times=1)
    async with scene.counting(upstream_unexpected_304=1):
        assert archive.filename in await scene.files_of("unasked-304")
    request = scene.upstream.log[-1]
    assert "if-none-match" not in request.headers
    assert request.headers["cache-control"] == "no-cache"


async def test_u18_304_without_end_is_a_failure(scene: Scene) -> None:
    scene.publish("always-304")
    scene.upstream.fault("/simple/always-304/", status=304)
    async with scene.counting(upstream_unexpected_304=1, upstream_failures=1):
        assert refused(await scene.page("always-304"))
    scene.upstream.heal()
    await scene.files_of("always-304")


async def test_u18_304_with_a_wrong_etag_confirms_nothing_else(scene: Scene) -> None:
    archive = scene.publish("wrong-etag")
    await scene.files_of("wrong-etag")
    newer = wheel("wrong-etag", "2.0")
    scene.upstream.publish(Project("wrong-etag", (archive, newer)))
    scene.upstream.fault("/simple/wrong-etag/", status=304, headers={"ETag": '"of another page"'}, times=1)
    assert list(await scene.files_of("wrong-etag")) == [archive.filename]
    # The validator is still that of the copy held, so the change is seen now.
    assert list(await scene.files_of("wrong-etag")) == [archive.filename, newer.filename]


@pytest.mark.parametrize("same_etag", [True, False], ids=["u19_same_etag", "u20_new_etag"])
@pytest.mark.parametrize("known", ["stored", "listed"])
async def test_u19_u20_a_file_keeps_its_first_digest(scene: Scene, same_etag: bool, known: str) -> None:
    name = f"changed-{known}-{same_etag}".lower()
    first = scene.publish(name)
    other = archive_of(first.filename, "1.0", first.content[:-1] + b"!", first.metadata)
    second = replace(other, blake2b=first.blake2b)  # at the same URL, with a new digest on the page
    assert (second.path, second.size) == (first.path, first.size)
    if same_etag:
        scene.upstream.fault(f"/simple/{name}/", headers={"ETag": '"always this"'})
    await scene.files_of(name)
    if known == "stored":
        await scene.kept(first)
    scene.upstream.publish(Project(name, (second,)))
    async with scene.counting(upstream_files_changed=1), scene.logging("files changed their digest upstream"):
        entry = (await scene.files_of(name))[first.filename]
    assert entry["hashes"] == {"sha256": first.sha256}
    if known == "stored":
        assert (await scene.get_whole(first)).headers["x-cache"] == "HIT store"
    else:
        async with scene.counting(integrity_failures=2):
            answer = await scene.get(first.path)
        assert (answer.status, answer.complete) == (502, True)
        scene.upstream.publish(Project(name, (first,)))
        await scene.get_whole(first)


async def test_u21_an_older_page_never_replaces_a_newer_one(scene: Scene) -> None:
    old, new, newest = (wheel("serial", version) for version in ("1.0", "2.0", "3.0"))
    scene.upstream.publish(Project("serial", (old, new), serial=10))
    await scene.files_of("serial")
    scene.upstream.publish(Project("serial", (old,), serial=5))
    async with scene.counting(upstream_older_serial=2), scene.logging("upstream page is older than the copy held"):
        for _ in range(2):
            answer = await scene.page("serial")
            assert answer.headers["x-pypi-last-serial"] == "10"
            assert [entry["filename"] for entry in json.loads(answer.body)["files"]] == [old.filename, new.filename]
    scene.upstream.publish(Project("serial", (old, new, newest), serial=11))
    assert newest.filename in await scene.files_of("serial")


NO_PAGES = {
    "portal": b"<!DOCTYPE html><html><body><form action='/login'>Please log in.</form></body></html>",
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "object": b"{}",
    "nested": b"[" * 100_000,
    "nested-well-formed": b'{"meta": ' + b"[" * 50_000 + b"]" * 50_000 + b', "name": "x", "files": []}',
    "nan": b'{"meta": {"api-version": "1.0"}, "name": "NAME", "files": [], "x": NaN}',
    "duplicate-keys": b'{"meta": {"api-version": "1.0"}, "name": "NAME", "files": [], "files": []}',
    "latin-1": b'{"meta": {"api-version": "1.0"}, "name": "NAME", "files": [], "x": "\xe9"}',
    "half": b'{"meta": {"api-version": "1.0"}, "name": "NAME", "fil',
    "no-meta": b'{"name": "NAME", "files": []}',
    "version-2": b'{"meta": {"api-version": "2.0"}, "name": "NAME", "files": []}',
    "other-project": b'{"meta": {"api-version": "1.0"}, "name": "somebody-else", "files": []}',
}


@pytest.mark.parametrize("kind", NO_PAGES)
async def test_u22_what_is_no_page_is_a_failure_of_upstream(scene: Scene, kind: str) -> None:
    body = NO_PAGES[kind].replace(b"NAME", f"no-page-{kind}".encode())
    async with scene.counting(upstream_pages_unusable=2, pages_stale=1):
        await served_as_failure(scene, f"no-page-{kind}", body=body, content_type=JSON)


async def test_u22_a_captive_portal_is_a_failure_of_upstream(scene: Scene) -> None:
    async with scene.counting(upstream_pages_unusable=2):
        await served_as_failure(scene, "portal", html_instead=True)


async def test_u22_an_enormous_page_is_not_even_begun(scene: Scene) -> None:
    reason = "it sent more than the 67108864 bytes that are allowed"
    async with scene.counting(upstream_failures=2), scene.logging("upstream failed", reason=reason):
        await served_as_failure(scene, "enormous", body=b"{", headers={"Content-Length": "524288000"})


def highest_memory(scene: Scene) -> int:
    """The most that the mirror ever had in memory, in bytes."""
    with open(f"/proc/{scene.mirror.pid}/status", encoding="ascii", errors="replace") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


async def test_u23_a_bomb_costs_no_more_than_a_large_page(scene: Scene) -> None:
    packer = zlib.compressobj(1, wbits=31)
    bomb = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(400)), packer.flush()])
    before = highest_memory(scene)
    async with scene.counting(upstream_failures=2, pages_stale=1):
        await served_as_failure(scene, "bomb", body=bomb, content_type=JSON, headers={"Content-Encoding": "gzip"})
    assert highest_memory(scene) < before + (250 << 20)


@pytest.mark.parametrize("coding", ["zstd", "br", "gzip, gzip", "deflate", "no such thing"])
async def test_u23_codings_that_were_not_asked_for_or_lie(scene: Scene, coding: str) -> None:
    async with scene.counting(upstream_failures=2, pages_stale=1):
        await served_as_failure(
            scene, f"coding-{len(coding)}-{coding[:2]}", body=b"not coded", headers={"Content-Encoding": coding}
        )


async def test_u23_an_encoded_file_is_refused(scene: Scene) -> None:
    archive = scene.publish("encoded")
    await scene.files_of("encoded")
    scene.upstream.fault(f"/{archive.path}", gzip_bomb=100_000_000, times=1)
    async with scene.counting(upstream_failures=1):
        assert refused(await scene.get(archive.path))
    assert not scene.stored(archive.filename)
    await scene.get_whole(archive)


HOSTILE = {
    "../x-1.0.tar.gz": "{origin}packages/../x-1.0.tar.gz",
    "..%2fx-1.0.tar.gz": "{origin}packages/..%2fx-1.0.tar.gz",
    "somebody_else-1.0-py3-none-any.whl": "{origin}packages/aa/somebody_else-1.0-py3-none-any.whl",
    "hostile-1.0.tar.gz": "javascript:alert(1)//hostile-1.0.tar.gz",
    "hostile-1.1.tar.gz": "file:///etc/hostile-1.1.tar.gz",
    "hostile-1.2.tar.gz\r\nSet-Cookie: a=b": "{origin}packages/aa/hostile-1.2.tar.gz%0d%0aSet-Cookie: a=b",
    "hostile-1.3.tar.gz\0": "{origin}packages/aa/hostile-1.3.tar.gz\0",
    "hostile-1.4.tar.gz": "{origin}packages/aa/another-1.4.tar.gz",
    '"><script>alert(1)</script>-1.5.tar.gz': "{origin}packages/aa/x-1.5.tar.gz",
    "\u212aostile-1.7.tar.gz": "{origin}packages/aa/\u212aostile-1.7.tar.gz",
}


async def test_u24_hostile_entries_are_dropped_and_the_rest_served(scene: Scene) -> None:
    good = scene.publish("hostile")
    files: list[dict[str, Any]] = [
        {"filename": name, "url": url.format(origin=scene.upstream.origin), "hashes": {"sha256": "0" * 64}}
        for name, url in HOSTILE.items()
    ]
    files.append(
        {"filename": good.filename, "url": scene.upstream.origin + good.path, "hashes": {"sha256": good.sha256}}
    )
    body = json.dumps({"meta": {"api-version": "1.0"}, "name": "hostile", "files": files}).encode()
    scene.upstream.fault("/simple/hostile/", body=body, content_type=JSON)
    before = len(scene.upstream.log)
    async with (
        scene.counting(upstream_entries_dropped=len(files) - 1),
        scene.logging("entries of an upstream page dropped"),
    ):
        assert list(await scene.files_of("hostile")) == [good.filename]
    html = await scene.get("simple/hostile/", {"Accept": "text/html"})
    for trace in (b"javascript", b"<script", b"Set-Cookie", b"somebody", b".."):
        assert trace not in html.body.replace(b"../../", b"")
    await scene.get_whole(good)
    assert {request.path for request in scene.upstream.log[before:]} == {"/simple/hostile/", f"/{good.path}"}


async def test_u25_wrong_metadata_is_not_served_and_the_wheel_gives_the_right(scene: Scene) -> None:
    archive = scene.publish("metadata")
    assert archive.filename in await scene.files_of("metadata")
    scene.upstream.fault(f"/{archive.path}.metadata", body=b"Metadata-Version: 2.1\nName: other\n")
    async with scene.counting(metadata_mismatches=1):
        answer = await scene.get(f"{archive.path}.metadata")
    assert (answer.status, answer.body) == (200, archive.metadata)


async def test_u25_metadata_that_nobody_can_vouch_for_are_not_served_and_not_offered(scene: Scene) -> None:
    """The page promises a digest that neither the file beside the wheel nor the wheel itself has."""
    no_wheel = archive_of("promised-1.0-py3-none-any.whl", "1.0", b"this is no zip", b"Metadata-Version: 2.1\n")
    scene.upstream.publish(Project("promised", (replace(no_wheel, metadata_sha256="0" * 64),)))
    assert (await scene.files_of("promised"))[no_wheel.filename]["core-metadata"]
    async with scene.counting(metadata_mismatches=1, metadata_underivable=1):
        answer = await scene.get(f"{no_wheel.path}.metadata")
    assert (answer.status, answer.complete) == (502, True)
    assert no_wheel.metadata not in answer.body

    async def is_dropped() -> bool:
        return not (await scene.files_of("promised"))[no_wheel.filename].get("core-metadata")

    await eventually_async(is_dropped)
    await scene.get_whole(no_wheel)


HEADS = {
    "nul": b"HTTP/1.1 200 OK\r\nX-Nul: a\0b\r\nContent-Length: 0\r\n\r\n",
    "one-megabyte": b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "ten-thousand": b"HTTP/1.1 200 OK\r\n" + b"X-Many: x\r\n" * 10_000 + b"Content-Length: 0\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000,
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "smuggled": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("kind", HEADS)
async def test_u26_heads_that_are_no_http(scene: Scene, kind: str) -> None:
    async with scene.counting(upstream_failures=2, pages_stale=1):
        await served_as_failure(scene, f"head-{kind}", raw=HEADS[kind])
