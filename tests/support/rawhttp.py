"""A raw HTTP/1.1 client: sends exactly the bytes given and tells whether what came back was complete."""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Ending(enum.Enum):
    """How the body of a response ended."""

    COMPLETE = "Content-Length met, final chunk seen, or no body allowed"
    CLOSED = "closed by the server, without framing that could tell a whole body from a part"
    CUT = "closed by the server before the promised end"
    RESET = "reset by the server"


@dataclass(frozen=True)
class RawResponse:
    """One response; header names in lower case, several of one name in order."""

    version: str
    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    body: bytes
    """Without chunk framing, Content-Encoding left on; what arrived of it if it was cut."""
    ending: Ending

    @property
    def complete(self) -> bool:
        return self.ending is Ending.COMPLETE

    @property
    def headers(self) -> dict[str, str]:
        """The last field of each name."""
        return dict(self.fields)


class RawConnection:
    """One TCP connection, as an asynchronous context manager; every wait ends after `timeout` seconds.

    Nothing is read in the background: bytes that the test does not ask for stay in the kernel, so that a
    client that stops reading really stalls its server (`receive_buffer`, in bytes, makes that happen early).
    """

    def __init__(self, host: str, port: int, *, timeout: float = 60.0, receive_buffer: int | None = None) -> None:
        self._address, self._timeout = (host, port), timeout
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._unread = b""

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(self._timeout):
            try:
                await asyncio.get_running_loop().sock_connect(self._socket, self._address)
            except BaseException:  # cancelled, too: `__aexit__` is not called for what was not entered
                self._socket.close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(self._timeout):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def request(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, *, version: str = "HTTP/1.1"
    ) -> None:
        """Sends a request without body; `target` goes out as it is, not encoded."""
        fields = {"Host": f"{self._address[0]}:{self._address[1]}"} | dict(headers or {})
        lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in fields.items())]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def read(self, limit: int = 64 * 1024) -> bytes:
        """Some bytes, at most `limit`; empty once the server has closed. Raises `ConnectionResetError`."""
        if self._unread:
            data, self._unread = self._unread[:limit], self._unread[limit:]
            return data
        async with asyncio.timeout(self._timeout):
            return await asyncio.get_running_loop().sock_recv(self._socket, limit)

    async def read_exactly(self, size: int) -> bytes:
        """`size` bytes. Raises `EOFError` if the server closes before."""
        data, ending = await self._up_to(size)
        if len(data) < size:
            raise EOFError(f"{ending.value}: {len(data)} of {size} bytes")
        return data

    async def read_to_end(self) -> bytes:
        """Everything until the server closes. Raises `ConnectionResetError`."""
        data = bytearray()
        while piece := await self.read():
            data += piece
        return bytes(data)

    async def response(self, method: str = "GET") -> RawResponse:
        """The next response, interim ones skipped; `method` is that of its request.

        Raises `EOFError` if the server closes, and `ConnectionResetError` if it resets, before the head is complete.
        """
        while True:
            head = await self._read_until(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            version, status, reason = f"{first} ".split(" ", 2)
            if not status.startswith("1"):
                break
        fields = tuple((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
        headers = dict(fields)
        if method == "HEAD" or status in ("204", "304"):
            body, ending = b"", Ending.COMPLETE
        elif "chunked" in headers.get("transfer-encoding", "").lower():
            body, ending = await self._chunks()
        elif "content-length" in headers:
            body, ending = await self._up_to(int(headers["content-length"]))
        else:
            body, ending = await self._up_to(None)
            ending = Ending.CLOSED if ending is Ending.CUT else ending
        return RawResponse(version, int(status), reason.strip(), fields, body, ending)

    def half_close(self) -> None:
        """Sends FIN and goes on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Sends RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()

    async def _read_until(self, mark: bytes) -> bytes:
        """What stands before `mark`, which is consumed too."""
        data = b""
        while mark not in data:
            piece = await self.read()
            if not piece:
                raise EOFError(f"closed by the server after {len(data)} bytes")
            data += piece
        found, _, rest = data.partition(mark)
        self._unread = rest + self._unread
        return found

    async def _up_to(self, size: int | None) -> tuple[bytes, Ending]:
        """`size` bytes, or all until the end, and how that went."""
        pieces: list[bytes] = []
        received = 0
        while size is None or received < size:
            try:
                piece = await self.read(64 * 1024 if size is None else min(64 * 1024, size - received))
            except ConnectionResetError:
                return b"".join(pieces), Ending.RESET
            if not piece:
                return b"".join(pieces), Ending.CUT
            pieces.append(piece)
            received += len(piece)
        return b"".join(pieces), Ending.COMPLETE

    async def _chunks(self) -> tuple[bytes, Ending]:
        body = bytearray()
        while True:
            try:
                size = int((await self._read_until(b"\r\n")).partition(b";")[0], 16)
            except ConnectionResetError:
                return bytes(body), Ending.RESET
            except EOFError:
                return bytes(body), Ending.CUT
            piece, ending = await self._up_to(size + 2)
            body += piece[:size]
            if ending is not Ending.COMPLETE:
                return bytes(body), ending
            if not size:
                return bytes(body), Ending.COMPLETE


async def fetch(
    url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, version: str = "HTTP/1.1"
) -> RawResponse:
    """One request on a connection of its own; the target is sent as it stands in `url`."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    async with RawConnection(parts.hostname or "", parts.port or 80) as connection:
        await connection.request(method, target, headers, version=version)
        return await connection.response(method)
