"""Core metadata: upstream's where it has it, read out of the wheel where not."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

import structlog

from mirror.counters import Counters
from mirror.errors import (
    IntegrityError,
    NoSuchFile,
    NoSuchSidecar,
    NotHeld,
    StoreFailure,
    UnreadableArchive,
    UpstreamFailure,
    UpstreamMisbehaved,
)
from mirror.flight import Flights, Tasks, landed
from mirror.lru import LRU
from mirror.model import File, Learned, LocalFile, Span
from mirror.names import ProjectName
from mirror.ports import Upstream
from mirror.repositories.archives import Archives
from mirror.repositories.content import read
from mirror.repositories.pages import Pages
from mirror.wheel import metadata_from_file, metadata_from_ranges, metadata_from_sdist

MAX_METADATA: Final = 8 * 1024 * 1024
AT_ONCE: Final = 4
"""Wheels whose metadata is read by ranges at the same time; clients' own requests come first."""

log = structlog.get_logger()


class Metadata:
    """The core metadata of one upstream's files."""

    def __init__(
        self,
        upstream: Upstream,
        pages: Pages,
        archives: Archives,
        tasks: Tasks,
        counters: Counters,
        *,
        derive: bool,
        offline: bool,
    ) -> None:
        self._upstream, self._pages, self._archives, self._counters = upstream, pages, archives, counters
        self._derive, self._offline = derive, offline
        self._fetches: Flights[str, bytes] = Flights(tasks, "sidecar")
        self._derivations: Flights[str, bytes] = Flights(tasks, "derive metadata")
        self._audits: Flights[str, None] = Flights(tasks, "audit metadata")
        self._hopeless: LRU[str, str] = LRU(10_000)
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def core_metadata(self, project: ProjectName, file: File) -> bytes:
        """The bytes of `{file}.metadata`, whose sha256 is the one advertised (PEP 658).

        Raises `NoSuchSidecar` where none is advertised, `IntegrityError` where upstream breaks its promise.
        """
        if not file.core_metadata:
            raise NoSuchSidecar(file.filename, "core metadata")
        held = await self._archives.sidecar(project, file.filename, ".metadata", MAX_METADATA)
        if held is not None and _as_promised(file, held):
            return held
        if held is not None:
            self._counters.count("metadata_mismatches")
            log.error("stored core metadata is damaged", file=file.filename)
        if self._offline:
            return await self._out_of_held(project, file)
        return await self._fetches.run(file.path, lambda: self._fetch(project, file))

    async def _out_of_held(self, project: ProjectName, file: File) -> bytes:
        try:
            body = await self._derivation(project, file)
        except UnreadableArchive as e:
            raise NotHeld(f"{file.filename}.metadata") from e
        if not _as_promised(file, body):
            raise NotHeld(f"{file.filename}.metadata")
        return body

    async def _fetch(self, project: ProjectName, file: File) -> bytes:
        try:
            body = await self._upstream.fetch_small(f"{file.url}.metadata", accept="*/*", limit=MAX_METADATA)
        except (NoSuchFile, UpstreamMisbehaved) as e:
            return await self._instead(project, file, e)
        if not _as_promised(file, body):
            self._counters.count("metadata_mismatches")
            return await self._instead(project, file, self._broken_promise(file))
        await self._keep(project, file, body)
        return body

    async def _instead(self, project: ProjectName, file: File, why: NoSuchFile | UpstreamFailure) -> bytes:
        """Upstream cannot or does not deliver what the page promises: the wheel itself may."""
        body = None
        try:
            body = await self._derivation(project, file)
        except (UnreadableArchive, NoSuchFile) as e:
            log.warning("core metadata not to be had", file=file.filename, upstream=str(why), wheel=str(e))
        if body is not None and _as_promised(file, body):
            return body
        if isinstance(why, UpstreamMisbehaved):
            raise why  # no proof that upstream has no such metadata
        if body is not None:
            await self._keep(project, file, body, refused=True)
        else:
            self._refuse(project, file)
        raise self._broken_promise(file) from why

    def _broken_promise(self, file: File) -> IntegrityError:
        return IntegrityError(self._upstream.name, f"{file.filename}.metadata", "is not what the page promises")

    def _refuse(self, project: ProjectName, file: File) -> None:
        """From now on the page advertises no core metadata of this file."""
        self._hopeless.put(file.path, "its core metadata has been refused")
        self._pages.learn(project, file.filename, Learned(metadata_refused=True))

    async def of_source(self, project: ProjectName, file: File) -> bytes:
        """PKG-INFO out of a source archive, if it is held. It may lack what only a build tells, so it is never
        advertised. Raises `NotHeld`, `UnreadableArchive`.
        """
        held = await self._archives.glance(project, file)
        if isinstance(held, LocalFile):
            try:
                return await asyncio.to_thread(metadata_from_sdist, held.handle, file.filename)
            finally:
                held.close()
        raise NotHeld(file.filename)

    # --- out of the wheel ----------------------------------------------------------------------

    def derive_behind(self, project: ProjectName, file: File) -> None:
        """Somebody is reading this wheel by ranges, surely for its metadata: the next one shall find it advertised."""
        wanted = self._derive and not self._offline and not file.core_metadata and file.filename.endswith(".whl")
        if wanted and self._hopeless.get(file.path) is None:
            self._launch(project, file)

    def archive_kept(self, project: ProjectName, file: File, size: int) -> None:
        """An archive has just been stored: what its page does not say of it can be read from it now."""
        if file.size is None:
            self._pages.learn(project, file.filename, Learned(size=size))
        if self._derive and file.filename.endswith(".whl"):
            self._audits.launch(file.path, lambda: self._audit(project, file))

    async def _audit(self, project: ProjectName, file: File) -> None:
        """Reads the metadata of a verified wheel. What was read by ranges had no proof; this has."""
        if file.path in self._derivations:
            await asyncio.wait([self._launch(project, file)])  # so that what it learns does not come last
        lesson = await self._pages.lesson(project, file.filename)
        said = lesson.metadata_sha256 if lesson else None
        try:
            body = await self._read_wheel(project, file)
        except UnreadableArchive:
            if said is not None:
                self._counters.count("metadata_mismatches")
                self._refuse(project, file)
            raise
        self._hopeless.drop(file.path)
        if said not in (None, _sha256(body)):
            self._counters.count("metadata_mismatches")
            log.error("core metadata read by ranges was wrong", file=file.filename)
            await self._keep(project, file, body, refused=True)

    async def _derivation(self, project: ProjectName, file: File) -> bytes:
        if why := self._hopeless.get(file.path):
            raise UnreadableArchive(file.filename, why)
        return await landed(self._launch(project, file))

    def _launch(self, project: ProjectName, file: File) -> asyncio.Task[bytes]:
        return self._derivations.launch(file.path, lambda: self._read_wheel(project, file))

    async def _read_wheel(self, project: ProjectName, file: File) -> bytes:
        try:
            async with self._turn:
                held = await self._archives.glance(project, file, only_copy=self._offline)
                match held:
                    case LocalFile():
                        try:
                            body = await asyncio.to_thread(metadata_from_file, held.handle, file.filename)
                        finally:
                            held.close()
                    case int():
                        body = await self._read_stored(project, file, held)
                    case None if self._offline:
                        raise NotHeld(file.filename)
                    case None:
                        body = await self._read_remote(file)
        except UnreadableArchive as e:
            self._hopeless.put(file.path, e.why)
            self._counters.count("metadata_underivable")
            raise
        self._counters.count("metadata_derived")
        if _as_promised(file, body):
            await self._keep(project, file, body)
        return body

    async def _read_stored(self, project: ProjectName, file: File, size: int) -> bytes:
        async def fetch(start: int, stop: int) -> bytes:
            part = await self._archives.open(project, file, Span(start, stop - 1))
            if part is None:
                raise StoreFailure("read", file.filename, "it has vanished")
            return await read(part)

        return await metadata_from_ranges(file.filename, size, fetch)

    async def _read_remote(self, file: File) -> bytes:
        size = file.size if file.size is not None else await self._upstream.fetch_size(file)
        if size is None:
            raise UnreadableArchive(file.filename, "upstream does not say how long it is")

        async def fetch(start: int, stop: int) -> bytes:
            stream = await self._upstream.fetch_file(file, Span(start, stop - 1))
            try:
                if (stream.start, stream.stop) != (start, stop):
                    raise UnreadableArchive(file.filename, "upstream does not answer ranges")
                parts = []
                missing = stop - start
                async for piece in stream.body:
                    parts.append(piece)
                    missing -= len(piece)
                    if missing < 0:
                        break
                return b"".join(parts)
            finally:
                await stream.aclose()

        return await metadata_from_ranges(file.filename, size, fetch)

    async def _keep(self, project: ProjectName, file: File, body: bytes, *, refused: bool = False) -> None:
        """Stores core metadata, and advertises it where the page does not; only now, because now it can be served.

        `refused`: the page advertises other metadata, and that was wrong.
        """
        kept = await self._archives.keep_sidecar(project, file.filename, ".metadata", body)
        if refused or (kept and not isinstance(file.core_metadata, dict)):
            digest = _sha256(body) if kept else None
            self._pages.learn(project, file.filename, Learned(metadata_sha256=digest, metadata_refused=refused))


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _as_promised(file: File, body: bytes) -> bool:
    """Whether core metadata has the digest that the page gives it; true where it gives none."""
    promised = file.core_metadata.get("sha256") if isinstance(file.core_metadata, dict) else None
    return promised in (None, _sha256(body))
