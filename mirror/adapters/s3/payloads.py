"""Bodies on their way to an object store: from a file or from a stream, watched, and never ended early."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import zlib
from collections.abc import AsyncGenerator
from typing import Any, Final

from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.payload import Payload

from mirror.adapters.s3.failures import S3Error
from mirror.model import ByteSource

_PIECE: Final = 512 * 1024


class BodyFailed(Exception):
    """What was to be sent could not be read, or was not what had been said: the service is not to blame."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__()


class Watch:
    """The time limit of an upload: how long the service may take for the next piece, or to answer.

    Waiting for where the bytes come from is not counted.
    """

    def __init__(self, idle: float) -> None:
        """`idle`: seconds."""
        self._idle = idle
        self._limit = asyncio.timeout(idle)
        self._running = False

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._running = True

    async def __aexit__(self, *exc: Any) -> None:
        self._running = False
        await self._limit.__aexit__(*exc)

    def service(self) -> None:
        """From now on the service is waited for."""
        self._set(asyncio.get_running_loop().time() + self._idle)

    def source(self) -> None:
        """From now on the source is waited for."""
        self._set(None)

    def _set(self, deadline: float | None) -> None:
        if self._running and not self._limit.expired():
            self._limit.reschedule(deadline)


class WatchedPayload(Payload):
    """What aiohttp sends as a body; unlike a bare generator it knows whether it can be sent again."""

    _autoclose = True

    def __init__(self, size: int, idle: float) -> None:
        super().__init__(None)
        self.length = size
        self.watch = Watch(idle)
        self.error: BaseException | None = None
        """Why the bytes could not be had."""
        self._sending: asyncio.Task[Any] | None = None
        self._transport: asyncio.Transport | None = None

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Exactly `length` bytes; an error where they cannot be had."""
        raise NotImplementedError

    async def crc32(self) -> str:
        """The CRC-32 of the body as S3 wants it, in base64; for one that can be sent again."""
        checksum = 0
        async for piece in self.pieces():
            checksum = await asyncio.to_thread(zlib.crc32, piece, checksum)
        return base64.b64encode(checksum.to_bytes(4, "big")).decode()

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._sending = asyncio.current_task()
        if isinstance(writer, StreamWriter):
            self._transport = writer.transport
        self.watch.source()
        pieces = self.pieces()
        try:
            while (piece := await self._next(pieces)) is not None:
                self.watch.service()
                await writer.write(piece)
                self.watch.source()
        finally:
            self.watch.service()
            await pieces.aclose()

    async def settle(self) -> None:
        """After the request: nothing is read of the source any more, and nothing waits to be sent.

        After an early answer aiohttp goes on reading, and what a dead service does not take it keeps for as long as the
        operating system has hope.
        """
        sending = self._sending
        if sending is not None and not sending.done():
            sending.cancel()
            await asyncio.wait({sending})
        if self._transport is not None and self._transport.is_closing():
            self._transport.abort()

    async def _next(self, pieces: AsyncGenerator[bytes, None]) -> bytes | None:
        try:
            return await anext(pieces, None)
        except BaseException as error:
            self.error = error
            raise

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a body on its way is no text")


class FilePayload(WatchedPayload):
    """The `size` bytes from `start` of an open file, read in threads; can be sent any number of times."""

    def __init__(self, handle: int, start: int, size: int, idle: float) -> None:
        super().__init__(size, idle)
        self._handle, self._start = handle, start

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        position, end = self._start, self._start + self.length
        while position < end:
            piece = await asyncio.to_thread(os.pread, self._handle, min(_PIECE, end - position), position)
            if not piece:
                raise OSError(errno.EIO, "the file has become shorter")
            position += len(piece)
            yield piece


class BytesPayload(WatchedPayload):
    """A body that is at hand; can be sent any number of times."""

    def __init__(self, body: bytes, idle: float) -> None:
        super().__init__(len(body), idle)
        self._body = body

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        for offset in range(0, self.length, _PIECE):
            yield self._body[offset : offset + _PIECE]


class Source:
    """A body of exactly `size` bytes that is read once, in parts."""

    def __init__(self, body: ByteSource, size: int) -> None:
        self._body = body
        self._pieces = aiter(body)
        self._left = size
        self._held = b""
        """What was read and not yet given."""
        self._ended = False
        self.begun = False

    async def take(self, most: int) -> bytes:
        """Some bytes, at least one and at most `most`; the last one of all only once the body has ended.

        Raises what the body raised, or `S3Error` if it is shorter or longer than it should be.
        """
        self.begun = True
        while not self._held:
            self._held = await self._next()
        if len(self._held) == self._left:
            await self.finish()
        piece, self._held = self._held[:most], self._held[most:]
        self._left -= len(piece)
        return piece

    async def take_all(self, size: int) -> bytes:
        """The next `size` bytes."""
        pieces = []
        while size:
            pieces.append(await self.take(size))
            size -= len(pieces[-1])
        return b"".join(pieces)

    async def finish(self) -> None:
        """Makes sure that nothing follows; for an empty body, of which nothing is taken."""
        while not self._ended:
            try:
                piece = await anext(self._pieces)
            except StopAsyncIteration:
                self._ended = True
            else:
                if piece:
                    raise S3Error("the body is longer than was said")

    async def _next(self) -> bytes:
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            raise S3Error(f"the body ended {self._left} bytes early") from None
        if len(piece) > self._left:
            raise S3Error("the body is longer than was said")
        return piece

    async def aclose(self) -> None:
        await self._body.aclose()


class SourcePayload(WatchedPayload):
    """The next `size` bytes of a `Source`; can be sent once."""

    def __init__(self, source: Source, size: int, idle: float) -> None:
        super().__init__(size, idle)
        self._source = source

    @property
    def consumed(self) -> bool:
        return self._source.begun

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        left = self.length
        while left:
            piece = await self._source.take(left)
            left -= len(piece)
            yield piece
