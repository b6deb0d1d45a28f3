"""The `Upstream` that speaks HTTP: what is asked, and what each answer means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar
from urllib.parse import quote

import stamina
import structlog
from yarl import URL

from mirror.adapters.http import headers as http_headers
from mirror.adapters.http.body import DecodedBody
from mirror.adapters.http.exchange import Exchange, Reply
from mirror.adapters.http.failures import wait_before_retry
from mirror.adapters.http.files import file_stream, size_in
from mirror.adapters.http.options import UpstreamOptions
from mirror.adapters.http.urls import as_sent, redact_url
from mirror.counters import Counters
from mirror.errors import NoSuchFile, NoSuchProject, UpstreamFailure, UpstreamMisbehaved
from mirror.model import NO_VALIDATOR, WHOLE, File, NotModified, PageDocument, Span, UpstreamStream, Validator
from mirror.names import ProjectName
from mirror.ports import Clock
from mirror.simple.compress import BadCoding, decode_body
from mirror.simple.terms import HTML_TYPE, JSON_TYPE, TEXT_TYPE

__all__ = ["HttpUpstream", "UpstreamOptions"]

_ACCEPT_INDEX: Final = f"{JSON_TYPE}, {HTML_TYPE};q=0.2, {TEXT_TYPE};q=0.01"
_INDEX_FIELDS: Final = {"Accept": _ACCEPT_INDEX, "Accept-Encoding": "gzip"}
_RAW: Final = {"Accept": "*/*", "Accept-Encoding": "identity"}
_PAST_CACHES: Final = {"Cache-Control": "no-cache", "Pragma": "no-cache"}
_GONE: Final = (404, 410)
_NO_HEAD: Final = (400, 403, 405, 501)
"""Statuses that may be about the method alone; signed URLs answer 403 to every method but one."""
_LARGE: Final = 64 * 1024
"""Bytes of a compressed body from which it is decoded in a thread."""

T = TypeVar("T")
log = structlog.get_logger()


class HttpUpstream:
    """A simple index over HTTP (PEP 503, 691), with the legacy JSON API beside it where there is one.

    Pages and other small bodies are asked for again after a failure that may pass; a file only until its first
    byte, for the caller knows best how to go on from there.
    """

    def __init__(self, options: UpstreamOptions, counters: Counters, clock: Clock) -> None:
        """To be made in a running event loop. Raises `ConfigError` for a malformed proxy in the environment."""
        self.name = options.name
        self._options, self._counters, self._clock = options, counters, clock
        self._exchange = Exchange(options, counters, clock)

    @property
    def instance(self) -> str:
        """This process's own name in `Via`."""
        return self._exchange.instance

    def state(self) -> str:
        """`down` while the index is left alone because it failed repeatedly, else `up`."""
        return "down" if self._exchange.is_index_down else "up"

    async def start(self) -> None:
        """Raises `StartError` if the certificates to trust cannot be read."""
        await self._exchange.start()

    async def aclose(self) -> None:
        """Closes every connection; bodies that are still being read break off."""
        await self._exchange.aclose()

    # --- the index ------------------------------------------------------------------------------

    async def fetch_page(self, project: ProjectName, known: Validator) -> PageDocument | NotModified:
        """As `Upstream.fetch_page`."""
        url = URL(f"{self._options.url}{project}/", encoded=True)
        fields = dict(_INDEX_FIELDS)
        if known.etag:
            fields["If-None-Match"] = known.etag
        if known.last_modified:
            fields["If-Modified-Since"] = known.last_modified

        async def once() -> PageDocument | NotModified:
            got = await self._page(project, url, fields)
            if isinstance(got, NotModified) and known == NO_VALIDATOR:
                self._counters.count("upstream_unexpected_304")
                got = await self._page(project, url, fields | _PAST_CACHES)
                if isinstance(got, NotModified):
                    raise UpstreamMisbehaved(self.name, "it answers 304 although no copy is held here")
            return got

        return await self._with_retries(url, once)

    async def _page(self, project: ProjectName, url: URL, fields: dict[str, str]) -> PageDocument | NotModified:
        reply = await self._exchange.ask(url, fields)
        headers = reply.headers
        match reply.status:
            case 200:
                content_type = http_headers.media_type(headers)
                if not _may_be_page(content_type):
                    reply.body.close()
                    raise UpstreamMisbehaved(self.name, f"it sent {content_type} where a page was expected")
                return PageDocument(
                    body=await self._read(reply, self._options.max_page_bytes),
                    content_type=content_type,
                    url=str(reply.url),
                    fetched_at=self._clock.now(),
                    validator=http_headers.validator(headers),
                    serial=http_headers.serial(headers),
                    max_age=http_headers.max_age(headers),
                )
            case 304:
                await reply.body.discard()
                return NotModified(http_headers.max_age(headers), http_headers.serial(headers))
            case status if status in _GONE:
                await reply.body.discard()
                raise NoSuchProject(project)
        raise await self._unexpected(reply)

    async def fetch_project_list(self) -> tuple[str, AsyncIterator[bytes]]:
        """As `Upstream.fetch_project_list`. The iterator also has `aclose`, for whoever stops early."""
        url = URL(self._options.url, encoded=True)

        async def once() -> Reply:
            reply = await self._exchange.ask(url, _INDEX_FIELDS)
            if reply.status != 200:
                raise await self._unexpected(reply)
            return reply

        reply = await self._with_retries(url, once)
        coding = http_headers.content_coding(reply.headers)
        body = DecodedBody(self.name, reply.body, coding, self._options.max_list_bytes, self._teller(url))
        return http_headers.media_type(reply.headers), body

    async def fetch_legacy_json(self, project: ProjectName, version: str | None) -> bytes:
        """As `Upstream.fetch_legacy_json`."""
        address = self._options.legacy_json(project if version is None else f"{project}/{quote(version, safe='+!')}")
        if address is None:
            raise NoSuchProject(project)
        fields = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        try:
            return await self._small(address, fields, self._options.max_page_bytes)
        except NoSuchFile:
            raise NoSuchProject(project) from None

    # --- files ----------------------------------------------------------------------------------

    async def fetch_file(self, file: File, span: Span = WHOLE, *, bypass_caches: bool = False) -> UpstreamStream:
        """As `Upstream.fetch_file`."""
        url = self._url(file.url)
        fields = dict(_RAW)
        if not span.is_whole:
            fields["Range"] = http_headers.range_field(span)
        if bypass_caches:
            fields |= _PAST_CACHES

        async def once() -> UpstreamStream:
            reply = await self._exchange.ask(url, fields, for_file=True)
            if reply.status in _GONE:
                await reply.body.discard()
                raise NoSuchFile(file.filename)
            if reply.status not in (200, 206, 416):
                raise await self._unexpected(reply)
            try:
                stream = file_stream(self.name, reply, file, span)
            except BaseException:  # the reply has no other owner yet, whatever went wrong
                reply.body.close()
                raise
            reply.body.report_to(self._teller(url))
            return stream

        return await self._with_retries(url, once)

    async def fetch_size(self, file: File) -> int | None:
        """As `Upstream.fetch_size`; where HEAD is not understood, the head of a GET for one byte tells it."""
        url = self._url(file.url)

        async def once() -> int | None:
            reply = await self._exchange.ask(url, _RAW, "HEAD")
            if reply.status in _NO_HEAD:
                await reply.body.discard()
                reply = await self._exchange.ask(url, _RAW | {"Range": "bytes=0-0"})
            reply.body.close()
            if reply.status in _GONE:
                raise NoSuchFile(file.filename)
            if reply.status not in (200, 206, 416):
                raise await self._unexpected(reply)
            return size_in(reply)

        return await self._with_retries(url, once)

    async def fetch_small(self, url: str, *, accept: str, limit: int) -> bytes:
        """As `Upstream.fetch_small`."""
        return await self._small(url, {"Accept": accept, "Accept-Encoding": "identity"}, limit)

    async def _small(self, address: str, fields: dict[str, str], limit: int) -> bytes:
        url = self._url(address)

        async def once() -> bytes:
            reply = await self._exchange.ask(url, fields)
            if reply.status in _GONE:
                await reply.body.discard()
                raise NoSuchFile(url.name)
            if reply.status != 200:
                raise await self._unexpected(reply)
            return await self._read(reply, limit)

        return await self._with_retries(url, once)

    # --- what all of them share -----------------------------------------------------------------

    async def _with_retries(self, url: URL, once: Callable[[], Awaitable[T]]) -> T:
        attempts = stamina.retry_context(
            on=wait_before_retry,
            attempts=self._options.retries + 1,
            timeout=self._options.read_timeout,  # no new try after that
            wait_initial=self._options.retry_wait,
            wait_jitter=3 * self._options.retry_wait,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    if attempt.num > 1:
                        self._counters.count("upstream_retries")
                    return await once()
        except UpstreamFailure as e:
            self._tell(e, str(url))
            raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _teller(self, url: URL) -> Callable[[UpstreamFailure], None]:
        return lambda failure: self._tell(failure, str(url))

    def _tell(self, failure: UpstreamFailure, url: str) -> None:
        self._counters.count("upstream_failures")
        log.warning("upstream failed", upstream=self.name, url=redact_url(url), reason=failure.why)

    def _url(self, address: str) -> URL:
        try:
            return as_sent(address)
        except ValueError as e:
            failure = UpstreamMisbehaved(self.name, "it names a malformed URL")
            self._tell(failure, address)
            raise failure from e

    async def _read(self, reply: Reply, limit: int) -> bytes:
        """The whole body, decoded: neither what comes nor what it decodes to may be longer than `limit` bytes."""
        too_long = UpstreamMisbehaved(self.name, f"it sent more than the {limit} bytes that are allowed")
        try:
            if (http_headers.content_length(reply.headers) or 0) > limit:
                raise too_long
            pieces, size = [], 0
            async for piece in reply.body:
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise too_long
        finally:
            reply.body.close()
        coding = http_headers.content_coding(reply.headers)
        try:
            if coding is None or size < _LARGE:
                return decode_body(b"".join(pieces), coding, limit)
            return await asyncio.to_thread(decode_body, b"".join(pieces), coding, limit)
        except BadCoding as e:
            raise UpstreamMisbehaved(self.name, f"the body cannot be decoded: {e}") from e

    async def _unexpected(self, reply: Reply) -> UpstreamMisbehaved:
        await reply.body.discard()
        match reply.status:
            case 401 if self._options.username is None:
                why = "it wants credentials (401)"
            case 401:
                why = "it does not accept the configured credentials (401)"
            case 403:
                why = "it forbids this (403)"
            case 407:
                why = "the proxy that leads to it wants credentials (407)"
            case status:
                why = f"it answered {status}"
        return UpstreamMisbehaved(self.name, why)


def _may_be_page(content_type: str) -> bool:
    """Whether a page may hide behind this media type; some indexes label theirs as plain text, or not at all."""
    kind = content_type.partition("/")[0]
    return (
        content_type in ("", "application/octet-stream")
        or kind == "text"
        or content_type.endswith(("json", "html", "xml"))
    )
