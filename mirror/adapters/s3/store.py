"""The store in an S3-compatible service, for replicas that share nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import structlog
from botocore.exceptions import BotoCoreError

from mirror.adapters.s3.calls import Calls
from mirror.adapters.s3.client import S3Client
from mirror.adapters.s3.fetch import Fetch
from mirror.adapters.s3.listing import Listing
from mirror.adapters.s3.opening import LAYOUT_LIMIT, Opening
from mirror.adapters.s3.options import S3Options
from mirror.adapters.s3.probe import Capabilities, Probe
from mirror.adapters.s3.reads import Reads
from mirror.adapters.s3.requests import Requests
from mirror.adapters.s3.sweep import Sweep
from mirror.adapters.s3.writes import Writes
from mirror.adapters.store_keys import checked_key, checked_prefix
from mirror.adapters.store_layout import LAYOUT_FILE
from mirror.counters import Counters
from mirror.errors import StartError, StoreFailure
from mirror.flight import Tasks
from mirror.model import WHOLE, Blob, ByteSource, ByteStream, Redirect, Span, Unchanged
from mirror.ports import Clock, StoredKey

__all__ = ["S3Options", "S3Store"]

_REDIRECT_LIFETIME: Final = 300
"""Seconds."""

_log = structlog.get_logger(__name__)


class S3Store:
    """A `mirror.ports.Store`, `Sink` and `Presigner` in a bucket, layout 1, below `options.prefix`.

    The version of an object is its entity tag, which is the same again if the same bytes are put again. Where the service
    ignores conditions (`exact` is False), `create` and `replace` look first and then write: of several replicas that
    do so at the same time, each may believe that it has won.
    """

    def __init__(self, options: S3Options, counters: Counters, clock: Clock) -> None:
        """To be made in a running event loop."""
        self._options = options
        self._tasks = Tasks(counters)
        self._client = S3Client(options)
        reading = max(1, options.max_connections * 3 // 8)
        writing = max(1, options.max_connections // 8)
        self._read_calls = Calls("reads", reading, options, counters, clock, queued=False)
        self._write_calls = Calls("writes", writing, options, counters, clock, queued=True)
        self._fetch = Fetch(self._client, signed=options.signed_reads)
        requests = Requests(self._client, options)
        self._reads = Reads(self._fetch, self._read_calls, options)
        self._writes = Writes(requests, self._write_calls, self._tasks, options)
        self._listing = Listing(self._client, self._read_calls, options)
        self._sweeping = Sweep(self._client, requests, self._listing, self._write_calls)
        self._opening = Opening(
            self._client,
            self._reads,
            self._writes,
            self._listing,
            Probe(self._client, self._fetch, requests),
            self._write_calls,
            options,
        )
        self._capabilities: Capabilities | None = None
        self._opening_now = asyncio.Lock()
        self._sweep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects and finds out what the service can do.

        Raises `StartError` for what only people can put right: no such bucket, refused credentials, wrong region, a place
        that is no store of this layout. If the service does not answer, the mirror starts all the same, and the first
        call that it does answer catches up.
        """
        try:
            await self._client.start()
            await self._open()
        except StoreFailure as failure:
            _log.warning("object store does not answer", where=self._options.where, reason=failure.why)
        except BaseException:  # cancelled, too: who could not start it will not close it
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Closes every connection; bodies that are still being read break off."""
        if self._sweep is not None:
            self._sweep.cancel()
        await self._tasks.drain(self._options.read_timeout)  # uploads that were broken off are being tidied up
        await self._client.aclose()

    @property
    def remote(self) -> bool:
        return True

    @property
    def exact(self) -> bool:
        """As the service was seen to behave when it was probed; False until then."""
        return self._capabilities is not None and self._capabilities.exact

    def capabilities(self) -> dict[str, Any]:
        """What the service was seen to do, for people; empty until it has answered."""
        return {} if self._capabilities is None else self._capabilities.as_dict()

    def write_refusal(self) -> float:
        """Seconds for which writes are refused, because the service has failed; 0 if one may be made now."""
        return self._write_calls.refusal

    # --- reading --------------------------------------------------------------------------------

    async def open(self, key: str, span: Span = WHOLE) -> ByteStream | None:
        checked_key(key)
        await self._opened()
        return await self._reads.open(key, span)

    async def read(self, key: str, limit: int) -> bytes | None:
        found = await self.reread(key, limit, "")
        return found.body if isinstance(found, Blob) else None

    async def reread(self, key: str, limit: int, version: str) -> Blob | Unchanged | None:
        checked_key(key)
        await self._opened()
        return await self._reads.small(key, limit, version)

    async def list(self, prefix: str) -> AsyncIterator[StoredKey]:
        """Asks for a thousand at a time; what is written meanwhile may or may not be told."""
        checked_prefix(prefix)
        await self._opened()
        async for found in self._listing.objects(prefix):
            yield found

    async def presigned(self, key: str, filename: str) -> Redirect | None:
        """Good for five minutes."""
        checked_key(key)
        if self._read_calls.is_open:
            return None
        fields = {}
        if not f"/{key}".endswith(f"/{filename}") and not set(filename) & set('"\\\r\n'):
            fields["response-content-disposition"] = f'attachment; filename="{filename}"'
        try:
            return Redirect(await self._client.url(key, lifetime=_REDIRECT_LIFETIME, fields=fields))
        except BotoCoreError as error:
            _log.warning("no URL can be signed", reason=type(error).__name__)
            return None

    # --- writing --------------------------------------------------------------------------------

    async def put(self, key: str, body: bytes) -> None:
        checked_key(key)
        await self._opened()
        await self._writes.put(key, body)

    async def create(self, key: str, body: bytes) -> bool:
        """As `Store.create`. Where an answer was lost, what lies there tells whether it was this call that wrote it."""
        checked_key(key)
        can = await self._opened()
        if can.conditional_create:
            return await self._certain(key, await self._writes.put_if(key, body, IfNoneMatch="*"), None)
        if await self._reads.version(key) is not None:
            return False
        await self._writes.put(key, body)
        return True

    async def replace(self, key: str, body: bytes, version: str) -> bool:
        """As `Store.replace`, and as `create` where an answer was lost."""
        checked_key(key)
        can = await self._opened()
        if can.conditional_replace:
            return await self._certain(key, await self._writes.put_if(key, body, IfMatch=version), version)
        if await self._reads.version(key) != version:
            return False
        await self._writes.put(key, body)
        return True

    async def adopt(self, key: str, path: Path) -> None:
        """After `StoreFailure` the file is still there."""
        checked_key(key)
        await self._opened()
        await self._writes.adopt(key, path)

    async def admit(self, key: str, path: Path) -> bool:
        """Nothing here is nearer than the service."""
        checked_key(key)
        return False

    async def pour(self, key: str, size: int, body: ByteSource) -> None:
        """As `Sink.pour`; it is sent once, since it cannot be had again."""
        try:
            checked_key(key)
            await self._opened()
        except BaseException:  # cancelled, too: the port promises that the body is closed in any case
            await body.aclose()
            raise
        await self._writes.pour(key, size, body)

    async def delete(self, key: str) -> None:
        checked_key(key)
        await self._opened()
        await self._writes.delete(key)

    async def quarantine(self, key: str) -> None:
        """Moves the object below `quarantine/`, where no key reaches it; the bytes stay within the service."""
        checked_key(key)
        await self._opened()
        await self._writes.quarantine(key)

    async def check(self) -> None:
        """Reads one small object; if the latest write failed, one is written, too."""
        await self._opened()
        if await self._reads.small(LAYOUT_FILE, LAYOUT_LIMIT, "") is None:
            raise StoreFailure("read", LAYOUT_FILE, f"it is gone from {self._options.where}")
        if self._write_calls.last_failure is not None:
            await self._writes.prove(f"tmp/check-{token_hex(8)}")

    # --- opening --------------------------------------------------------------------------------

    async def _opened(self) -> Capabilities:
        """What the service can do, found out now if it did not answer at the start. Raises `StoreFailure`."""
        if self._capabilities is not None:
            return self._capabilities
        try:
            return await self._open()
        except StartError as error:
            raise StoreFailure("open", self._options.bucket, str(error).removesuffix(".")) from error

    async def _open(self) -> Capabilities:
        async with self._opening_now:
            if self._capabilities is None:
                self._capabilities = await self._opening.run()
                self._sweep = self._tasks.spawn(self._sweeping.run(), name="sweep of unfinished uploads")
        return self._capabilities

    async def _certain(self, key: str, done: bool | str | None, before: str | None) -> bool:
        """Whether a conditional write was done that `Writes.put_if` says this of; `before`: the version it was for."""
        if isinstance(done, bool):
            return done
        if done is not None:
            return await self._reads.mark(key) == done
        if await self._reads.version(key) != before:
            return False
        raise StoreFailure("write", key, "the service is busy with other writes of it")
