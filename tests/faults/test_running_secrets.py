"""The running mirror keeps its upstream's password to itself, and fetches nothing that a client chooses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.scene import SETTINGS, Scene, eventually, running
from tests.support import graphs
from tests.support.mirror import MirrorProcess
from tests.support.packages import Project, wheel
from tests.support.upstream import ThreadedUpstream

CANARY = "canary-e3b0c442"
BASIC = "Y2k6Y2FuYXJ5LWUzYjBjNDQy"
"""`ci:canary-e3b0c442`, as Basic authentication sends it."""
TOKEN = "canary-token-98fc"


@pytest.mark.parametrize("given", ["in-url", "as-setting"])
async def test_a_password_goes_to_its_origin_only_and_shows_nowhere(tmp_path: Path, given: str) -> None:
    archive, damaged = wheel("private", "1.0"), wheel("private", "2.0")
    with ThreadedUpstream(
        [Project("private", (archive, damaged))], credentials=("ci", CANARY), links="other", query=f"?token={TOKEN}"
    ) as upstream:
        index, files = upstream.ports
        url = upstream.url if given == "as-setting" else upstream.url.replace("//", f"//ci:{CANARY}@")
        secrets = {"upstream_username": "ci", "upstream_password": CANARY} if given == "as-setting" else {}
        data = tmp_path / "data"
        with MirrorProcess(data_dir=data, upstream_url=url, log_level="debug", **(SETTINGS | secrets)) as mirror:
            scene = Scene(upstream, mirror, data)
            said = []
            said.append(await scene.page("private"))
            assert said[0].status == 200
            # The file host has not to be told who we are: it refuses, and is not asked with the password.
            async with scene.logging("upstream failed", reason="it does not accept the configured credentials (401)"):
                said.append(await scene.get(archive.path))
            assert said[-1].status == 503
            upstream.fault(f"/{archive.path}", status=200, body=archive.content)
            upstream.fault(f"/{damaged.path}", status=200, body=damaged.content[::-1])
            said += [await scene.get_whole(archive), await scene.get(damaged.path), await scene.get("private/json")]
            assert [answer.status for answer in said[-3:]] == [200, 502, 200]
            # Redirects of the index to the other origin lose the password, and one that holds another is refused.
            upstream.fault("/simple/moved/", redirect=f"http://127.0.0.1:{files}/simple/private/")
            upstream.fault("/simple/baited/", redirect=f"http://ci:{CANARY}@127.0.0.1:{files}/simple/private/")
            for path in ("simple/moved/", "simple/baited/", "simple/", "", "readyz", "metrics", "simple/none/", "%zz"):
                said.append(await scene.get(path, {"Accept": "text/html"}))
            upstream.stop_now()
            said += [await scene.page("private"), await scene.page("unknown")]
            assert [answer.status for answer in said[-2:]] == [200, 503]
            await eventually(lambda: bool(scene.stored("private.json")))
            upstream.start_now()

        by_port: dict[str, set[str | None]] = {}
        for request in upstream.log:
            port = request.headers["host"].rpartition(":")[2]
            by_port.setdefault(port, set()).add(request.headers.get("authorization"))
        assert by_port == {str(index): {f"Basic {BASIC}"}, str(files): {None}}
        answers = "\n".join(f"{answer.fields} {answer.body.decode('latin-1')}" for answer in said)
        logs = json.dumps(mirror.log) + "\n".join(mirror.text)
        disk = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file()).decode("latin-1")
        for secret in (CANARY, BASIC):
            assert secret not in answers + logs + disk
        # A token in a file's URL is no page's, log's or error's business either.
        assert TOKEN not in answers + logs


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running(tmp_path_factory.mktemp("data"), graphs.alpha()) as scene:
        yield scene


NO_PATHS = [
    "http://127.0.0.1:{upstream}/simple/alpha/",
    "http://169.254.169.254/latest/meta-data/",
    "HTTPS://index.example.com/simple/alpha/",
    "//127.0.0.1:{upstream}/simple/alpha/",
    "//alpha/simple/",
    "127.0.0.1:{upstream}",
    "*",
    "simple/alpha/",
    "/simple/../../etc/passwd",
    "/simple/..%2f..%2fetc%2fpasswd",
    "/simple/%2e%2e/alpha/",
    "/simple/alpha%2f..%2fbeta/",
    "/simple/alpha%00/",
    "/simple/alpha%0d%0aSet-Cookie:%20a=b/",
    "/simple/alpha%252f/",
    "/simple/\\..\\alpha/",
    "/simple/http://127.0.0.1:{upstream}/",
    "/simple/%e2%84%aa8s/",
    "/packages/../simple/alpha/",
    "/packages/%2e%2e/%2e%2e/etc/passwd",
    "/packages/http://127.0.0.1:{upstream}/packages/x-1.0.tar.gz",
    "/files/pypi/../../../etc/passwd",
    "/files/127.0.0.1:{upstream}/packages/x-1.0.tar.gz",
    "/files/http:/127.0.0.1:{upstream}/x-1.0.tar.gz",
    "/%2F%2F..%2F..%2Fetc/passwd",
    "/simple/alpha/../alpha/",
    "/" + "a" * 9000,
]


@pytest.mark.parametrize("target", NO_PATHS, ids=range(len(NO_PATHS)))
async def test_no_relay_and_no_traversal(scene: Scene, target: str) -> None:
    before = len(scene.upstream.log)
    async with scene.connection() as connection:
        await connection.request("GET", target.format(upstream=scene.upstream.ports[0]))
        answer = await connection.response()
    assert 400 <= answer.status < 500, answer
    assert b"root:" not in answer.body
    assert "set-cookie" not in answer.headers
    assert len(scene.upstream.log) == before
    assert (await scene.page("alpha")).status == 200


async def test_what_is_no_http_is_told_in_one_line(scene: Scene) -> None:
    start = len(scene.mirror.log)
    for nonsense in (
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET nowhere HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
    ):
        async with scene.connection() as connection:
            await connection.send(nonsense)
            assert (await connection.response()).status == 400
    assert (await scene.get("livez")).status == 200

    def told() -> list[str]:
        return [entry["event"] for entry in scene.mirror.log[start:] if "malformed request" in entry["event"]]

    await eventually(lambda: len(told()) >= 2)
    assert not any("exception" in entry for entry in scene.mirror.log[start:])


@pytest.mark.parametrize("method", ["CONNECT", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_no_other_method(scene: Scene, method: str) -> None:
    before = len(scene.upstream.log)
    target = f"127.0.0.1:{scene.upstream.ports[0]}" if method == "CONNECT" else "/simple/alpha/"
    async with scene.connection() as connection:
        await connection.request(method, target)
        answer = await connection.response()
    assert 400 <= answer.status < 500
    assert len(scene.upstream.log) == before


async def test_a_file_that_no_page_names_is_not_fetched(scene: Scene) -> None:
    """Upstream has it at that very path; only its index decides."""
    unlisted = wheel("alpha", "9.0")
    scene.upstream.site.archives = scene.upstream.site.archives | {f"/{unlisted.path}": unlisted}
    answer = await scene.get(unlisted.path)
    assert (answer.status, answer.complete) == (404, True)
    assert scene.asked(unlisted.path) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example.com"},
        {"Host": 'evil"><script>'},
        {"X-Forwarded-Host": "evil.example.com", "X-Forwarded-Proto": "https", "Forwarded": "host=evil.example.com"},
        {"Host": "169.254.169.254"},
    ],
)
async def test_no_header_of_a_client_chooses_a_host(scene: Scene, headers: dict[str, str]) -> None:
    before = len(scene.upstream.log)
    for accept in ("text/html", "application/vnd.pypi.simple.v1+json"):
        answer = await scene.get("simple/alpha/", {"Accept": accept, **headers})
        assert answer.status in (200, 400)
        assert b"evil" not in answer.body
        assert "evil" not in str(answer.fields)
    hosts = {request.headers["host"] for request in scene.upstream.log[before:]}
    assert hosts <= {f"127.0.0.1:{scene.upstream.ports[0]}"}
