"""The web application: one handler that dispatches on routes, and one place where every request ends."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, assert_never

import structlog
from aiohttp import web

from mirror.errors import MirrorError, printable
from mirror.via import note
from mirror.web.failures import failure, method_not_allowed, plain, status_of
from mirror.web.files import Files
from mirror.web.headers import EVERY_HEAD, base_url, header
from mirror.web.health import Health
from mirror.web.home import home_page
from mirror.web.legacy_json import LegacyJson
from mirror.web.pages import Pages
from mirror.web.project_list import ProjectLists
from mirror.web.provenance import Provenance
from mirror.web.ready import ReadyPages
from mirror.web.routes import (
    FileRoute,
    HealthRoute,
    HomeRoute,
    LegacyJsonRoute,
    MetricsRoute,
    ProjectListRoute,
    ProjectPageRoute,
    ProvenanceRoute,
    RedirectRoute,
    parse_target,
)
from mirror.web.sending import BrokenOff, ClientLeft, Sender, Unfinished
from mirror.web.services import Services

REQUEST_ID: Final = web.RequestKey("request_id", str)

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_CLIENT = re.compile(r"[A-Za-z0-9._+-]{1,40}(?:/[A-Za-z0-9._+-]{1,40})?", re.ASCII)

log = structlog.get_logger("mirror.web")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(services: Services) -> web.Application:
    """The application over `services`; whoever runs it passes `access_log=None`, because it logs by itself."""
    site = _Site(services)
    app = web.Application(middlewares=[site.oversee])
    # Matches whatever aiohttp's router can match; its decoded parts are not used, see `routes`.
    app.router.add_route("*", "/{any:.*}", site.answer, expect_handler=_ignore_expectations)
    app.on_response_prepare.append(_finish_head)
    return app


class _Site:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._sender = Sender(services.stall_timeout)
        self._pages = Pages(services.repository, ReadyPages(services.page_memory, services.tasks))
        self._lists = ProjectLists(services.repository, self._sender)
        self._files = Files(services.repository, self._sender, services.redirect_networks)
        self._legacy = LegacyJson(services.repository, services.public_url)
        self._provenance = Provenance(services.repository, self._files)
        self._health = Health(
            services.clock,
            services.check_store,
            services.upstream_states,
            services.draining,
            services.store_facts,
        )

    @web.middleware
    async def oversee(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The middleware in which every request begins and ends, those that aiohttp cannot route included."""
        started = self._services.clock.monotonic()
        given = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)
        self._services.counters.count("requests")
        outcome: Unfinished | None = None
        try:
            response = await self._finished(request, handler)
        except Unfinished as error:
            # Its connection is cut already; aiohttp finds that out when it wants to end the answer.
            outcome, response = error, error.response
            self._tell(request, error)
        self._log(request, response, self._services.clock.monotonic() - started, outcome)
        return response

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to a request; sent already where its body is not at hand."""
        if request.method not in ("GET", "HEAD"):
            return method_not_allowed()
        if self._went_in_a_circle(request):
            return plain(HTTPStatus.LOOP_DETECTED, "This request has passed here before: a mirror is its own upstream.")
        match route := parse_target(request.raw_path):
            case ProjectPageRoute():
                return await self._pages.answer(request, route)
            case FileRoute():
                return await self._files.answer(request, route)
            case ProjectListRoute():
                return await self._lists.answer(request, route)
            case LegacyJsonRoute():
                return await self._legacy.answer(request, route)
            case ProvenanceRoute():
                return await self._provenance.answer(request, route)
            case RedirectRoute(location):
                headers = {"Location": location, "Cache-Control": "max-age=3600, public"}
                return plain(HTTPStatus.PERMANENT_REDIRECT, f"The address is {location}", headers)
            case HealthRoute("livez"):
                return self._health.live()
            case HealthRoute():
                return await self._health.ready()
            case MetricsRoute():
                headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Cache-Control": "no-store"}
                return web.Response(body=self._services.counters.exposition().encode(), headers=headers)
            case HomeRoute():
                return home_page(base_url(request, self._services.public_url))
            case _ as unreachable:
                assert_never(unreachable)

    async def _finished(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Runs `handler` to an answer that has been sent. Raises `Unfinished` if it could not be sent whole."""
        try:
            response = await handler(request)
        except Unfinished:
            raise
        except Exception as error:
            if not isinstance(error, MirrorError | web.HTTPException):
                log.error("request failed", path=_path(request), request_id=request[REQUEST_ID], exc_info=error)
            elif status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR and isinstance(error, MirrorError):
                log.warning("request failed", path=_path(request), request_id=request[REQUEST_ID], reason=str(error))
            response = failure(error, request[REQUEST_ID])
        if isinstance(response, web.Response) and not response.prepared:
            await self._sender.send_whole(request, response)
        return response

    def _went_in_a_circle(self, request: web.Request) -> bool:
        """Whether Via names this very process; requests to upstream that follow from this one carry it on."""
        via = header(request, "Via")
        note(via)
        return via is not None and any(self._services.instance in hop.split() for hop in via.split(","))

    def _tell(self, request: web.Request, error: Unfinished) -> None:
        if isinstance(error, ClientLeft):
            log.debug("client left", path=_path(request), request_id=request[REQUEST_ID])
            return
        self._services.counters.count("responses_aborted")
        cause = error.__cause__
        unforeseen = isinstance(error, BrokenOff) and not isinstance(cause, MirrorError)
        log.warning(
            "answer " + error.why,
            path=_path(request),
            request_id=request[REQUEST_ID],
            reason=printable(str(cause)),
            exc_info=cause if unforeseen else None,
        )

    def _log(
        self, request: web.Request, response: web.StreamResponse, seconds: float, outcome: Unfinished | None
    ) -> None:
        if not self._services.access_log:
            return
        probe = request.raw_path in ("/livez", "/readyz", "/metrics")
        (log.debug if probe else log.info)(
            "request",
            method=printable(request.method, 20),
            path=_path(request),
            status=response.status,
            bytes=response.content_length,
            ms=round(seconds * 1000, 1),
            cache=response.headers.get("X-Cache"),
            request_id=request[REQUEST_ID],
            client=_client(request),
            **({"outcome": outcome.why} if outcome else {}),
        )


async def _finish_head(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(EVERY_HEAD)
    response.headers["X-Request-Id"] = request[REQUEST_ID]


async def _ignore_expectations(request: web.Request) -> None:
    """Nothing is read from bodies here, so `100 Continue` is never said: the final answer comes at once (RFC 9110 §10.1.1)."""


def _path(request: web.Request) -> str:
    return printable(request.raw_path.partition("?")[0], 300)


def _client(request: web.Request) -> str | None:
    """The first product of User-Agent, such as `pip/26.3`; never the rest, which describes somebody's machine."""
    found = _CLIENT.match(request.headers.get("User-Agent", ""))
    return found[0] if found else None
