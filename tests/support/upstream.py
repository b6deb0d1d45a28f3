"""A scripted upstream: an index on a loopback port that behaves as PyPI does until it is told not to.

It speaks HTTP by hand rather than with the library that the mirror uses, so that it can break every rule of
framing, and so that no fault of that library can hide on both sides of a connection.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

from tests.support.faults import NO_FAULT, Fault, Sender
from tests.support.packages import Project
from tests.support.pages import MINIMAL, Style
from tests.support.site import Request, Site

_MAX_HEAD = 64 * 1024
_PATIENCE: Final = 60.0
"""Seconds after which what is waited for counts as never happening; a machine under load may be slow."""


class ScriptedUpstream:
    """An index on 127.0.0.1, as an asynchronous context manager.

    Keyword arguments replace fields of `Style`; with `json=False` those of `MINIMAL` apply, as isolated
    machines often see their index. Everything but `start` and `stop` may be called from any thread.
    """

    def __init__(self, projects: Iterable[Project] = (), *, tls: ssl.SSLContext | None = None, **style: Any) -> None:
        self._tls = tls
        self.site = Site(projects, replace(MINIMAL if style.get("json") is False else Style(), **style))
        self.requests: Counter[str] = Counter()
        """Requests by decoded path."""
        self.log: list[Request] = []
        """Every request, in the order in which their heads were complete."""
        self.sent: Counter[str] = Counter()
        """Bytes of bodies sent, by decoded path."""
        self.ports: tuple[int, int] = (0, 0)
        """Of the index and of the second origin, where files lie if `links` is "other"."""
        self._faults: list[Fault] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._alive = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens; after `stop` on the same ports as before."""
        self._alive = True
        for port in self.ports:
            self._servers.append(
                await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self._tls, limit=_MAX_HEAD)
            )
        first, second = (server.sockets[0].getsockname()[1] for server in self._servers)
        self.ports = (first, second)

    async def stop(self) -> None:
        """Plays dead: refuses connections and breaks off those that exist. Raises what went wrong in here."""
        self._alive = False
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for server in servers:
            await server.wait_closed()
        failures, self._failures = self._failures, []
        if failures:
            raise BaseExceptionGroup("the scripted upstream itself failed", failures)

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:port/`."""
        return self._origin(self.ports[0])

    @property
    def url(self) -> str:
        """The simple index."""
        return f"{self.origin}simple/"

    def publish(self, *projects: Project) -> None:
        """Adds projects, or replaces what the index says of them."""
        for project in projects:
            self.site.publish(project)

    def withdraw(self, name: str) -> None:
        """Removes a project and its files."""
        self.site.withdraw(name)

    def fault(self, pattern: str, **switches: Any) -> Fault:
        """Makes requests to decoded paths that match the glob go wrong; the newest fault that matches wins.

        The switches are the fields of `Fault`: `upstream.fault("/packages/*", cut_after=1000, times=1)`.
        """
        fault = Fault(pattern=pattern, **switches)
        self._faults = [fault, *self._faults]
        return fault

    def heal(self) -> None:
        """Ends all faults, also for answers that hang."""
        healed, self._faults = self._faults, []
        for fault in healed:
            fault.release()

    def reset_counts(self) -> None:
        """Forgets what was asked so far."""
        self.requests, self.log, self.sent = Counter(), [], Counter()

    async def wait_for(self, path: str, count: int = 1) -> None:
        """Returns once `path` has been asked for `count` times; `TimeoutError` after a minute."""
        async with asyncio.timeout(_PATIENCE):
            while self.requests[path] < count:
                await asyncio.sleep(0.005)

    def _origin(self, port: int) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{port}/"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._ended)
        try:
            while self._alive and await self._serve_one(reader, writer):
                pass
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client has left, or speaks no HTTP: either way this connection is over
        finally:
            writer.transport.abort()

    def _ended(self, connection: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        if not connection.cancelled() and (error := connection.exception()):
            self._failures.append(error)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = _parse(await reader.readuntil(b"\r\n\r\n"))
        await reader.readexactly(int(request.headers.get("content-length", "0")))
        path = request.path
        self.log.append(request)
        self.requests[path] += 1
        fault = next((fault for fault in self._faults if fault.takes(request)), NO_FAULT)
        file_origin = self._origin(self.ports[1 if self.site.style.links == "other" else 0])
        answer = fault.spoil(self.site.answer(request, file_origin), request)
        sender = Sender(reader, writer, request, fault)
        try:
            keep = await sender.send(answer)
            await writer.drain()
        finally:
            self.sent[path] += sender.sent
        return keep


class ThreadedUpstream(ScriptedUpstream):
    """The same in a thread and loop of its own, as a synchronous context manager for tests that run clients."""

    def __init__(self, projects: Iterable[Project] = (), *, tls: ssl.SSLContext | None = None, **style: Any) -> None:
        super().__init__(projects, tls=tls, **style)
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted upstream", daemon=True)
        self._thread.start()
        self.start_now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop_now()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def start_now(self) -> None:
        """`start`, from the caller's thread."""
        asyncio.run_coroutine_threadsafe(self.start(), self._loop).result(_PATIENCE)

    def stop_now(self) -> None:
        """`stop`, from the caller's thread."""
        asyncio.run_coroutine_threadsafe(self.stop(), self._loop).result(_PATIENCE)


def _parse(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3:
        raise ConnectionAbortedError("a client that does not speak HTTP")
    method, target, version = words
    pairs = (line.partition(":") for line in lines)
    return Request(method, target, {name.lower(): value.strip() for name, _, value in pairs}, version)
