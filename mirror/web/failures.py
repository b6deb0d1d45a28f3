"""The one table that maps failures to HTTP, and the bare answers made from it."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Final

from aiohttp import web

from mirror.errors import (
    BadRequest,
    ConfigError,
    IntegrityError,
    InvalidName,
    MirrorError,
    NotAcceptable,
    NotFound,
    ShuttingDown,
    StartError,
    StoreFailure,
    UnreadableArchive,
    UnsatisfiableSpan,
    UpstreamFailure,
)

TABLE: Final[dict[type[MirrorError], HTTPStatus]] = {
    UnsatisfiableSpan: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    NotAcceptable: HTTPStatus.NOT_ACCEPTABLE,
    InvalidName: HTTPStatus.BAD_REQUEST,
    BadRequest: HTTPStatus.BAD_REQUEST,
    NotFound: HTTPStatus.NOT_FOUND,
    # Bytes that are not those promised: asking again may help, but nobody should be told to hurry.
    IntegrityError: HTTPStatus.BAD_GATEWAY,
    # Never 404 and never 504: pip turns the one into "use the next index" and does not retry the other.
    UpstreamFailure: HTTPStatus.SERVICE_UNAVAILABLE,
    UnreadableArchive: HTTPStatus.BAD_GATEWAY,
    StoreFailure: HTTPStatus.SERVICE_UNAVAILABLE,
    ShuttingDown: HTTPStatus.SERVICE_UNAVAILABLE,
    ConfigError: HTTPStatus.INTERNAL_SERVER_ERROR,
    StartError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""The entry of the nearest class in an error's ancestry counts."""

RETRY_AFTER: Final = 2
"""Seconds that a client is told to wait where the failure itself says nothing."""

MAX_RETRY_AFTER: Final = 5
"""Longer pauses make installers give up; see the clients' own back-off."""


def status_of(error: BaseException) -> HTTPStatus:
    """The status for `error`: from `TABLE`, or 500 for what nobody foresaw."""
    for ancestor in type(error).__mro__:
        if status := TABLE.get(ancestor):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def failure(error: Exception, request_id: str) -> web.Response:
    """The answer to a request that ended with `error`, before anything of an answer was sent."""
    if isinstance(error, web.HTTPException):
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return plain(HTTPStatus(error.status), f"{HTTPStatus(error.status).phrase}.", allow)
    status = status_of(error)
    headers: dict[str, str] = {}
    match error:
        case UnsatisfiableSpan():
            headers = {"Content-Range": f"bytes */{error.size}", "Accept-Ranges": "bytes"}
        case NotAcceptable():
            headers = {"Vary": "Accept, Accept-Encoding"}
        case UpstreamFailure(retry_after=float() | int() as seconds):
            headers = {"Retry-After": str(min(MAX_RETRY_AFTER, max(1, math.ceil(seconds))))}
        case _ if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers = {"Retry-After": str(RETRY_AFTER)}
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return plain(status, f"The mirror failed unexpectedly; its log tells more under {request_id}.")
    return plain(status, str(error), headers)


def method_not_allowed() -> web.Response:
    """405: everything here can only be read."""
    return plain(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD are allowed here.", {"Allow": "GET, HEAD"})


def plain(status: HTTPStatus, sentence: str, headers: dict[str, str] | None = None) -> web.Response:
    """One sentence of plain text that no cache may keep."""
    return web.Response(
        status=status,
        body=f"{sentence}\n".encode("ascii", "backslashreplace"),
        headers={
            "Content-Type": "text/plain; charset=utf-8",
            "Cache-Control": "no-store",
            **(headers or {}),
        },
    )
