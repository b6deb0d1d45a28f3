"""Answers for the project list and project pages: negotiation, conditions and caching headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web

from mirror.model import Origin
from mirror.ports import Repository
from mirror.simple.negotiate import Coding, Format, negotiate, negotiate_coding
from mirror.web.conditions import none_match
from mirror.web.headers import header, security_headers
from mirror.web.ready import ReadyPages
from mirror.web.routes import ProjectPageRoute

_RELOAD = re.compile(r"(?:\A|[,\s])(?:no-cache|max-age=0+)(?:\Z|[,\s])", re.ASCII | re.IGNORECASE)

MAX_AGE: Final = 600
"""Seconds that a client may keep a page, as PyPI has it, however long this mirror itself does without asking."""

CORS: Final = {"Access-Control-Allow-Origin": "*"}


class Pages:
    """Answers project pages of `repository` from `ready` bodies."""

    def __init__(self, repository: Repository, ready: ReadyPages) -> None:
        self._repository, self._ready = repository, ready

    async def answer(self, request: web.Request, route: ProjectPageRoute) -> web.Response:
        """Raises `NotAcceptable` before anybody is asked, and what `Repository.project_page` raises."""
        form, coding = negotiated(request, route.override)
        answer = await self._repository.project_page(route.project, newest=wants_newest(request))
        ready = await self._ready.body(answer.page, form, coding)
        headers = page_headers(form, ready.etag, max_age=answer.max_age, stale=answer.stale)
        headers["X-Cache"] = cache_status(answer.origin, stale=answer.stale)
        if answer.page.serial is not None:
            headers["X-PyPI-Last-Serial"] = str(answer.page.serial)
        return conditional(request, headers, ready.body, form.content_type, coding)


def negotiated(request: web.Request, override: str | None) -> tuple[Format, Coding]:
    """What the client wants a page to be; raises `NotAcceptable`."""
    return negotiate(header(request, "Accept"), override), negotiate_coding(header(request, "Accept-Encoding"))


def wants_newest(request: web.Request) -> bool:
    """Whether the client asks for an end-to-end reload (RFC 9111 §5.2.1)."""
    return _RELOAD.search(header(request, "Cache-Control") or "") is not None


def page_headers(form: Format, etag: str, *, max_age: int, stale: bool) -> dict[str, str]:
    """Headers that a page has on 200 and 304 alike."""
    return {
        "ETag": etag,
        "Vary": "Accept, Accept-Encoding",
        "Cache-Control": cache_control(min(max_age, MAX_AGE), stale=stale),
        **CORS,
        **security_headers(html=form is not Format.JSON),
    }


def cache_control(max_age: int, *, stale: bool) -> str:
    """Remaining freshness; what is stale, or has none, is asked for again each time but may be kept."""
    return "no-cache" if stale or max_age <= 0 else f"max-age={max_age}, public"


def cache_status(origin: Origin, *, stale: bool = False) -> str:
    """What X-Cache says: whether upstream was waited for, and where the answer lay."""
    word = "STALE" if stale else "MISS" if origin is Origin.UPSTREAM else "HIT"
    return f"{word} {origin.value}"


def conditional(
    request: web.Request, headers: Mapping[str, str], body: bytes, content_type: str, coding: Coding
) -> web.Response:
    """200 with `body`, or 304 if the client holds it already (RFC 9110 §13.1.2, §15.4.5)."""
    if none_match(header(request, "If-None-Match"), headers["ETag"]):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    described = {"Content-Type": content_type, **headers}
    if coding is not Coding.IDENTITY:
        described["Content-Encoding"] = coding.value
    return web.Response(body=body, headers=described)
