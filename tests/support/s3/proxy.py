"""A proxy before an S3 service that notes every request, and behaves as services do on bad days where it is told to.

Heads pass as they are, Host included, so that signatures hold; bodies stream through in both directions.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

from tests.support.s3.calls import S3Call, call_of
from tests.support.s3.exchange import BrokenOff, Exchange, Incoming
from tests.support.s3.faults import S3Fault
from tests.support.s3.http1 import MAX_HEAD, read_head
from tests.support.s3.services import S3Service, free_port

_PATIENCE: Final = 60.0
"""Seconds after which what is waited for counts as never happening; a machine under load may be slow."""

_WRITES: Final = frozenset({"PutObject", "CopyObject", "CompleteMultipartUpload"})


class FaultProxy:
    """A proxy on 127.0.0.1 in a thread of its own, as a synchronous context manager; it is an `Endpoint`.

    Everything may be called from any thread.
    """

    def __init__(self, service: S3Service) -> None:
        self.service = service
        self.access_key, self.secret_key, self.region = service.access_key, service.secret_key, service.region
        self.port = free_port()
        self.log: list[S3Call] = []
        """Every request, in the order in which their heads were complete."""
        self._faults: list[S3Fault] = []
        self._writes: list[S3Call] = []
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.refuse()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @property
    def endpoint_url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    def fault(self, key: str = "*", **switches: Any) -> S3Fault:
        """Makes requests for keys that match the glob go wrong; the newest fault that matches wins.

        The switches are the fields of `S3Fault`: `proxy.fault("files/*", method="GET", error="SlowDown", times=2)`.
        """
        fault = S3Fault(key=key, **switches)
        self._faults = [fault, *self._faults]
        return fault

    def heal(self) -> None:
        """Ends all faults, also for answers that hang."""
        healed, self._faults = self._faults, []
        for fault in healed:
            fault.release()

    def refuse(self) -> None:
        """Plays dead: refuses connections and breaks off those that exist. Raises what went wrong in here."""
        self._run(self._close())
        failures, self._failures = self._failures, []
        if failures:
            raise BaseExceptionGroup("the proxy itself failed", failures)

    def accept(self) -> None:
        """Listens, at first and after `refuse`."""
        self._run(self._listen())

    def requests(self, method: str | None = None, key: str = "*", operation: str | None = None) -> list[S3Call]:
        """Those of this method and operation, if they are given, on keys that match the glob."""
        return [call for call in self.log if call.matches(method, key, operation)]

    def calls(self, method: str | None = None, key: str = "*", operation: str | None = None) -> int:
        """How many there were of them."""
        return len(self.requests(method, key, operation))

    def reset_log(self) -> None:
        """Forgets what was asked so far."""
        self.log = []

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Returns once `condition` holds; `TimeoutError` after a minute. Not on an event loop: `asyncio.to_thread`."""
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError("what a test waits for has not happened")
            time.sleep(0.005)  # between two looks; in a thread, as the docstring asks

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE)

    async def _listen(self) -> None:
        def connection() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(Incoming(MAX_HEAD, self._loop), self._serve, self._loop)

        assert self._server is None
        self._server = await self._loop.create_server(connection, "127.0.0.1", self.port)

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await _a_few_rounds()  # what was accepted in the last moment becomes a connection
        for connection in self._connections:
            connection.cancel()
        late = asyncio.all_tasks() - {asyncio.current_task()}
        for task in late:
            task.cancel()
        await asyncio.gather(*self._connections, *late, return_exceptions=True)
        if server is not None:
            await server.wait_closed()
        await _a_few_rounds()  # what was closed lets go of its socket

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert isinstance(reader, Incoming)
        self._connections.add(task)
        task.add_done_callback(self._ended)
        try:
            while await self._serve_one(reader, writer):
                pass
            writer.close()
            await writer.wait_closed()
        except* (ConnectionError, asyncio.IncompleteReadError, BrokenOff, asyncio.CancelledError):
            pass  # client or service has left, a fault says so, or the proxy closes: the connection is over either way
        finally:
            writer.transport.abort()

    def _ended(self, connection: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        if not connection.cancelled() and (error := connection.exception()):
            self._failures.append(error)

    async def _serve_one(self, reader: Incoming, writer: asyncio.StreamWriter) -> bool:
        """Serves the next request; whether another may follow."""
        head = await read_head(reader)
        call = call_of(head)
        self.log.append(call)
        if call.operation in _WRITES:
            self._writes.append(call)
        fault = next((fault for fault in self._faults if fault.takes(call)), S3Fault())
        exchange = Exchange(reader, writer, head, call, fault)
        await exchange.hold_up()
        if fault.answer(call) is not None and not fault.done:
            await exchange.replace()
        else:
            await exchange.forward(self.service.port, self._hidden(call.bucket, fault))
        return exchange.reusable

    def _hidden(self, bucket: str, fault: S3Fault) -> set[str]:
        """The keys that a listing lacks."""
        if fault.lag is None or fault.released:
            return set()
        since = time.monotonic() - fault.lag
        return {
            call.key
            for call in self._writes
            if call.bucket == bucket and call.fulfilled_at is not None and call.fulfilled_at > since
        }


async def _a_few_rounds() -> None:
    """Lets the loop do what it has been asked to do already, and what follows from that at once."""
    for _ in range(5):
        await asyncio.sleep(0)
