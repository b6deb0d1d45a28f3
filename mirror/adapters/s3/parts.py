"""Uploads in parts: sent in order, two at a time, and never left lying about."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from mirror.adapters.s3.calls import Calls
from mirror.adapters.s3.failures import TRANSPORT_ERRORS, S3Error, explain
from mirror.adapters.s3.payloads import WatchedPayload
from mirror.adapters.s3.requests import Requests
from mirror.errors import StoreFailure
from mirror.flight import Tasks, landed

PartBody = Callable[[int, int], Awaitable[WatchedPayload]]
"""From the number of a part, from 0, and its size to its body."""

_AT_ONCE: Final = 2
_JOINING: Final = 20
"""How many times longer than others the request may take that makes one object of the parts."""
_SLACK: Final = 2.0
"""Seconds by which two clocks of one service may differ."""

_log = structlog.get_logger(__name__)


class Parts:
    """Sends an object in parts. Raises `StoreFailure`, and what the body raises as `BodyFailed`."""

    def __init__(self, requests: Requests, calls: Calls, tasks: Tasks, *, patience: float) -> None:
        """`tasks` own what tidies up after a cancelled upload; `patience`: seconds for a request without a body."""
        self._requests, self._calls, self._tasks = requests, calls, tasks
        self._patience = patience

    async def send(
        self, key: str, size: int, part_size: int, body: PartBody, *, tries: int, at_once: int = _AT_ONCE
    ) -> None:
        """Creates or replaces an object of `size` bytes; `tries` for each part."""
        upload, began = await self._quick(key, lambda: self._requests.begin_parts(key))
        try:
            done = await self._send_all(key, upload, size, part_size, body, tries, at_once)
            await self._end(key, upload, done, size, began)
        except BaseException:  # cancelled, too: what was sent is paid for until somebody takes it away
            await landed(self._tasks.spawn(self._abort(key, upload), name=f"abort the upload of {key}"))
            raise

    async def _send_all(
        self, key: str, upload: str, size: int, part_size: int, body: PartBody, tries: int, at_once: int
    ) -> list[dict[str, Any]]:
        done: dict[int, dict[str, Any]] = {}
        numbers = itertools.count()

        async def worker() -> None:
            while (start := (number := next(numbers)) * part_size) < size:
                length = min(part_size, size - start)

                async def once(number: int = number, length: int = length) -> dict[str, Any]:
                    return await self._requests.put_part(key, upload, number + 1, await body(number, length))

                done[number] = await self._calls.run("write", key, once, tries=tries, large=True)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(at_once):
                    workers.create_task(worker())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return [done[number] for number in sorted(done)]

    async def _end(self, key: str, upload: str, parts: list[dict[str, Any]], size: int, began: float | None) -> None:
        try:
            await self._quick(
                key, lambda: self._requests.end_parts(key, upload, parts), patience=_JOINING * self._patience
            )
        except StoreFailure as failure:
            error = failure.__cause__
            # Without an answer it may have been done all the same; and then a second try finds no such upload.
            unsure = isinstance(error, S3Error) and (error.is_fault or error.code == "NoSuchUpload")
            if not (unsure and await self._is_there(key, size, began)):
                raise
            _log.info("object store took an upload although it did not say so", key=key)

    async def _is_there(self, key: str, size: int, began: float | None) -> bool:
        """Whether the object has been written since the upload began. Past the breaker, as its very last request."""
        try:
            async with asyncio.timeout(self._patience):
                found, changed = await self._requests.stands(key)
        except TRANSPORT_ERRORS as e:
            _log.info("object store could not be asked again", key=key, reason=explain(e).why)
            return False
        return found == size and began is not None and changed >= began - _SLACK

    async def _abort(self, key: str, upload: str) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await self._requests.abort_parts(key, upload)
        except TRANSPORT_ERRORS as e:
            error = explain(e)
            if error.code != "NoSuchUpload":
                # The sweep of a later start takes it away.
                _log.warning("unfinished upload left in the object store", key=key, reason=error.why)

    async def _quick(self, key: str, once: Callable[[], Awaitable[Any]], patience: float | None = None) -> Any:
        return await self._calls.run("write", key, once, patience=patience or self._patience)
