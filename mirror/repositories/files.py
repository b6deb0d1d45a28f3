"""Archives and sidecars of one upstream: the store's copy, else a fill, else a range passed through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
import structlog

from mirror.counters import Counters
from mirror.errors import IntegrityError, NoSuchFile, NoSuchProject, NotHeld, UpstreamFailure
from mirror.fill.download import Fill
from mirror.fill.fills import Fills
from mirror.fill.reader import PIECE, FillReader
from mirror.lru import LRU
from mirror.model import ByteSource, ByteStream, Content, File, FileFacts, FileRef, Origin, Span
from mirror.names import ProjectName, candidate_projects
from mirror.ports import Upstream
from mirror.repositories.archives import Archives
from mirror.repositories.content import close
from mirror.repositories.entries import KnownFiles
from mirror.repositories.metadata import Metadata
from mirror.repositories.pages import Pages
from mirror.spool import Spool

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
        fills: Fills,
        counters: Counters,
        *,
        offline: bool,
        pass_through: int,
    ) -> None:
        """`pass_through`: ranges that may go straight from upstream to their client at one time."""
        self._upstream, self._pages, self._archives, self._metadata = upstream, pages, archives, metadata
        self._fills, self._counters, self._offline = fills, counters, offline
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
        held = await self._archives.open(project, file, span, only_copy=self._offline or not offered)
        if held is not None:
            self._counters.count("files_store")
            return held
        self._check_fetchable(file, offered)
        self._counters.count("files_upstream")
        if not span.is_whole and span != Span(first=0):
            part = await self._part(project, file, span)
            if part is not None:
                return part
        return await self._arriving(project, file, span)

    async def facts(self, ref: FileRef) -> FileFacts:
        """As `Repository.file_facts`: the store's copy, the page's size, and only then a HEAD."""
        project, file, offered = await self.find(ref)
        held = await self._archives.open(project, file, only_copy=self._offline or not offered)
        if held is not None:
            await close(held)
            return FileFacts(held.size, Origin.STORE, file.digest)
        self._check_fetchable(file, offered)
        size, origin = file.size if file.size is not None else self._told.get(file.path), Origin.MEMORY
        if size is None:
            size, origin = await self._upstream.fetch_size(file), Origin.UPSTREAM
            if size is None:
                size = await self._size_of_arriving(project, file)
            self._remember_size(file, size)
        # With the size, or the first thing that it does is to ask for it once more.
        self._metadata.derive_behind(project, msgspec.structs.replace(file, size=size))
        return FileFacts(size, origin, file.digest)

    def _check_fetchable(self, file: File, offered: bool) -> None:
        if self._offline:
            raise NotHeld(file.filename)
        if not offered:
            raise NoSuchFile(file.filename)

    def _remember_size(self, file: File, size: int) -> None:
        if file.size is None and file.digest is not None:  # without a digest the file may be another tomorrow
            self._told.put(file.path, size)

    # --- not held: from upstream ---------------------------------------------------------------

    async def _arriving(self, project: ProjectName, file: File, span: Span) -> ByteStream:
        """The file while it arrives. Bytes that fail their check before a client has any are asked for once more,
        past upstream's own caches: one of those has been seen to deliver damaged bytes of the right length."""
        for again in (False, True):
            reader = FillReader(self._fill(project, file, bypass_caches=again))
            try:
                size, start, stop = await reader.begin(span)
            except IntegrityError:
                if again:
                    raise
                continue
            return ByteStream(reader, size, start, stop, Origin.UPSTREAM, file.digest)
        raise AssertionError("unreachable: the second try returns or raises")

    async def _size_of_arriving(self, project: ProjectName, file: File) -> int:
        fill = self._fill(project, file)
        reader = FillReader(fill)
        try:
            return await fill.opened()
        finally:
            await reader.aclose()

    def _fill(self, project: ProjectName, file: File, *, bypass_caches: bool = False) -> Fill:
        async def keep(kept: File, spool: Spool, size: int) -> None:
            # After a crash no archive shall be there whose page is not: offline, nobody could ask for it.
            await self._pages.settle(project)
            if await self._archives.keep(project, kept, spool, size):
                self._metadata.archive_kept(project, kept, size)

        return self._fills.join(file, keep, bypass_caches=bypass_caches)

    async def _part(self, project: ProjectName, file: File, span: Span) -> ByteStream | None:
        """A range of a file that is not held, passed through from upstream; None if a fill serves it as well.

        Such a range takes up its connection to upstream for as long as its client takes to read it. A download does
        not, so beyond some such ranges there are only downloads: slow clients keep nobody from upstream.
        """
        fill = self._fills.running(file.path)
        if fill is not None and fill.size is not None and span.resolve(fill.size)[0] <= fill.have + 4 * PIECE:
            return None
        if file.size is not None and span.resolve(file.size) == (0, file.size):  # an impossible range is refused here
            return None  # all that there is can be verified, however it is asked for
        told = self._told.get(file.path) if file.size is None else file.size
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


def _named(project: ProjectName, known: KnownFiles, ref: FileRef) -> tuple[ProjectName, File, bool] | None:
    if file := known.page.by_path.get(ref.path):
        return project, file, True
    if (hashes := known.withdrawn.get(ref.path)) is not None:
        return project, File(ref.filename, "", ref.path, hashes), False
    return None
