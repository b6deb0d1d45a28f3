"""Writes the body of every answer, so that none that falls short can ever look complete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final, TypeVar

from aiohttp import web

from mirror.model import ByteStream, Content, LocalFile
from mirror.web.sendfile import ClientStalled, SendfileUnavailable, in_thread, send_file
from mirror.web.stall import StallWatch

T = TypeVar("T")

READ_AT_ONCE: Final = 256 << 10
"""Bytes; files up to this size go out with their head in one write, and sendfile begins to pay above it."""

PIECE: Final = 256 << 10
"""Bytes that are read from a file at a time where there is no sendfile."""


class Unfinished(Exception):
    """An answer ended early and its connection is cut; `response` is what there was of it."""

    why = "unfinished"

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response
        super().__init__(self.why)


class ClientLeft(Unfinished):
    """The client closed the connection; no fault of ours."""

    why = "client left"


class ClientTookNothing(Unfinished):
    """The client kept the connection open and read nothing until our patience ended."""

    why = "client stalled"


class BrokenOff(Unfinished):
    """The source of the body failed or did not keep to the declared length; the cause says how."""

    why = "broken off"


class WrongLength(Exception):
    """A body of declared length ended early or went on too long."""

    def __init__(self, declared: int, came: int) -> None:
        super().__init__(f"{declared} bytes were declared and {came} came")


class _Lost(Exception):
    """The connection, not the source of the body, failed; tells the two apart where both raise `ConnectionError`."""


class Sender:
    """Sends answers; a client that takes nothing for `stall_timeout` seconds is cut off."""

    def __init__(self, stall_timeout: float = 60.0) -> None:
        self._stall_timeout = stall_timeout

    async def send_whole(self, request: web.Request, response: web.Response) -> web.Response:
        """Sends an answer whose body is at hand. Raises `ClientLeft` or `ClientTookNothing`."""
        await self._send(request, response, None)
        return response

    async def send_content(
        self, request: web.Request, status: int, headers: Mapping[str, str], content: Content
    ) -> web.StreamResponse:
        """Sends `content`, which is closed in any case.

        Raises what the content raises before its first byte, when another answer can still be given; after it
        `BrokenOff`, `ClientLeft` or `ClientTookNothing`.
        """
        declared = content.stop - content.start
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = declared
        match content:
            case LocalFile() if declared <= READ_AT_ONCE:
                try:
                    body = await in_thread(lambda at: _read(content, at, declared), content.start)
                finally:
                    content.close()
                if len(body) != declared:
                    raise WrongLength(declared, len(body))
                return await self.send_whole(request, web.Response(status=status, headers=headers, body=body))
            case LocalFile():
                try:
                    await self._send(request, response, lambda t: self._send_local(request, response, t, content))
                finally:
                    content.close()
            case ByteStream():
                async with aclosing(content):
                    pieces = aiter(content.body)
                    first = await anext(pieces, b"")
                    await self._send(request, response, lambda _: _copy(response, first, pieces, declared))
        return response

    async def send_pieces(
        self, request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes]
    ) -> web.StreamResponse:
        """Sends an answer whose body is made on the way: chunked, unless `response` declares a length."""
        declared = response.content_length
        first = await anext(pieces, b"")
        await self._send(request, response, lambda _: _copy(response, first, pieces, declared))
        return response

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        write_body: Callable[[asyncio.Transport], Awaitable[None]] | None,
    ) -> None:
        """The one place where answers are written. Anything but a complete answer cuts the connection.

        `write_body` writes exactly what is declared or raises; None where the response holds its body itself.
        """
        transport = request.transport
        if transport is None:
            raise ClientLeft(response)
        with StallWatch(request.writer, transport, self._stall_timeout) as watch:
            try:
                await _to_client(response.prepare(request))
                if write_body is not None:
                    await write_body(transport)
                await _to_client(response.write_eof())
                await _flush(request, transport)
                if watch.ran_out:
                    # aiohttp wakes who waits for a connection that is aborted as if all had been written.
                    raise _Lost
            except BaseException as error:
                # At once and without a terminator. Closed in good order, a short body looks whole to an HTTP/1.0
                # client or behind a chunked head; left open, the next answer would be read as the rest of it.
                transport.abort()
                match error:
                    case _Lost():
                        stalled = watch.ran_out or isinstance(error.__cause__, ClientStalled)
                        raise (ClientTookNothing if stalled else ClientLeft)(response) from error
                    case Exception():
                        raise BrokenOff(response) from error
                raise

    async def _send_local(
        self, request: web.Request, response: web.StreamResponse, transport: asyncio.Transport, content: LocalFile
    ) -> None:
        declared = content.stop - content.start
        await _flush(request, transport)
        try:
            sending = send_file(
                transport, content.handle, content.start, content.stop, stall_timeout=self._stall_timeout
            )
            sent = await _to_client(sending)
        except SendfileUnavailable:
            await _copy(response, b"", file_pieces(content), declared)
        else:
            if sent != declared:
                raise WrongLength(declared, sent)


async def _copy(response: web.StreamResponse, first: bytes, rest: AsyncIterator[bytes], declared: int | None) -> None:
    """Writes `first` and all of `rest`. Checks before it writes, because aiohttp cuts off in silence what is too much."""
    written = len(first)
    if declared is not None and written > declared:
        raise WrongLength(declared, written)
    await _to_client(response.write(first))
    async for piece in rest:
        written += len(piece)
        if declared is not None and written > declared:
            raise WrongLength(declared, written)
        await _to_client(response.write(piece))
    if declared is not None and written != declared:
        raise WrongLength(declared, written)


async def file_pieces(content: LocalFile) -> AsyncGenerator[bytes, None]:
    """The part of a file that was asked for, read in threads."""
    position = content.start
    while piece := await in_thread(lambda at: _read(content, at, min(PIECE, content.stop - at)), position):
        yield piece
        position += len(piece)


def _read(content: LocalFile, position: int, length: int) -> bytes:
    content.handle.seek(position)
    return content.handle.read(length)


async def _flush(request: web.Request, transport: asyncio.Transport) -> None:
    """Waits until the transport has handed everything to the kernel, so that no answer outlives its handler."""
    if transport.get_write_buffer_size() == 0:
        return
    transport.set_write_buffer_limits(high=0)
    try:
        await _to_client(request.writer.drain())
    finally:
        transport.set_write_buffer_limits()


async def _to_client(writing: Awaitable[T]) -> T:
    try:
        return await writing
    except ConnectionError as error:
        raise _Lost from error
