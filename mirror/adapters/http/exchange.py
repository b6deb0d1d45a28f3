"""One request to upstream and the head of its answer: connections, redirects, back-off, circuit breaker."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import structlog
from yarl import URL

from mirror import __version__
from mirror.adapters.breaker import Breaker
from mirror.adapters.http.body import Body, Pace
from mirror.adapters.http.destinations import Destinations, ForbiddenAddress, ForbiddenUrl, VettedResolver
from mirror.adapters.http.failures import TRANSPORT_ERRORS, explain
from mirror.adapters.http.headers import Headers, pause_wanted
from mirror.adapters.http.options import UpstreamOptions
from mirror.adapters.http.proxies import EnvironmentProxies
from mirror.adapters.http.urls import as_sent, redact_url
from mirror.counters import Counters
from mirror.errors import StartError, UpstreamBusy, UpstreamDown, UpstreamFailure, UpstreamMisbehaved
from mirror.lru import LRU
from mirror.ports import Clock
from mirror.via import with_own

MAX_HOPS: Final = 5
_READ_BUFFER: Final = 256 * 1024
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_NO_ANSWER: Final = (502, 503, 504)
"""Statuses by which a front says that nobody behind it answers."""
_ORIGINS: Final = 1024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reply:
    """The head of an answer; whoever receives it reads `body` to its end or closes it."""

    status: int
    headers: Headers
    url: URL
    """After redirects."""
    body: Body


@dataclass(slots=True)
class _Origin:
    """What is known of a scheme, host and port."""

    breaker: Breaker
    busy_until: float = field(default=float("-inf"))
    """On the monotonic clock."""


class Exchange:
    """Sends requests for one upstream over one session. Raises `UpstreamFailure`, and nothing else."""

    def __init__(self, options: UpstreamOptions, counters: Counters, clock: Clock) -> None:
        self.instance = f"mirror-{secrets.token_hex(8)}"
        """This process in Via: a request that carries it has come round in a circle (RFC 9110 §7.6.3)."""
        self._options, self._counters, self._clock = options, counters, clock
        self._index = URL(options.url)
        self._destinations = Destinations(self._index, options.file_hosts)
        self._proxies = EnvironmentProxies()
        self._origins: LRU[URL, _Origin] = LRU(_ORIGINS)
        # Three quarters of the connections are for files, so that no rush of downloads keeps pages waiting.
        for_files = max(1, options.max_connections * 3 // 4)
        self._turns = {
            True: asyncio.Semaphore(for_files),
            False: asyncio.Semaphore(max(1, options.max_connections - for_files)),
        }
        self._pace = Pace(options.read_timeout, options.min_rate, options.grace)
        self._authorization = (
            None
            if options.username is None
            else aiohttp.encode_basic_auth(options.username, options.password or "", "utf-8")
        )
        self._session: aiohttp.ClientSession | None = None
        self._resolver: VettedResolver | None = None

    async def start(self) -> None:
        """Raises `StartError` if the certificates to trust cannot be read."""
        try:
            trust = await asyncio.to_thread(ssl.create_default_context, cafile=self._options.ca_bundle)
        except OSError as e:  # SSLError is one
            why = e.strerror or "no certificate in it"
            raise StartError(f"cannot read the certificates in {self._options.ca_bundle}: {why}") from e
        self._resolver = VettedResolver(self._destinations, self._proxies.endpoints, self._counters)
        self._session = aiohttp.ClientSession(
            # No limit here: `_turns` is the limit, and its waiting time does not count as connecting.
            connector=aiohttp.TCPConnector(limit=0, resolver=self._resolver, ssl=trust),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": f"mirror/{__version__} (caching mirror) {aiohttp.http.SERVER_SOFTWARE}",
            },
            # The whole of connecting, with DNS and TLS and all addresses of a host, falls under `connect`.
            timeout=aiohttp.ClientTimeout(total=None, connect=self._options.connect_timeout),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            trust_env=False,  # it would also send the passwords of ~/.netrc, to any host by that name
        )

    async def aclose(self) -> None:
        """Closes every connection, also those in use."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        if self._resolver is not None:
            await self._resolver.close()

    @property
    def is_index_down(self) -> bool:
        """Whether the index itself is left alone just now because it failed repeatedly."""
        origin = self._origins.get(self._index.origin())
        return origin is not None and origin.breaker.is_open

    async def ask(self, url: URL, headers: Mapping[str, str], method: str = "GET", *, for_file: bool = False) -> Reply:
        """The answer to a request, after at most `MAX_HOPS` redirects; any status but those that mean a failure.

        `for_file`: the body may be large, and take its time.
        """
        came_from: URL | None = None
        for _ in range(MAX_HOPS + 1):
            self._check(url, came_from)
            reply = await self._send(method, url, headers, self._turns[for_file])
            if reply.status not in _REDIRECTS or "Location" not in reply.headers:
                return reply
            await reply.body.discard()
            came_from, url = url, self._target(url, reply.headers["Location"])
        raise self._refused(url, f"yet another URL, after {MAX_HOPS} redirects")

    # --- redirects ------------------------------------------------------------------------------

    def _check(self, url: URL, came_from: URL | None) -> None:
        try:
            self._destinations.check(url, came_from)
        except ForbiddenAddress as e:
            self._counters.count("upstream_addresses_refused")
            raise self._refused(url, f"a host that must not be asked: {e}", is_redirect=came_from is not None) from e
        except ForbiddenUrl as e:
            raise self._refused(url, f"a URL {e}", is_redirect=came_from is not None) from e

    def _target(self, url: URL, location: str) -> URL:
        try:
            return url.join(as_sent(location))
        except ValueError as e:
            raise self._refused(url, "a malformed URL") from e

    def _refused(self, url: URL, why: str, *, is_redirect: bool = True) -> UpstreamMisbehaved:
        if is_redirect:
            self._counters.count("upstream_redirects_refused")
            log.warning("upstream redirect refused", upstream=self._options.name, to=redact_url(str(url)), reason=why)
        return UpstreamMisbehaved(self._options.name, f"it {'redirects to' if is_redirect else 'names'} {why}")

    # --- one request ----------------------------------------------------------------------------

    async def _send(self, method: str, url: URL, headers: Mapping[str, str], turns: asyncio.Semaphore) -> Reply:
        origin = self._origin(url.origin())
        self._refuse_early(origin)
        await self._take(turns)
        try:
            self._refuse_early(origin)  # other calls may have failed while this one waited
            response = await self._answered(origin, method, url, headers)
        except BaseException:  # cancelled, too: a turn that is not given back is lost to all
            turns.release()
            raise
        reply = Reply(
            response.status,
            response.headers,
            url,
            Body(self._options.name, response, self._pace, turns.release),
        )
        try:
            self._judge(origin, reply, url)
        except UpstreamFailure:
            reply.body.close()
            raise
        return reply

    async def _answered(
        self, origin: _Origin, method: str, url: URL, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise UpstreamDown(self._options.name, "this mirror is not running")
        headers = {**headers, "Via": with_own(self.instance)}
        if self._authorization is not None and url.origin() == self._index.origin():
            headers = {**headers, "Authorization": self._authorization}
        self._counters.count("upstream_requests")
        origin.breaker.begin()
        try:
            # A flood of interim answers (1xx) keeps a connection busy without ever answering: hence one deadline.
            async with asyncio.timeout(self._options.connect_timeout + self._options.read_timeout):
                return await self._session.request(
                    method, url, headers=headers, allow_redirects=False, proxy=self._proxies.for_url(url)
                )
        except TRANSPORT_ERRORS as e:
            failure = explain(self._options.name, e)
            if _is_our_refusal(e):
                origin.breaker.abandoned()
            else:
                self._failed(origin, url)
            raise failure from e
        except BaseException:  # cancelled: whoever waited has left, which tells nothing of upstream
            origin.breaker.abandoned()
            raise

    def _judge(self, origin: _Origin, reply: Reply, url: URL) -> None:
        """Raises what the status says of upstream's health; and the breaker learns it too."""
        pause = pause_wanted(reply.status, reply.headers, self._clock.now())
        if pause is not None:
            origin.breaker.succeeded()
            origin.busy_until = max(origin.busy_until, self._clock.monotonic() + pause)
            log.warning("upstream asks for a pause", upstream=self._options.name, seconds=pause)
            raise UpstreamBusy(self._options.name, f"it answered {reply.status}", retry_after=pause)
        if reply.status in _NO_ANSWER:
            self._failed(origin, url)
        else:
            origin.breaker.succeeded()
        if reply.status >= 500 and reply.status != 501:
            raise UpstreamDown(self._options.name, f"it answered {reply.status}")

    def _failed(self, origin: _Origin, url: URL) -> None:
        if origin.breaker.failed():
            self._counters.count("upstream_breaker_opened")
            log.warning(
                "upstream left alone",
                upstream=self._options.name,
                origin=str(url.origin()),
                seconds=round(origin.breaker.refusal, 1),
            )

    def _refuse_early(self, origin: _Origin) -> None:
        if refusal := origin.breaker.refusal:
            raise UpstreamDown(self._options.name, "it failed several times in a row", retry_after=refusal)
        if (left := origin.busy_until - self._clock.monotonic()) > 0:
            raise UpstreamBusy(self._options.name, "it has asked for a pause", retry_after=left)

    async def _take(self, turns: asyncio.Semaphore) -> None:
        try:
            async with asyncio.timeout(self._options.read_timeout):
                await turns.acquire()
        except TimeoutError as e:
            why = "all connections that may be made to it are in use"
            raise UpstreamDown(self._options.name, why, retry_after=1.0) from e

    def _origin(self, key: URL) -> _Origin:
        origin = self._origins.get(key)
        if origin is None:
            breaker = Breaker(
                self._clock,
                threshold=self._options.breaker_threshold,
                first_pause=self._options.breaker_first_pause,
                longest_pause=self._options.breaker_longest_pause,
            )
            origin = _Origin(breaker)
            self._origins.put(key, origin)
        return origin


def _is_our_refusal(error: Exception) -> bool:
    """Whether the request was stopped here, so that it shows nothing of the origin's health."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return isinstance(error.os_error, ForbiddenAddress)
    return isinstance(error, aiohttp.InvalidURL)
