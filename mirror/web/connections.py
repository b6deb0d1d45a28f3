"""Connections whose errors below the application, such as a malformed request line, are answered in its own style."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from aiohttp import web

from mirror.web.failures import plain
from mirror.web.headers import EVERY_HEAD

_SENTENCES: Final = {
    HTTPStatus.BAD_REQUEST: "This is no well-formed HTTP request.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The mirror failed unexpectedly.",
}


class Runner(web.AppRunner):
    """aiohttp's runner, with connections of our own."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory, **self._kwargs)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what reached no handler of the application, after which the connection is closed.

        aiohttp's own, which is thrown away, quotes the client's bytes and may be kept by caches. It logs `exc`,
        and raises `ConnectionError` if part of another answer has been sent.
        """
        super().handle_error(request, status, exc, message)
        known = HTTPStatus(status)
        response = plain(known, _SENTENCES.get(known, f"{known.phrase}."), dict(EVERY_HEAD))
        response.force_close()
        return response
