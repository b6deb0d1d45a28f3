"""Provenance (PEP 740): upstream's documents as they are now, or as they were when upstream was last there."""

from __future__ import annotations

from typing import Final

import structlog

from mirror.errors import NoSuchFile, NoSuchSidecar, NotHeld, UpstreamFailure
from mirror.flight import Flights, Tasks
from mirror.model import File
from mirror.names import ProjectName
from mirror.ports import Upstream
from mirror.repositories.archives import Archives

MAX_PROVENANCE: Final = 8 * 1024 * 1024
ACCEPT: Final = "application/vnd.pypi.integrity.v1+json"

log = structlog.get_logger()


class Provenance:
    """The provenance of one upstream's files. It may grow, so it is asked for anew each time."""

    def __init__(self, upstream: Upstream, archives: Archives, tasks: Tasks, *, offline: bool) -> None:
        self._upstream, self._archives, self._offline = upstream, archives, offline
        self._fetches: Flights[str, bytes] = Flights(tasks, "provenance")

    async def document(self, project: ProjectName, file: File) -> bytes:
        """Raises `NoSuchSidecar` where there is none, `NotHeld` if it is not held offline, `UpstreamFailure`."""
        if not file.provenance:
            raise NoSuchSidecar(file.filename, "provenance")
        url = file.provenance
        if self._offline:
            return await self._held(project, file, NotHeld(f"{file.filename}.provenance"))
        try:
            return await self._fetches.run(file.path, lambda: self._fetch(project, file, url))
        except NoSuchFile:
            raise NoSuchSidecar(file.filename, "provenance") from None
        except UpstreamFailure as e:
            held = await self._held(project, file, e)
            log.warning("provenance not confirmed, serving the copy held", file=file.filename, reason=str(e))
            return held

    async def _held(self, project: ProjectName, file: File, otherwise: Exception) -> bytes:
        held = await self._archives.sidecar(project, file.filename, ".provenance", MAX_PROVENANCE)
        if held is None:
            raise otherwise
        return held

    async def _fetch(self, project: ProjectName, file: File, url: str) -> bytes:
        body = await self._upstream.fetch_small(url, accept=ACCEPT, limit=MAX_PROVENANCE)
        await self._archives.keep_sidecar(project, file.filename, ".provenance", body)
        return body
