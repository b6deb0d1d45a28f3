"""Answers a file's attestations by project and version (PEP 740)."""

from __future__ import annotations

from aiohttp import web

from mirror.errors import NoSuchFile, NotAcceptable
from mirror.model import FileRef
from mirror.ports import Repository
from mirror.simple.versions import file_version
from mirror.web.files import PROVENANCE_TYPE, Files
from mirror.web.headers import header
from mirror.web.legacy_document import same_version
from mirror.web.routes import ProvenanceRoute

_ACCEPTED = (PROVENANCE_TYPE, "application/json", "application/*", "*/*")


class Provenance:
    """Finds a file on its project's page and answers the provenance that stands beside it."""

    def __init__(self, repository: Repository, files: Files) -> None:
        self._repository, self._files = repository, files

    async def answer(self, request: web.Request, route: ProvenanceRoute) -> web.Response:
        """Raises `NotAcceptable`, `NoSuchFile`, and what `Repository.open_sidecar` raises."""
        accept = header(request, "Accept")
        if accept is not None and not any(_admits(element) for element in accept.split(",")):
            raise NotAcceptable((PROVENANCE_TYPE,))
        page = (await self._repository.project_page(route.project)).page
        file = page.by_filename.get(route.filename)
        if file is None or not same_version(file_version(file.filename, page.name), route.version):
            raise NoSuchFile(route.filename)
        response = await self._files.answer_sidecar(request, FileRef(file.path), "provenance")
        response.headers["Vary"] = "Accept"
        return response


def _admits(element: str) -> bool:
    name, *parameters = (part.strip().lower() for part in element.split(";"))
    refused = any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for p in parameters)
    return name in _ACCEPTED and not refused
