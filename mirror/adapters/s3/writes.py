"""Writes objects of an S3-compatible service: small bodies, files, streams, and conditionally where it knows how."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Final, TypeVar

import xxhash

from mirror.adapters.s3.calls import Calls
from mirror.adapters.s3.failures import TRANSPORT_ERRORS, S3Error, explain
from mirror.adapters.s3.options import S3Options
from mirror.adapters.s3.parts import Parts
from mirror.adapters.s3.payloads import BodyFailed, BytesPayload, FilePayload, Source, SourcePayload, WatchedPayload
from mirror.adapters.s3.requests import Requests
from mirror.adapters.store_keys import MAX_KEY
from mirror.errors import StoreFailure
from mirror.flight import Tasks
from mirror.model import ByteSource

T = TypeVar("T")
_IN_MEMORY: Final = 8 * 2**20
"""Bytes of a part where checksums have to be made of it before it is sent."""
_AT_ONCE: Final = 64 * 2**10
"""Bytes of a body that is sent at once and within a fixed time; with a larger one only silence is limited."""
_SMALL: Final = 2**20
"""Bytes of a body that does not wait for its turn among the archives."""
_CONFLICTS: Final = 3
"""Tries of a conditional write that another one is in the way of."""


class Writes:
    """The writing half of a store. Keys have been checked. Raises `StoreFailure`."""

    def __init__(self, requests: Requests, calls: Calls, tasks: Tasks, options: S3Options) -> None:
        self._requests, self._calls, self._options = requests, calls, options
        self._patience = options.connect_timeout + options.read_timeout
        self._parts = Parts(requests, calls, tasks, patience=self._patience)

    async def put(self, key: str, body: bytes) -> None:
        if len(body) <= _AT_ONCE:
            await self._small("write", key, lambda: self._requests.put(key, body))
            return
        idle, tries = self._options.read_timeout, self._options.tries
        await self._stream(key, lambda: BytesPayload(body, idle), tries, large=len(body) > _SMALL)

    async def put_if(self, key: str, body: bytes, **condition: str) -> bool | str | None:
        """Whether an object was written; None if the service was always busy with other writes of it.

        Where an answer was lost that might have said so: the mark that the object then has.
        """
        mark, unsure = token_hex(8), False

        async def once() -> bool | None:
            """None if the service is busy with another write of the object."""
            nonlocal unsure
            try:
                await self._requests.put(key, body, mark, **condition)
            except (S3Error, *TRANSPORT_ERRORS) as e:
                error = e if isinstance(e, S3Error) else explain(e)
                if error.status == 412 or (error.status == 404 and error.code != "NoSuchBucket"):
                    return False
                if error.status == 409:
                    return None
                unsure = unsure or error.is_fault
                raise
            return True

        for number in range(_CONFLICTS):
            written = await self._small("write", key, once)
            if written is not None:
                # It may have been our own first try, whose answer was lost, that was in the way of the second.
                return mark if unsure and not written else written
            await asyncio.sleep(self._options.retry_wait * 2**number * random.uniform(1, 2))  # noqa: S311 - no secret
        return mark if unsure else None

    async def adopt(self, key: str, path: Path) -> None:
        """The file is removed once the service has it."""
        try:
            handle = await _opened(path)
            try:
                await self._from_file(key, handle)
            finally:
                os.close(handle)
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as error:
            raise StoreFailure("write", key, error.strerror or type(error).__name__) from error

    async def _from_file(self, key: str, handle: int) -> None:
        size = (await asyncio.to_thread(os.fstat, handle)).st_size
        idle, tries = self._options.read_timeout, self._options.tries + 1
        try:
            if size > self._options.multipart_threshold:
                part_size = self._options.part_size_for(size)

                async def part(number: int, length: int) -> WatchedPayload:
                    return FilePayload(handle, number * part_size, length, idle)

                await self._parts.send(key, size, part_size, part, tries=tries)
            else:
                await self._stream(key, lambda: FilePayload(handle, 0, size, idle), tries)
        except BodyFailed as failed:
            raise failed.error from None

    async def pour(self, key: str, size: int, body: ByteSource) -> None:
        source = Source(body, size)
        try:
            await self._from_source(key, size, source)
        except BodyFailed as failed:
            if isinstance(failed.error, S3Error):  # it was shorter or longer than had been said
                raise StoreFailure("write", key, failed.error.why) from failed.error
            raise failed.error from None
        finally:
            await source.aclose()

    async def _from_source(self, key: str, size: int, source: Source) -> None:
        idle = self._options.read_timeout
        in_memory = self._options.checksums == "when_supported"
        largest = _IN_MEMORY if in_memory else self._options.largest_put

        async def part(number: int, length: int) -> WatchedPayload:
            return (
                BytesPayload(await _taken(source, length), idle) if in_memory else SourcePayload(source, length, idle)
            )

        if size > largest:
            part_size = self._options.part_size_for(size) if not in_memory else max(_IN_MEMORY, size // 9000 + 1)
            await self._parts.send(key, size, part_size, part, tries=1, at_once=1)
        elif in_memory or not size:
            await self.put(key, await _taken(source, size))
        else:
            await self._stream(key, lambda: SourcePayload(source, size, idle), 1)

    async def prove(self, key: str) -> None:
        """Writes a small object and deletes it."""
        await self.put(key, b"")
        await self.delete(key)

    async def delete(self, key: str) -> None:
        await self._small("delete", key, lambda: self._gone(self._requests.delete(key)))

    async def quarantine(self, key: str) -> None:
        await self._small("quarantine", key, lambda: self._gone(self._requests.copy(key, _cell(key))))
        await self.delete(key)

    async def _gone(self, request: Awaitable[None]) -> None:
        """A request for which it is all the same whether the object was there."""
        try:
            await request
        except TRANSPORT_ERRORS as e:
            error = explain(e)
            if error.code not in ("NoSuchKey", "404"):
                raise

    async def _stream(self, key: str, payload: Callable[[], WatchedPayload], tries: int, *, large: bool = True) -> None:
        await self._calls.run("write", key, lambda: self._requests.put_stream(key, payload()), tries=tries, large=large)

    async def _small(self, action: str, key: str, once: Callable[[], Awaitable[T]], *, tries: int | None = None) -> T:
        return await self._calls.run(action, key, once, tries=tries, patience=self._patience)


async def _taken(source: Source, size: int) -> bytes:
    try:
        if not size:
            await source.finish()
        return await source.take_all(size)
    except Exception as error:
        raise BodyFailed(error) from error


async def _opened(path: Path) -> int:
    opening = asyncio.get_running_loop().run_in_executor(None, os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda done: None if done.exception() else os.close(done.result()))
        raise


def _cell(key: str) -> str:
    """Where a damaged object goes: below `quarantine/`, under its own key if that leaves room, else under its hash."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token_hex(4)}"
    cell = f"quarantine/{key}/{name}"
    if len(cell.encode()) <= MAX_KEY:
        return cell
    return f"quarantine/{xxhash.xxh3_64_hexdigest(key.encode())}/{name}"
