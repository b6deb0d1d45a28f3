"""Answers the list of all projects: streamed, because it is megabytes long and seldom asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus

from aiohttp import HttpVersion10, web

from mirror.lru import LRU
from mirror.model import ByteStream, Content, LocalFile
from mirror.ports import Repository
from mirror.simple.compress import new_compressor
from mirror.simple.negotiate import Coding, Format
from mirror.simple.render_list import ListRenderer
from mirror.simple.terms import API_VERSION
from mirror.web.conditions import none_match
from mirror.web.headers import header
from mirror.web.pages import cache_status, negotiated, page_headers
from mirror.web.routes import ProjectListRoute
from mirror.web.sending import Sender, file_pieces


class ProjectLists:
    """Answers the list of all projects of `repository`, rendered and compressed on the way, never held whole."""

    def __init__(self, repository: Repository, sender: Sender) -> None:
        self._repository, self._sender = repository, sender
        self._lengths: LRU[tuple[str, Format], int] = LRU(16)

    async def answer(self, request: web.Request, route: ProjectListRoute) -> web.StreamResponse:
        """Raises `NotAcceptable` before anybody is asked, and what `Repository.project_list` raises."""
        form, coding = negotiated(request, route.override)
        # An HTTP/1.0 client knows no chunks: without a length it could not tell a part from the whole.
        measured = request.version <= HttpVersion10
        if measured:
            coding = Coding.IDENTITY
        answer = await self._repository.project_list()
        # Weak, because how the bytes are compressed depends on the pieces in which they come.
        etag = f'W/"{answer.revision}-{API_VERSION}-{form.name.lower()}-{coding.value}"'
        headers = page_headers(form, etag, max_age=answer.max_age, stale=answer.stale)
        headers["X-Cache"] = cache_status(answer.content.origin, stale=answer.stale)
        async with _closing(answer.content) as content:
            if none_match(header(request, "If-None-Match"), etag):
                return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
            headers["Content-Type"] = form.content_type
            if coding is not Coding.IDENTITY:
                headers["Content-Encoding"] = coding.value
            if request.method == "HEAD":
                return web.Response(headers=headers)
            length = self._lengths.get((answer.revision, form)) if measured else None
            if length is not None or not measured:
                response = web.StreamResponse(headers=headers)
                response.content_length = length
                async with aclosing(_rendered(content, form, coding)) as pieces:
                    return await self._sender.send_pieces(request, response, pieces)
            self._lengths.put((answer.revision, form), await _length(content, form))
        return await self.answer(request, route)


async def _rendered(content: Content, form: Format, coding: Coding) -> AsyncGenerator[bytes, None]:
    renderer, compressor = ListRenderer(form), new_compressor(coding)
    yield compressor.compress(renderer.head())
    async with aclosing(_names(content)) as pieces:
        async for piece in pieces:
            yield await asyncio.to_thread(lambda part: compressor.compress(renderer.feed(part)), piece)
    yield compressor.compress(renderer.tail()) + compressor.flush()


async def _length(content: Content, form: Format) -> int:
    length = 0
    async for piece in _rendered(content, form, Coding.IDENTITY):
        length += len(piece)
    return length


async def _names(content: Content) -> AsyncGenerator[bytes, None]:
    match content:
        case LocalFile():
            async for piece in file_pieces(content):
                yield piece
        case ByteStream():
            async for piece in content.body:
                yield piece


@asynccontextmanager
async def _closing(content: Content) -> AsyncIterator[Content]:
    try:
        yield content
    finally:
        match content:
            case LocalFile():
                content.close()
            case ByteStream():
                await content.aclose()
