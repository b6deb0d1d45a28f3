"""The body of a stored object on its way: its length checked, and no silence longer than allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from mirror.adapters.s3.failures import TRANSPORT_ERRORS, explain
from mirror.errors import StoreFailure


class StoredBody:
    """A `ByteSource`: the bytes `skip` to `skip + length` of a body. `aclose` ends it early.

    Raises `StoreFailure` where it breaks off or stalls. Only time spent waiting for the service counts, so that a slow
    reader is never taken for a slow service.
    """

    def __init__(
        self,
        key: str,
        response: aiohttp.ClientResponse,
        skip: int,
        length: int,
        idle: float,
        leave: Callable[[StoreFailure | None, bool], None],
    ) -> None:
        """`leave` is called once, with the failure if there was one, and with whether that was a silence."""
        self._key, self._response, self._idle = key, response, idle
        self._skip, self._left = skip, length
        self._leave: Callable[[StoreFailure | None, bool], None] | None = leave

    def __aiter__(self) -> StoredBody:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            self._close()
        if self._leave is None:
            raise StopAsyncIteration
        try:
            piece = await self._next()
        except BaseException:  # cancelled: the connection is in the middle of a body and of no more use
            self._close()
            raise
        self._left -= len(piece)
        return piece

    async def _next(self) -> bytes:
        while True:
            try:
                async with asyncio.timeout(self._idle):
                    piece = await self._response.content.readany()
            except TRANSPORT_ERRORS as e:
                error = explain(e)
                raise self._failed(error.why, silent=error.silent) from e
            if not piece:
                raise self._failed(f"the body ended {self._left} bytes early")
            if self._skip:
                dropped = min(self._skip, len(piece))
                self._skip -= dropped
                piece = piece[dropped:]
            if piece:
                return piece[: self._left]

    def _failed(self, why: str, *, silent: bool = False) -> StoreFailure:
        failure = StoreFailure("read", self._key, why)
        self._close(failure, silent)
        return failure

    async def aclose(self) -> None:
        self._close()

    def _close(self, failure: StoreFailure | None = None, silent: bool = False) -> None:
        """Closes the connection, unless the end of the body has come and with it the connection was given back."""
        if self._leave is not None:
            leave, self._leave = self._leave, None
            self._response.close()
            leave(failure, silent)
