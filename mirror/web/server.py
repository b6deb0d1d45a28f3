"""Listening: binds the application to its addresses and lets transfers finish when the process is told to end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mirror.errors import StartError
from mirror.settings.addresses import Address, TcpAddress, UnixAddress
from mirror.web.connections import Runner

BACKLOG: Final = 1024
SAME_BREATH: Final = 1.0
"""Seconds within which two signals count as one: supervisors signal a process and its group."""

log = structlog.get_logger()


class Stop:
    """Whether the process has been told to end. A second SIGINT or SIGTERM ends it without further ado."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._first = 0.0

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    async def wait(self) -> None:
        await self._asked.wait()

    def ask(self) -> None:
        self._asked.set()

    def on_signals(self) -> None:
        """Lets SIGINT and SIGTERM ask."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: signal.Signals) -> None:
        now = asyncio.get_running_loop().time()
        if self.asked:
            if now - self._first < SAME_BREATH:
                return
            log.warning("told twice to end, ending at once", signal=number.name)
            os._exit(128 + number)
        self._first = now
        log.info("told to end, finishing transfers", signal=number.name)
        self.ask()


@asynccontextmanager
async def listening(
    app: web.Application, addresses: Sequence[Address], drain_timeout: float
) -> AsyncIterator[list[str]]:
    """Serves `app` on `addresses` within the context, and yields them with the ports that they really have.

    At the end no new connection is taken, idle ones are closed, and requests on their way have
    `drain_timeout` seconds to finish. Raises `StartError` if an address cannot be had.
    """
    runner = Runner(
        app,
        handle_signals=False,
        access_log=None,
        logger=_logger(),
        shutdown_timeout=drain_timeout,
        auto_decompress=False,
    )
    await runner.setup()
    try:
        yield [str(each) for address in addresses for each in await _listen(runner, address)]
    finally:
        await runner.cleanup()


class _Briefly(logging.Filter):
    """Tells of a request that is no HTTP in one line: a traceback for each would let any client flood the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg, record.args = "malformed request: %s", (type(error).__name__,)
            record.levelno, record.levelname, record.exc_info = logging.INFO, "INFO", None
        return logging.getLogger(record.name).isEnabledFor(record.levelno)


def _logger() -> logging.Logger:
    """What aiohttp tells of connections, where no request has come so far as to be logged as one."""
    logger = logging.getLogger("mirror.web.server")
    if not logger.filters:
        logger.addFilter(_Briefly())
    return logger


async def _listen(runner: web.AppRunner, address: Address) -> list[Address]:
    try:
        if isinstance(address, UnixAddress):
            await asyncio.to_thread(_remove_dead_socket, address.path)
            await web.UnixSite(runner, str(address.path), backlog=BACKLOG).start()
            return [address]
        site = web.TCPSite(runner, address.host or None, address.port, backlog=BACKLOG)
        await site.start()
    except OSError as e:
        raise StartError(f"cannot listen on {address}: {_reason(e)}") from e
    return _bound(site, address)


def _bound(site: web.TCPSite, address: TcpAddress) -> list[Address]:
    """The address with its real port. One host name, or every interface, may stand for several sockets."""
    server = site._server  # aiohttp has no public way to learn the port behind port 0
    sockets = server.sockets if isinstance(server, asyncio.Server) else ()
    ports = {s.getsockname()[1] for s in sockets}
    return [TcpAddress(address.host, port) for port in sorted(ports)]


def _reason(error: OSError) -> str:
    text = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    if isinstance(error, socket.gaierror):
        text = "the host name is unknown"
    return text[:1].lower() + text[1:]


def _remove_dead_socket(path: Path) -> None:
    """A socket that nobody listens on any more is what a crash leaves; anything else stays and is an error."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
