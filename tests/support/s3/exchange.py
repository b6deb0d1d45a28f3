"""One request on its way through the proxy, and its answer on the way back."""

from __future__ import annotations

import asyncio
import http
import socket
import struct
import time
from collections.abc import AsyncIterator, Collection
from typing import Any, Final

from tests.support.s3.calls import S3Call
from tests.support.s3.faults import S3Fault, without_keys
from tests.support.s3.http1 import MAX_HEAD, Head, end_of, framed, pieces, read_head

_HOP: Final = ("connection", "keep-alive")
_CONTINUE: Final = Head("HTTP/1.1 100 Continue", ())


class BrokenOff(Exception):
    """The connection is over because a fault says so, or because the client has left."""


class Incoming(asyncio.StreamReader):
    """What a client sends, which tells at once when the client has left, also while data are unread."""

    left = False

    def feed_eof(self) -> None:
        self.left = True
        super().feed_eof()


class Exchange:
    """A request whose head has been read, and the fault that it meets; `reusable` says whether another may follow."""

    def __init__(
        self, reader: Incoming, writer: asyncio.StreamWriter, head: Head, call: S3Call, fault: S3Fault
    ) -> None:
        self._reader, self._writer, self._head, self._call, self._fault = reader, writer, head, call, fault
        self._read_whole = False

    @property
    def reusable(self) -> bool:
        return self._read_whole and (self._head.get("connection") or "").lower() != "close"

    async def hold_up(self) -> None:
        """What happens before the service gets the request. Raises `BrokenOff`."""
        await asyncio.sleep(self._fault.delay)
        if self._fault.reset:
            await self._reset()
        if self._fault.hang:
            await self._hang()

    async def replace(self) -> None:
        """Gives the fault's answer to a request that the service never sees."""
        if self._expects_leave:
            self._writer.write(_CONTINUE.encode())
        async for _ in self._request_body():
            pass
        await self._send(*self._replacement())

    async def forward(self, port: int, hidden: Collection[str]) -> None:
        """Gives the request to the service at `port`, and its answer to the client; listings lack the keys `hidden`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MAX_HEAD)
        try:
            async with asyncio.TaskGroup() as group:
                upload = group.create_task(self._upload(writer))
                await self._relay(reader, hidden)
                upload.cancel()  # it has come to its end, or the service did not want the rest
        finally:
            writer.transport.abort()

    async def _upload(self, service: asyncio.StreamWriter) -> None:
        head = self._head.without((*_HOP, *self._fault.ignored)).adding(("Connection", "close"))
        service.write(head.encode())
        async for piece in self._request_body():
            service.write(framed(piece, head))
            try:
                await service.drain()
            except ConnectionError:
                return  # it takes no more; what it has answered counts
        service.write(end_of(head))

    async def _request_body(self) -> AsyncIterator[bytes]:
        async for piece in pieces(self._reader, self._head, until_closed=False):
            self._call.received += len(piece)
            yield piece
        self._read_whole = True

    async def _relay(self, service: asyncio.StreamReader, hidden: Collection[str]) -> None:
        while (head := await read_head(service)).status == http.HTTPStatus.CONTINUE:
            if self._expects_leave:
                self._writer.write(head.encode())
        if head.status < http.HTTPStatus.MULTIPLE_CHOICES:
            self._call.fulfilled_at = time.monotonic()
        body = pieces(service, head, until_closed=True) if self._has_body(head) else _all_of(b"")
        if self._fault.done:
            async for _ in body:
                pass
            head, body = self._replacement()
        elif hidden:
            shown = without_keys(b"".join([piece async for piece in body]), hidden)
            head, body = head.sized(len(shown)), _all_of(shown)
        if self._fault.hang_answer:
            await self._hang()
        await self._send(head, body)

    def _replacement(self) -> tuple[Head, AsyncIterator[bytes]]:
        replacement = self._fault.answer(self._call)
        assert replacement is not None, "a fault with `done` has an error or a status"
        status, headers, body = replacement
        head = Head(f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", tuple(headers.items()))
        return head.sized(len(body)), _all_of(body)

    async def _send(self, head: Head, body: AsyncIterator[bytes]) -> None:
        """Sends it as the fault says. Raises `BrokenOff`."""
        head = head.without(_HOP).adding(*self._fault.headers.items())
        if self._has_body(head) and head.get("content-length") is None:
            head = head.adding(("Transfer-Encoding", "chunked"))
        self._call.status = head.status
        self._writer.write(head.encode())
        await self._suffer()
        if self._has_body(head):
            async for piece in self._spoilt(body):
                self._writer.write(framed(piece, head))
                await self._writer.drain()
                self._call.sent += len(piece)
                await self._suffer()
            self._writer.write(end_of(head))
        await self._writer.drain()

    async def _spoilt(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same bytes but for one bit, in pieces that end wherever the fault has something to happen."""
        fault, at = self._fault, 0
        async for piece in body:
            rest = bytearray(piece)
            if fault.flip_bit_at is not None and at <= fault.flip_bit_at < at + len(rest):
                rest[fault.flip_bit_at - at] ^= 1
            while rest:
                marks = (fault.hang_after, fault.cut_after, fault.reset_after)
                size = min([len(rest), *(mark - at for mark in marks if mark is not None and mark > at)])
                at += size
                yield bytes(rest[:size])
                del rest[:size]

    async def _suffer(self) -> None:
        """What happens after so many bytes of the answer. Raises `BrokenOff`."""
        sent, fault = self._call.sent, self._fault
        if sent == fault.hang_after:
            await self._hang()
        if sent == fault.reset_after:
            await self._reset()
        if sent == fault.cut_after:
            self._writer.close()
            await self._writer.wait_closed()
            raise BrokenOff

    async def _hang(self) -> None:
        """Waits until the fault is released. Raises `BrokenOff` if the client leaves before."""
        fault = self._fault
        fault.hanging += 1
        try:
            while not fault.released:
                if self._reader.left or self._writer.is_closing():
                    raise BrokenOff
                await asyncio.sleep(0.01)
        finally:
            fault.hanging -= 1

    async def _reset(self) -> None:
        """Sends RST instead of FIN, once everything before it has left this process. Raises `BrokenOff`."""
        transport: Any = self._writer.transport
        while transport.get_write_buffer_size() and not transport.is_closing():
            await asyncio.sleep(0.001)
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        raise BrokenOff

    def _has_body(self, head: Head) -> bool:
        return self._call.method != "HEAD" and head.status not in (http.HTTPStatus.NO_CONTENT, 304)

    @property
    def _expects_leave(self) -> bool:
        return (self._head.get("expect") or "").lower() == "100-continue"


async def _all_of(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body
