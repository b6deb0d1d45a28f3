"""Answers the legacy JSON API, which pip-compile asks for digests beside the index."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Final
from urllib.parse import quote

import msgspec
from aiohttp import web

from mirror.model import ProjectPage
from mirror.ports import Repository
from mirror.simple.compress import compress
from mirror.simple.negotiate import Coding, negotiate_coding
from mirror.web.headers import base_url, header
from mirror.web.legacy_document import legacy_document
from mirror.web.pages import CORS, cache_control, cache_status, conditional, wants_newest
from mirror.web.ready import LARGE
from mirror.web.routes import LegacyJsonRoute

MAX_AGE: Final = 900
"""Seconds that a document may be kept, and no longer than the page that it is made of."""


class LegacyJson:
    """Answers documents whose files are those of the project page, at this mirror's own URLs."""

    def __init__(self, repository: Repository, public_url: str | None) -> None:
        self._repository, self._public_url = repository, public_url

    async def answer(self, request: web.Request, route: LegacyJsonRoute) -> web.Response:
        """Raises `NoSuchVersion`, and what the repository raises."""
        # Below the mount that was asked, because there the links of its project pages lead, too.
        base = base_url(request, self._public_url) + route.mount
        answer = await self._repository.project_page(route.project, newest=wants_newest(request))
        parts = await self._repository.legacy_json(route.project, route.version)
        coding = negotiate_coding(header(request, "Accept-Encoding"))
        job = (answer.page, parts, route.version, base, coding)
        body, etag = await asyncio.to_thread(_build, *job) if len(answer.page.files) >= LARGE else _build(*job)
        headers = {
            "ETag": etag,
            "Vary": "Accept-Encoding",
            "Cache-Control": cache_control(min(answer.max_age, MAX_AGE), stale=answer.stale),
            "X-Cache": cache_status(answer.origin, stale=answer.stale),
            **CORS,
        }
        if answer.page.serial is not None:
            headers["X-PyPI-Last-Serial"] = str(answer.page.serial)
        return conditional(request, headers, body, "application/json", coding)


def _build(
    page: ProjectPage, parts: dict[str, Any], version: str | None, base: str, coding: Coding
) -> tuple[bytes, str]:
    # Quoted as pip quotes links: pip-compile downloads every file whose URL it does not find here letter by letter.
    document = legacy_document(page, parts, version, lambda file: base + quote(file.path, safe="/@"))
    plain = msgspec.json.encode(document)
    return compress(plain, coding), f'"{hashlib.sha256(plain).hexdigest()[:32]}-{coding.value}"'
