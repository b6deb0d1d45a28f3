"""What holds for every request: identity, loops, logs, failures, probes, the page for people."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

import pytest
from structlog.testing import capture_logs

from mirror.errors import StoreFailure
from mirror.web.health import KEPT
from tests.web.conftest import WHEEL
from tests.web.memory import Blob, MemoryRepository, Served, serving


async def test_request_id_is_echoed_or_made(served: Served) -> None:
    assert (await served.get("/livez", {"X-Request-Id": "abc-1.2_3"})).headers["x-request-id"] == "abc-1.2_3"
    made = set()
    for hostile in ("a b", "x" * 65, "<script>", ""):
        made.add((await served.get("/livez", {"X-Request-Id": hostile})).headers["x-request-id"])
    assert len(made) == 4
    assert all(re.fullmatch(r"[0-9a-f]{16}", identity) for identity in made)


@pytest.mark.parametrize("via", ["1.1 mirror-under-test", "1.0 fred, 1.1 mirror-under-test (mirror)"])
async def test_loop_is_508(served: Served, via: str) -> None:
    answer = await served.get("/simple/demo/", {"Via": via})
    assert answer.status == 508
    assert not served.repository.asked


async def test_other_proxies_are_no_loop(served: Served) -> None:
    assert (await served.get("/simple/demo/", {"Via": "1.1 mirror-under-test-2, 1.1 x"})).status == 200


async def test_unforeseen_failure_is_a_bare_500_and_logged(served: Served) -> None:
    served.repository.failures["project_page"] = RuntimeError("secret of this machine")
    with capture_logs() as logs:
        answer = await served.get("/simple/demo/")
    assert answer.status == 500
    assert b"secret" not in answer.body
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert line["request_id"] == answer.headers["x-request-id"]
    assert str(line["exc_info"]) == "secret of this machine"


async def test_one_log_line_per_request(repository: MemoryRepository) -> None:
    with capture_logs() as logs:
        async with serving(repository, access_log=True) as served:
            await served.get(f"/packages/ab/cd/{WHEEL}?token=secret", {"User-Agent": 'pip/26.3 {"cpu":"x86"}'})
            await served.get("/simple/%0d%0aforged/", {"User-Agent": "x" * 5000})
            await served.get("/livez")
    lines = [line for line in logs if line["event"] == "request"]
    assert [line["log_level"] for line in lines] == ["info", "info", "debug"]
    first, second, _ = lines
    assert (first["method"], first["path"], first["status"]) == ("GET", f"/packages/ab/cd/{WHEEL}", 200)
    assert (first["bytes"], first["cache"], first["client"]) == (3000, "HIT store", "pip/26.3")
    assert "secret" not in str(logs)
    assert "\r" not in str(second["path"])
    assert len(second["client"]) <= 81


async def test_requests_are_counted(served: Served) -> None:
    for target in ("/livez", "/nothing", "//host/"):
        await served.get(target)
    assert served.counters["requests"] == 3
    exposition = await served.get("/metrics")
    assert b"mirror_requests_total 4\n" in exposition.body
    assert exposition.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_c115_livez_asks_nobody(served: Served) -> None:
    served.repository.failures = dict.fromkeys(("project_page", "project_list"), StoreFailure("read", "k", "w"))
    answer = await served.get("/livez")
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    assert not served.repository.asked


async def test_c115_readyz_follows_the_store(repository: MemoryRepository) -> None:
    trouble: list[StoreFailure] = []
    checks = 0

    async def check() -> None:
        nonlocal checks
        checks += 1
        if trouble:
            raise trouble[0]

    async with serving(repository, check_store=check, upstream_states=lambda: {"pypi": "up"}) as served:
        ready = await served.get("/readyz")
        assert ready.status == 200
        assert b'"pypi":"up"' in ready.body
        trouble.append(StoreFailure("write", "probe", "Read-only file system"))
        assert (await served.get("/readyz")).status == 200
        assert checks == 1
        served.clock.seconds += KEPT
        answers = await asyncio.gather(*(served.get("/readyz") for _ in range(5)))
        assert {a.status for a in answers} == {503}
        assert b"Read-only file system" in answers[0].body
        assert checks == 2
        trouble.clear()
        served.clock.seconds += KEPT
        assert (await served.get("/readyz")).status == 200


async def test_p2_readyz_is_503_while_draining_and_requests_are_answered(repository: MemoryRepository) -> None:
    draining = False
    async with serving(repository, draining=lambda: draining) as served:
        assert (await served.get("/readyz")).status == 200
        draining = True
        assert (await served.get("/readyz")).status == 503
        assert (await served.get("/livez")).status == 200
        assert (await served.get("/simple/demo/")).status == 200


async def test_home_page_shows_the_lines_for_this_host(served: Served) -> None:
    answer = await served.get("/", {"Host": "mirror.example.com:8080"})
    page = answer.body.decode()
    for line in (
        "export PIP_INDEX_URL=http://mirror.example.com:8080/simple/",
        "export UV_DEFAULT_INDEX=http://mirror.example.com:8080/simple/",
        "poetry source add --priority=primary mirror http://mirror.example.com:8080/simple/",
        "pdm config pypi.url http://mirror.example.com:8080/simple/",
    ):
        assert line in page
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in answer.headers["content-security-policy"]
    assert not re.search(r"<script|src=|https://|@import|url\(|\son\w+=", page)


async def test_public_url_wins_over_host(repository: MemoryRepository) -> None:
    async with serving(repository, public_url="https://pypi.example.com/mirror") as served:
        page = (await served.get("/", {"Host": "internal"})).body
        assert b"https://pypi.example.com/mirror/simple/" in page
        assert b"internal" not in page


@pytest.mark.parametrize("host", ['"><script>', "a b", "", "user@host", "h/x", "h:99999999", "h?x"])
async def test_hostile_host_is_refused_where_it_would_be_shown(served: Served, host: str) -> None:
    for target in ("/", "/demo/json"):
        answer = await served.get(target, {"Host": host})
        assert answer.status == 400
        assert b"<script>" not in answer.body


async def test_body_of_a_get_does_not_disturb(served: Served) -> None:
    async with served.connect() as connection:
        for _ in range(2):
            await connection.send(b"GET /simple/demo/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /")
            assert (await connection.response()).status == 200


async def test_shutdown_cuts_what_is_on_its_way(repository: MemoryRepository) -> None:
    gate = asyncio.Event()
    file = repository.add_file("demo", "big-1.0.tar.gz", Blob(bytes(300_000), streamed=True, gate=gate))
    async with serving(repository) as served:
        connection = served.connect()
        await connection.__aenter__()
        await connection.request("GET", f"/{file.path}")
        await connection.read(100)
    try:
        with pytest.raises((EOFError, ConnectionResetError)):
            await connection.read_exactly(300_000)
    finally:
        connection.close()
    assert repository.streams[0].closed
