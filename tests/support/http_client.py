"""An `HttpUpstream` set up for a test, and servers and sockets for what no HTTP library would send."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from mirror.adapters.http.upstream import HttpUpstream, UpstreamOptions
from mirror.adapters.system_clock import SystemClock
from mirror.counters import Counters
from mirror.model import File
from mirror.ports import Clock
from tests.support.packages import Archive

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Rig:
    """A client that has been started, and what it counts."""

    upstream: HttpUpstream
    counters: Counters


@asynccontextmanager
async def client(url: str, *, clock: Clock | None = None, proxied: bool = False, **options: Any) -> AsyncIterator[Rig]:
    """A client of the index at `url` that repeats without much waiting; `options` are those of `UpstreamOptions`.

    It minds the proxies of the environment only if `proxied`.
    """
    counters = Counters()
    chosen = UpstreamOptions(url=url, **({"retry_wait": 0.001} | options))
    with pytest.MonkeyPatch.context() as patch:
        if not proxied:
            for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                patch.delenv(name, raising=False)
        upstream = HttpUpstream(chosen, counters, clock or SystemClock())
    await upstream.start()
    try:
        yield Rig(upstream, counters)
    finally:
        await upstream.aclose()


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[str]:
    """The origin (`http://127.0.0.1:port/`) of a server that gives each connection to `handler` and then closes it."""
    running: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await handler(reader, writer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            running.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()


def replying(*pieces: bytes) -> Handler:
    """A handler that reads one request and answers these very bytes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return handle


def closed_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def black_hole(port: int = 0) -> Iterator[int]:
    """A port of 127.0.0.1 at which connections are never made: its queue is full, so the kernel drops each SYN."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


def entry(archive: Archive, origin: str, **changes: Any) -> File:
    """The page's entry for an archive that lies at `origin`."""
    fields: dict[str, Any] = {
        "filename": archive.filename,
        "url": f"{origin}{archive.path}",
        "path": archive.path,
        "hashes": {"sha256": archive.sha256},
        "size": archive.size,
    }
    return File(**(fields | changes))
