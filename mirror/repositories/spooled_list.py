"""The list of all projects while no store takes it: served out of its spool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from mirror.model import ByteStream, Origin
from mirror.spool import Spool

PIECE: Final = 256 * 1024
"""Bytes read at a time."""


class SpooledList:
    """A complete spool, with any number of readers. Whoever makes one retires it."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._readers = 0
        self._retired = False

    def open(self, stop: int) -> ByteStream:
        """The first `stop` bytes."""
        self._readers += 1
        return ByteStream(_Pieces(self, stop), self._spool.size, 0, stop, Origin.UPSTREAM)

    async def read(self, position: int, length: int) -> bytes:
        return await asyncio.to_thread(self._spool.read, position, length)

    async def leave(self) -> None:
        """A reader is gone."""
        self._readers -= 1
        await self._put_away()

    async def retire(self) -> None:
        """It is removed as soon as nobody reads it."""
        self._retired = True
        await self._put_away()

    async def _put_away(self) -> None:
        if self._retired and not self._readers:
            await asyncio.to_thread(dispose, self._spool)

    def close(self) -> None:
        """Removes it at once."""
        dispose(self._spool)


class _Pieces:
    def __init__(self, owner: SpooledList, stop: int) -> None:
        self._owner, self._at, self._stop = owner, 0, stop
        self._left = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._left or self._at >= self._stop:
            raise StopAsyncIteration
        piece = await self._owner.read(self._at, min(PIECE, self._stop - self._at))
        self._at += len(piece)
        return piece

    async def aclose(self) -> None:
        if not self._left:
            self._left = True
            await self._owner.leave()


def dispose(spool: Spool) -> None:
    """Removes and closes a spool."""
    spool.discard()
    spool.close()
