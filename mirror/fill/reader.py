"""One client's way through a download: from any byte, at its own pace, never past what is verified."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from mirror.fill.download import Fill, State
from mirror.model import Origin, Span

PIECE: Final = 256 * 1024
"""Most bytes that a reader takes at once."""
PROVEN: Final = 1024 * 1024
"""Bytes of a file up to which a part of it waits, with its last byte, for the proof of the whole: that is soon there."""


class FillReader:
    """Iterates one client's part of a fill; independent of every other reader. Whoever makes one closes it."""

    def __init__(self, fill: Fill) -> None:
        fill.enter()
        self._fill = fill
        self._at = self._stop = 0
        self._waits = False
        self._first = b""
        self._direct: AsyncGenerator[bytes, None] | None = None
        self._left = False

    @property
    def origin(self) -> Origin:
        """Where the file comes from; known once `begin` has returned."""
        return self._fill.origin

    async def begin(self, span: Span) -> tuple[int, int, int]:
        """Size of the file, start and stop of the part that `span` means; as soon as its first byte may go out.

        Raises `UnsatisfiableSpan`, and the failure if there will be no first byte; the reader is closed then.
        """
        try:
            size = await self._fill.opened()
            start, self._stop = span.resolve(size)
            self._at = start
            self._waits = self._stop < size <= PROVEN
            self._first = await self._next()
        except BaseException:  # a client that leaves here is cancelled, and must not stay counted as a reader
            await self.aclose()
            raise
        return size, start, self._stop

    def __aiter__(self) -> FillReader:
        return self

    async def __anext__(self) -> bytes:
        piece, self._first = self._first, b""
        if not piece and not self._left:
            try:
                piece = await self._next()
            except Exception:  # re-raised; a reader that is cancelled is closed by whoever holds it
                await self.aclose()
                raise
        if not piece:
            await self.aclose()
            raise StopAsyncIteration
        self._at += len(piece)
        return piece

    async def _next(self) -> bytes:
        fill = self._fill
        while True:
            if self._direct is not None:
                return await anext(self._direct, b"")
            if self._at == self._stop > 0:
                return b""  # an empty file goes on to its proof
            readable = min(fill.readable, self._stop)
            if self._waits and fill.state is not State.VERIFIED:
                readable = min(readable, self._stop - 1)
            if self._at < readable:
                return await fill.read(self._at, min(PIECE, readable - self._at))
            match fill.state:
                case State.FAILED:
                    raise fill.failure()
                case State.UNSPOOLED:
                    self._direct = fill.direct(self._at, self._stop, proven=self._waits)
                case State.VERIFIED:
                    return b""
                case State.ARRIVING:
                    await fill.news()

    async def aclose(self) -> None:
        if self._left:
            return
        self._left = True
        self._first = b""
        try:
            if self._direct is not None:
                await self._direct.aclose()
        finally:
            await self._fill.leave()
