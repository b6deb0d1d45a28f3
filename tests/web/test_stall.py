"""Clients that stop reading, leave, or are slow."""

from __future__ import annotations

import asyncio
import random
import ssl
from typing import Any

import pytest
import trustme
from aiohttp import ClientSession, TCPConnector, web
from structlog.testing import capture_logs

from mirror.counters import Counters
from mirror.flight import Tasks
from mirror.web.app import build_app
from mirror.web.services import Services
from tests.web.conftest import WHEEL
from tests.web.memory import Blob, MemoryRepository, MovableClock, serving

SIZE = 24 << 20
"""More than the kernel buffers between two sockets of one machine."""


@pytest.mark.parametrize("streamed", [False, True])
async def test_p6_stalled_client_is_dropped_and_disturbs_nobody(repository: MemoryRepository, streamed: bool) -> None:
    file = repository.add_file("demo", "big-1.0.tar.gz", Blob(bytes(SIZE), streamed=streamed))
    async with serving(repository, stall_timeout=0.4) as served, served.connect(receive_buffer=4096) as stalled:
        await stalled.request("GET", f"/{file.path}")
        await stalled.read(100)
        for _ in range(20):
            assert (await served.get(f"/packages/ab/cd/{WHEEL}")).status == 200
        assert len((await served.get(f"/{file.path}")).body) == SIZE
        await served.counted("responses_aborted")
        await served.settled()
        with pytest.raises((EOFError, ConnectionResetError)):
            await stalled.read_exactly(SIZE)


@pytest.mark.parametrize("target", ["/simple/", f"/packages/ab/cd/{WHEEL}.metadata"])
async def test_p6_client_that_reads_no_page_is_dropped(repository: MemoryRepository, target: str) -> None:
    repository.names = tuple(f"project-{random.Random(i).randbytes(8).hex()}" for i in range(100_000))
    repository.sidecars[f"packages/ab/cd/{WHEEL}", "metadata"] = bytes(SIZE)
    async with serving(repository, stall_timeout=0.4) as served, served.connect(receive_buffer=4096) as stalled:
        for _ in range(8):
            await stalled.request("GET", target)
        await served.counted("responses_aborted")
        await served.settled()
        assert (await served.get("/simple/demo/")).status == 200


@pytest.mark.parametrize("streamed", [False, True])
async def test_slow_client_is_not_a_stalled_one(repository: MemoryRepository, streamed: bool) -> None:
    content = random.Random(5).randbytes(4 << 20)
    file = repository.add_file("demo", "big-1.0.tar.gz", Blob(content, streamed=streamed))
    async with serving(repository, stall_timeout=0.5) as served, served.connect(receive_buffer=64 * 1024) as slow:
        await slow.request("GET", f"/{file.path}")
        received = b""
        while len(received) < len(content):
            received += await slow.read(128 * 1024)
            await asyncio.sleep(0.03)  # in all longer than the patience, each pause far shorter
        assert received.endswith(content[-1000:])
        assert served.counters["responses_aborted"] == 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_client_that_leaves_is_no_error(repository: MemoryRepository, streamed: bool) -> None:
    file = repository.add_file("demo", "big-1.0.tar.gz", Blob(bytes(SIZE), streamed=streamed))
    with capture_logs() as logs:
        async with serving(repository, access_log=True) as served:
            async with served.connect(receive_buffer=4096) as leaving:
                await leaving.request("GET", f"/{file.path}")
                await leaving.read(100)
                leaving.abort()
            while not any(line.get("outcome") == "client left" for line in logs):
                await asyncio.sleep(0.01)
            assert served.counters["responses_aborted"] == 0
            assert (await served.get("/livez")).status == 200
            await served.settled()
    assert not [line for line in logs if line["log_level"] in ("warning", "error")]


async def test_large_file_over_tls_goes_out_without_sendfile(repository: MemoryRepository) -> None:
    content = random.Random(7).randbytes(3 << 20)
    file = repository.add_file("demo", "big-1.0.tar.gz", Blob(content))
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    runner = web.AppRunner(build_app(_services(repository)), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server)
        await site.start()
        url = f"https://localhost:{runner.addresses[0][1]}/{file.path}"
        async with ClientSession(connector=TCPConnector(ssl=client)) as session:
            for _ in range(2):
                async with session.get(url) as answer:
                    assert await answer.read() == content
    finally:
        await runner.cleanup()


def _services(repository: MemoryRepository, **settings: Any) -> Services:
    async def usable() -> None:
        return None

    counters = Counters()
    return Services(
        repository=repository,
        counters=counters,
        clock=MovableClock(),
        tasks=Tasks(counters),
        instance="mirror-under-test",
        check_store=usable,
        access_log=False,
        **settings,
    )
