"""The body of an upstream answer, piece by piece, with its deadlines; raw or decoded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import aiohttp
import structlog

from mirror.adapters.http.failures import TRANSPORT_ERRORS, explain
from mirror.errors import UpstreamDown, UpstreamFailure, UpstreamMisbehaved
from mirror.simple.compress import BadCoding, BoundedDecoder

_SHORT: Final = 64 * 1024
_SHORT_TIME: Final = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How slow a body may be: at most `idle` seconds between pieces, and after `grace` at least `min_rate`."""

    idle: float
    min_rate: float
    """Bytes per second, 0 for any."""
    grace: float
    """Seconds."""

    def allowance(self, received: int, waited: float) -> float:
        """Seconds that may be waited for the next piece, after `received` bytes in `waited` seconds."""
        if not self.min_rate:
            return self.idle
        return min(self.idle, self.grace + received / self.min_rate - waited)


class Body:
    """A `ByteSource`: the body as it came, undecoded. Ends its connection's turn by itself; `aclose` does so early.

    Raises `UpstreamDown` where the body breaks off, stalls or is too slow. Only time spent waiting for upstream
    counts, so that a slow reader is never taken for a slow upstream.
    """

    def __init__(self, upstream: str, response: aiohttp.ClientResponse, pace: Pace, leave: Callable[[], None]) -> None:
        """`leave` is called once, when the connection is not needed any more."""
        self._upstream, self._response, self._pace = upstream, response, pace
        self._leave: Callable[[], None] | None = leave
        self._report: Callable[[UpstreamFailure], None] | None = None
        self._received = 0
        self._waited = 0.0

    def report_to(self, report: Callable[[UpstreamFailure], None]) -> None:
        """Has every failure told to `report` before it is raised."""
        self._report = report

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if self._leave is None:
            raise StopAsyncIteration
        try:
            piece = await self._next()
        except UpstreamFailure as e:
            self.close()
            if self._report is not None:
                self._report(e)
            raise
        except BaseException:  # cancelled, too: the connection is in the middle of a body and of no more use
            self.close()
            raise
        if not piece:
            self.close()
            raise StopAsyncIteration
        self._received += len(piece)
        return piece

    async def _next(self) -> bytes:
        allowance = self._pace.allowance(self._received, self._waited)
        began = time.monotonic()
        try:
            async with asyncio.timeout(allowance):
                return await self._response.content.readany()
        except TimeoutError as e:
            slow = allowance < self._pace.idle
            why = f"fewer than {self._pace.min_rate:g} bytes per second came" if slow else "the body stalled"
            raise UpstreamDown(self._upstream, why) from e
        except TRANSPORT_ERRORS as e:
            raise explain(self._upstream, e) from e
        finally:
            self._waited += time.monotonic() - began

    async def aclose(self) -> None:
        self.close()

    async def discard(self) -> None:
        """Reads a short rest that nobody wants, so that its connection can be used again."""
        length = self._response.content_length
        try:
            if length is not None and length <= _SHORT:
                async with asyncio.timeout(_SHORT_TIME):
                    async for _ in self:
                        pass
        except (UpstreamFailure, TimeoutError) as e:
            log.debug("unwanted body broke off", upstream=self._upstream, reason=str(e))
        finally:
            self.close()

    def close(self) -> None:
        """Gives the connection back if the body is at its end, and closes it otherwise."""
        if self._leave is not None:
            leave, self._leave = self._leave, None
            self._response.close()
            leave()


class DecodedBody:
    """A `ByteSource`: `body` decoded, at most `limit` bytes of it. Raises also `UpstreamMisbehaved`."""

    def __init__(
        self,
        upstream: str,
        body: Body,
        coding: str | None,
        limit: int,
        report: Callable[[UpstreamFailure], None],
    ) -> None:
        """`coding` is Content-Encoding; failures, also those of `body`, are told to `report`."""
        self._upstream, self._body, self._report = upstream, body, report
        self._coding, self._limit = coding, limit
        self._decoder: BoundedDecoder | None = None
        self._ready: Iterator[bytes] = iter(())
        body.report_to(report)

    def __aiter__(self) -> DecodedBody:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._next()
        except BadCoding as e:
            self._body.close()
            failure = UpstreamMisbehaved(self._upstream, f"the body cannot be decoded: {e}")
            self._report(failure)
            raise failure from e

    async def _next(self) -> bytes:
        if self._decoder is None:
            self._decoder = BoundedDecoder(self._coding, self._limit)
        while (piece := next(self._ready, None)) is None:
            try:
                raw = await anext(self._body)
            except StopAsyncIteration:
                self._decoder.close()
                raise
            self._ready = self._decoder.decode(raw)
        await asyncio.sleep(0)  # a bomb decodes to many pieces without ever waiting for upstream
        return piece

    async def aclose(self) -> None:
        await self._body.aclose()
