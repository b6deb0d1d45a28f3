"""Reads objects of an S3-compatible service: whole, by range, or only if they have changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from mirror.adapters.http.headers import content_length, content_range, range_field
from mirror.adapters.s3.body import StoredBody
from mirror.adapters.s3.calls import Calls
from mirror.adapters.s3.failures import S3Error
from mirror.adapters.s3.fetch import Fetch
from mirror.adapters.s3.options import S3Options
from mirror.errors import StoreFailure
from mirror.model import WHOLE, Blob, ByteStream, Origin, Span, Unchanged

MARK: Final = "x-amz-meta-mirror-write"
"""The header in which a conditional write is told from all others."""
_NO_HEADERS: Final[dict[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Absence:
    """How a service says that it has no such object, beside 404 NoSuchKey; the start of the mirror finds out."""

    status: int = 404
    code: str = "NoSuchKey"

    def is_meant_by(self, error: S3Error) -> bool:
        """Never by an answer that the bucket is missing or that the credentials have expired."""
        return (error.status, error.code) in ((self.status, self.code), (404, "NoSuchKey"))


NO_SUCH_KEY: Final = Absence()


class Reads:
    """The reading half of a store. Keys have been checked. Raises `StoreFailure`."""

    def __init__(self, fetch: Fetch, calls: Calls, options: S3Options) -> None:
        self._fetch, self._calls = fetch, calls
        self._idle = options.read_timeout
        self._head_patience = options.connect_timeout + options.read_timeout
        self._patience = options.connect_timeout + 2 * options.read_timeout
        """For a small object, whole."""
        self.absence = NO_SUCH_KEY

    async def small(self, key: str, limit: int, version: str) -> Blob | Unchanged | None:
        """A whole object; see `Store.reread`. Its version is the entity tag, without quotes."""
        headers = {"If-None-Match": f'"{version}"'} if version else _NO_HEADERS

        async def once() -> Blob | Unchanged | None:
            try:
                response = await self._fetch.get(key, headers)
            except S3Error as error:
                if error.status == 304 and version:
                    return Unchanged.UNCHANGED
                if self.absence.is_meant_by(error):
                    return None
                raise
            try:
                return await _whole(key, response, limit, version)
            finally:
                response.close()

        return await self._calls.run("read", key, once, patience=self._patience)

    async def version(self, key: str) -> str | None:
        """The version of an object of any size; None if there is none."""
        headers = await self._headers(key)
        return None if headers is None else etag(headers["ETag"])

    async def mark(self, key: str) -> str | None:
        """What tells the write that made an object from all others; None if there is none, or no object."""
        headers = await self._headers(key)
        return None if headers is None else headers.get(MARK)

    async def _headers(self, key: str) -> Mapping[str, str] | None:
        async def once() -> Mapping[str, str] | None:
            try:
                response = await self._fetch.get(key, _NO_HEADERS)
            except S3Error as error:
                if self.absence.is_meant_by(error):
                    return None
                raise
            response.close()
            return response.headers

        return await self._calls.run("read", key, once, patience=self._patience)

    async def open(self, key: str, span: Span = WHOLE) -> ByteStream | None:
        """A stream that has a connection for itself until it is read to its end or closed."""
        await self._calls.take("read", key, large=True)
        stream = None
        try:
            stream = await self._calls.attempt(
                "read", key, lambda: self._opened(key, span), patience=self._head_patience
            )
        finally:
            if stream is None:
                self._calls.give_back(large=True)
        return stream

    async def _opened(self, key: str, span: Span) -> ByteStream | None:
        # No suffix of nothing can be asked for: the answer to such a span is the size, which the head tells.
        headers = _NO_HEADERS if span.is_whole or span.suffix == 0 else {"Range": range_field(span)}
        try:
            response = await self._fetch.get(key, headers)
        except S3Error as error:
            if self.absence.is_meant_by(error):
                return None
            if error.status != 416:
                raise
            return await self._past_the_end(key, span, error)
        return self._stream(key, response, span)

    async def _past_the_end(self, key: str, span: Span, error: S3Error) -> ByteStream:
        """For a range that the service refuses: the size says whether we would, too (the last bytes of nothing)."""
        if error.size is not None:
            span.resolve(error.size)
        # Either the answer does not tell the size, or the last bytes of an empty object were wanted: ask for the whole.
        return self._stream(key, await self._fetch.get(key, _NO_HEADERS), span)

    def _stream(self, key: str, response: aiohttp.ClientResponse, span: Span) -> ByteStream:
        try:
            return self._checked(key, response, span)
        except BaseException:  # the response has no other owner yet
            response.close()
            raise

    def _checked(self, key: str, response: aiohttp.ClientResponse, span: Span) -> ByteStream:
        length = _length(response)
        part = content_range(response.headers)  # whatever the status: some answer 200
        if part is None:
            start, stop = span.resolve(length)
            body = self._body(key, response, skip=start, length=stop - start)
            return ByteStream(body, length, start, stop, Origin.STORE)
        if part.size is None:
            raise S3Error("it sent a range and does not say of how much", status=response.status)
        start, stop = span.resolve(part.size)
        if (part.start, part.stop) != (start, stop) or length != stop - start:
            raise S3Error("it sent another range than it was asked for", status=response.status)
        body = self._body(key, response, skip=0, length=length)
        return ByteStream(body, part.size, start, stop, Origin.STORE)

    def _body(self, key: str, response: aiohttp.ClientResponse, *, skip: int, length: int) -> StoredBody:
        return StoredBody(key, response, skip, length, self._idle, self._left)

    def _left(self, failure: StoreFailure | None, silent: bool) -> None:
        self._calls.give_back(large=True)
        if silent:
            self._calls.stalled()
        if failure is not None:
            self._calls.last_failure = failure


async def _whole(key: str, response: aiohttp.ClientResponse, limit: int, version: str) -> Blob | Unchanged:
    found = etag(response.headers["ETag"])
    if found == version:  # a service that ignores If-None-Match
        return Unchanged.UNCHANGED
    if (size := _length(response)) > limit:
        raise StoreFailure("read", key, f"it has {size} bytes, and at most {limit} were expected")
    body = await response.read()
    if len(body) != size:
        raise S3Error(f"the body ended {size - len(body)} bytes early", passing=True)
    return Blob(body, found)


def _length(response: aiohttp.ClientResponse) -> int:
    length = content_length(response.headers)
    if length is None:
        raise S3Error("it does not say how long the object is", status=response.status)
    return length


def etag(value: str) -> str:
    """An entity tag as versions are compared: without quotes, which services disagree about."""
    return value.removeprefix("W/").strip('"')
