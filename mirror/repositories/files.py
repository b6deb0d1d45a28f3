"""Archives and sidecars of one upstream: the store's copy, else a fill, else a range passed through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
import structlog

from mirror.counters import Counters
from mirror.errors import NoSuchFile, NoSuchProject, NotHeld, UpstreamFailure
from mirror.lru import LRU
from mirror.model import ByteSource, ByteStream, Content, File, FileFacts, FileRef, LocalFile, Origin, Span
from mirror.names import ProjectName, candidate_projects
from mirror.ports import Upstream
from mirror.repositories.archives import Archives
from mirror.repositories.arrivals import Arrivals
from mirror.repositories.entries import KnownFiles
from mirror.repositories.metadata import Metadata
from mirror.repositories.pages import Pages

SMALL: Final = 1024 * 1024
"""Bytes up to which a range of a file that is not held is answered by fetching it whole: it costs the same
round trip, the bytes are verified, and the client wants the rest soon."""
REMEMBERED: Final = 10_000
"""Files of which it is remembered how long upstream says they are."""

log = structlog.get_logger()


class Files:
    """Answers for the files that the pages of one upstream name, and for no others."""

    def __init__(
        self,
        upstream: Upstream,
        pages: Pages,
        archives: Archives,
        metadata: Metadata,
        arrivals: Arrivals,
        counters: Counters,
        *,
        offline: bool,
        pass_through: int,
    ) -> None:
        """`pass_through`: ranges that may go straight from upstream to their client at one time."""
        self._upstream, self._pages, self._archives, self._metadata = upstream, pages, archives, metadata
        self._arrivals, self._counters, self._offline = arrivals, counters, offline
        # Hints, by public path: the head of an answer may be that of a portal or an error page, so it neither
        # becomes part of the page nor is a download held to it.
        self._told: LRU[str, int] = LRU(REMEMBERED)
        self._passing, self._pass_through = 0, pass_through

    async def find(self, ref: FileRef) -> tuple[ProjectName, File, bool]:
        """Project and entry of the file with that public path, and whether upstream's page still names it.

        A client with a lock file asks for files whose page was never read here, or was read before the file
        was published. So the file's name gives the candidates and their pages decide, read anew where needed
        (no more often than a reload by any client would). Raises `NoSuchFile`, and the failure if a page that
        might name the file cannot be read.
        """
        candidates = candidate_projects(ref.filename)
        for project in candidates:
            known = await self._pages.held(project)
            if known is not None and (found := _named(project, known, ref)):
                return found
        failure: UpstreamFailure | None = None
        for project in candidates:
            try:
                known = await self._pages.confirmed(project)
            except (NoSuchProject, NotHeld):
                continue
            except UpstreamFailure as e:
                failure = e
                continue
            if found := _named(project, known, ref):
                return found
        if failure is not None:
            raise failure
        raise NoSuchFile(ref.filename)

    async def open(self, ref: FileRef, span: Span) -> Content:
        """As `Repository.open_file`."""
        project, file, offered = await self.find(ref)
        otherwise = self._unfetchable(file, offered)
        if self._archives.remote and (_is_whole(file, span) or self._arrivals.near(file, span)):
            return await self._arrivals.open(project, file, span, otherwise)
        held = await self._archives.open(project, file, span, only_copy=otherwise is not None)
        if held is not None:
            self._counters.count("files_cache" if held.origin is Origin.CACHE else "files_store")
            return held
        if otherwise is not None:
            raise otherwise
        if not span.is_whole and span != Span(first=0):
            part = await self._part(project, file, span)
            if part is not None:
                self._counters.count("files_upstream")
                return part
        return await self._arrivals.fetch(project, file, span)

    async def facts(self, ref: FileRef) -> FileFacts:
        """As `Repository.file_facts`: the store's copy, the page's size, and only then a HEAD.

        A remote store is asked only for what the page does not say.
        """
        project, file, offered = await self.find(ref)
        otherwise = self._unfetchable(file, offered)
        size, origin = self._known_size(file), Origin.MEMORY
        if size is None or otherwise is not None or not self._archives.remote:
            held = await self._archives.glance(project, file, only_copy=otherwise is not None)
            if isinstance(held, LocalFile):
                held.close()
                return FileFacts(held.size, held.origin, file.digest)
            if held is not None:
                self._remember_size(file, held)
                return FileFacts(held, Origin.STORE, file.digest)
            if otherwise is not None:
                raise otherwise
        if size is None:
            size, origin = await self._upstream.fetch_size(file), Origin.UPSTREAM
            if size is None:
                size = await self._arrivals.size(project, file)
            self._remember_size(file, size)
        # With the size, or the first thing that it does is to ask for it once more.
        self._metadata.derive_behind(project, msgspec.structs.replace(file, size=size))
        return FileFacts(size, origin, file.digest)

    def _unfetchable(self, file: File, offered: bool) -> NotHeld | NoSuchFile | None:
        """Why upstream is not asked for a file that the store lacks; None if it is."""
        if self._offline:
            return NotHeld(file.filename)
        return None if offered else NoSuchFile(file.filename)

    def _known_size(self, file: File) -> int | None:
        return file.size if file.size is not None else self._told.get(file.path)

    def _remember_size(self, file: File, size: int) -> None:
        if file.size is None and file.digest is not None:  # without a digest the file may be another tomorrow
            self._told.put(file.path, size)

    async def _part(self, project: ProjectName, file: File, span: Span) -> ByteStream | None:
        """A range of a file that is not held, passed through from upstream; None if a fill serves it as well.

        Such a range takes up its connection to upstream for as long as its client takes to read it. A download does
        not, so beyond some such ranges there are only downloads: slow clients keep nobody from upstream.
        """
        if self._arrivals.near(file, span):
            return None
        if file.size is not None and span.resolve(file.size) == (0, file.size):  # an impossible range is refused here
            return None  # all that there is can be verified, however it is asked for
        told = self._known_size(file)
        if (told is not None and told <= SMALL) or self._passing >= self._pass_through:
            return None
        body = _Passing(self._passes)
        try:
            stream = await self._upstream.fetch_file(file, span)
            body.source = stream.body
            part = None if stream.size is None else span.resolve(stream.size)  # upstream may ignore ranges
        except BaseException:  # cancelled, too: a connection that nobody closes is lost to all
            await body.aclose()
            raise
        if stream.size is None or (stream.start, stream.stop) != part or part == (0, stream.size):
            await body.aclose()  # upstream does not do ranges; the whole file is worth keeping then
            return None
        assert stream.stop is not None
        self._remember_size(file, stream.size)
        self._metadata.derive_behind(project, msgspec.structs.replace(file, size=stream.size))
        return ByteStream(body, stream.size, stream.start, stream.stop, Origin.UPSTREAM, file.digest)

    def _passes(self, by: int) -> None:
        self._passing += by


class _Passing:
    """The body of a range that is passed through, counted until it is at its end or closed."""

    def __init__(self, count: Callable[[int], None]) -> None:
        self._count: Callable[[int], None] | None = count
        self.source: ByteSource | None = None
        count(1)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.source is None:
            raise StopAsyncIteration
        try:
            return await anext(aiter(self.source))
        except BaseException:  # cancelled, too: a connection that nobody closes is lost to all
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if self._count is not None:
            count, self._count = self._count, None
            count(-1)
        source, self.source = self.source, None
        if source is not None:
            await source.aclose()


def _is_whole(file: File, span: Span) -> bool:
    """Whether the whole file answers a request for `span` best. An impossible range is refused here."""
    if span.is_whole or span == Span(first=0):
        return True
    return file.size is not None and (span.resolve(file.size) == (0, file.size) or file.size <= SMALL)


def _named(project: ProjectName, known: KnownFiles, ref: FileRef) -> tuple[ProjectName, File, bool] | None:
    if file := known.page.by_path.get(ref.path):
        return project, file, True
    if (hashes := known.withdrawn.get(ref.path)) is not None:
        return project, File(ref.filename, "", ref.path, hashes), False
    return None
