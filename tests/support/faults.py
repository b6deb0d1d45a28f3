"""The faults that a scripted upstream can be told to have, and how an answer with one goes out."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from tests.support.site import Answer, Request

Framing = Literal["length", "chunked", "close"]
_PIECE = 256 * 1024
_PORTAL = b"<!DOCTYPE html><html><body><form action='/login'>Please log in to this network.</form></body></html>"


@dataclass(kw_only=True)
class Fault:
    """What goes wrong for requests whose decoded path matches the glob `pattern`; switches may be combined.

    All offsets count bytes of the body as sent, after any Content-Encoding; times are in seconds.
    """

    pattern: str
    method: str | None = None
    times: int | None = None
    """How many matching requests it hits; None = all."""
    skip: int = 0
    """How many matching requests it lets pass first."""

    # what is answered
    status: int | None = None
    """Answers with this status and, unless `body` is given, a short text."""
    body: bytes | None = None
    content_type: str | None = None
    html_instead: bool = False
    """The log-in page of a captive portal, with status 200."""
    redirect: str | None = None
    """Location of a 302 (or of `status`); `{path}` in it stands for the path asked for."""
    gzip_bomb: int | None = None
    """So many zero bytes, gzipped, under the headers of the real answer."""
    wrong_length: int = 0
    """Makes the body so many bytes longer or, if negative, shorter, and the framing agree with it."""
    corrupt_byte_at: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    """Added or replaced; None removes one. An own Content-Length is sent as it is, right or wrong."""

    # how it is sent
    framing: Framing = "length"
    delay: float = 0.0
    hang_before_headers: bool = False
    hang_mid_body: bool | int = False
    """Hangs after half of the body, or after so many bytes; `release` lets it go on."""
    rate: int | None = None
    """Bytes per second."""
    dribble: float | None = None
    """Seconds between single bytes."""
    cut_after: int | None = None
    """Closes the connection, in good order, after so many bytes of the body; framed for the whole body."""
    rst_after: int | None = None
    """Resets the connection after so many bytes of the body."""
    raw: bytes | None = None
    """Sent instead of everything, head included; then the connection is closed."""

    hits: int = 0
    """How many requests it has hit."""
    hanging: int = 0
    """How many answers stand still just now, everything before being on its way."""
    released: bool = False
    seen: int = 0

    def release(self, until: int | None = None) -> None:
        """Lets answers that hang go on, and later ones not hang: to byte `until` of the body, or to its end."""
        if until is None:
            self.released = True
        else:
            self.hang_mid_body = until

    def takes(self, request: Request) -> bool:
        """Whether it hits this request; counts it."""
        if not fnmatchcase(request.path, self.pattern) or self.method not in (None, request.method):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    def spoil(self, answer: Answer, request: Request) -> Answer:
        """The answer with everything wrong in it that can be wrong before it is framed."""
        answer = replace(answer, headers=dict(answer.headers))
        if self.redirect is not None:
            location = self.redirect.replace("{path}", request.path)
            answer = Answer(self.status or 302, {"Location": location})
        elif self.status is not None:
            answer = Answer(self.status, {"Content-Type": "text/plain"}, b"this is a fault\n")
        elif self.html_instead:
            answer = Answer(200, {"Content-Type": "text/html"}, _PORTAL)
        if self.gzip_bomb is not None:
            answer.body = gzip.compress(bytes(self.gzip_bomb), 9)
            answer.headers["Content-Encoding"] = "gzip"
        if self.body is not None:
            answer.body = self.body
            answer.headers.pop("Content-Encoding", None)
        if self.content_type is not None:
            answer.headers["Content-Type"] = self.content_type
        if self.wrong_length > 0:
            answer.body += bytes(self.wrong_length)
        elif self.wrong_length < 0:
            answer.body = answer.body[: self.wrong_length]
        if self.corrupt_byte_at is not None:
            spoilt = bytearray(answer.body)
            spoilt[self.corrupt_byte_at] ^= 0xFF
            answer.body = bytes(spoilt)
        return answer


NO_FAULT = Fault(pattern="")


class Sender:
    """Frames one answer and sends it; says afterwards whether the connection may be used again."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request, fault: Fault
    ) -> None:
        self._reader, self._writer, self._request, self._fault = reader, writer, request, fault
        self.sent = 0
        """Bytes of the body, without framing, given to the connection."""

    async def send(self, answer: Answer) -> bool:
        fault = self._fault
        await asyncio.sleep(fault.delay)
        if fault.hang_before_headers:
            await self._hang(lambda: True)
        if fault.raw is not None:
            self._writer.write(fault.raw)
            return False
        keep = self._request.version == "HTTP/1.1" and self._request.headers.get("connection", "").lower() != "close"
        keep = keep and fault.framing != "close"
        self._writer.write(self._head(answer, keep))
        if self._request.method == "HEAD" or answer.status in (204, 304):
            return keep
        return await self._send_body(answer.body) and keep

    def _head(self, answer: Answer, keep: bool) -> bytes:
        fault = self._fault
        headers = dict(answer.headers)
        match fault.framing:
            case "length" if answer.status not in (204, 304):
                headers["Content-Length"] = str(len(answer.body))
            case "chunked":
                headers["Transfer-Encoding"] = "chunked"
        if not keep:
            headers["Connection"] = "close"
        for name, value in fault.headers.items():
            headers = {known: v for known, v in headers.items() if known.lower() != name.lower()}
            if value is not None:
                headers[name] = value
        version = "HTTP/1.0" if fault.framing == "close" else "HTTP/1.1"
        lines = [f"{version} {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def _send_body(self, body: bytes) -> bool:
        """Sends it as the fault says; False if the connection is spent."""
        fault = self._fault
        piece = max(1, fault.rate // 50) if fault.rate else 1 if fault.dribble is not None else _PIECE
        view = memoryview(body)
        while True:
            if self.sent == fault.rst_after:
                await self._reset()
                return False
            if self.sent == fault.cut_after:
                return False
            if self.sent == self._hang_at(body):
                await self._hang(lambda: self.sent == self._hang_at(body))
            if self.sent >= len(body):
                break
            marks = (fault.cut_after, fault.rst_after, self._hang_at(body))
            stop = min([self.sent + piece, len(body), *(mark for mark in marks if mark and mark > self.sent)])
            await self._send_piece(view[self.sent : stop])
            self.sent = stop
            if fault.rate:
                await asyncio.sleep(piece / fault.rate)
            elif fault.dribble is not None:
                await asyncio.sleep(fault.dribble)
        if fault.framing == "chunked":
            self._writer.write(b"0\r\n\r\n")
        return True

    async def _send_piece(self, piece: memoryview) -> None:
        if self._fault.framing == "chunked":
            self._writer.write(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)))
        else:
            self._writer.write(piece)
        await self._writer.drain()

    def _hang_at(self, body: bytes) -> int | None:
        where = self._fault.hang_mid_body
        if where is False:
            return None
        return len(body) // 2 if where is True else where

    async def _hang(self, here: Callable[[], bool]) -> None:
        """Waits until the fault is released, or not any more `here`, or the client has left; `stop` cancels it."""
        fault = self._fault
        fault.hanging += 1
        try:
            while here() and not (fault.released or self._writer.is_closing() or self._reader.at_eof()):
                await asyncio.sleep(0.01)
        finally:
            fault.hanging -= 1

    async def _reset(self) -> None:
        """Sends RST instead of FIN, once everything before it has left this process."""
        transport = self._writer.transport
        while transport.get_write_buffer_size() and not transport.is_closing():
            await asyncio.sleep(0.001)
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
