"""Archives on their way here: one question to the store and one download for all who ask for the same one."""

from __future__ import annotations

import asyncio

from mirror.counters import Counters
from mirror.errors import IntegrityError, MirrorError, StoreFailure
from mirror.fill.download import Fill
from mirror.fill.fills import Fills
from mirror.fill.reader import PIECE, FillReader
from mirror.model import ByteStream, Content, File, LocalFile, Origin, Span
from mirror.names import ProjectName
from mirror.ports import Leases, Sink, Store
from mirror.repositories.archives import Archives
from mirror.repositories.metadata import Metadata
from mirror.repositories.pages import Pages
from mirror.repositories.places import ArchivePlace
from mirror.spool import Spool


class _Question:
    """A client asks the store for a file; others who want it wait for what comes of it."""

    def __init__(self) -> None:
        self.answered = asyncio.Event()
        self.is_here = False
        """The file lies on this machine: whoever wants it opens it."""
        self.failure: MirrorError | None = None


class Arrivals:
    """Whole archives of one upstream that are not at hand."""

    def __init__(
        self,
        store: Store,
        archives: Archives,
        pages: Pages,
        metadata: Metadata,
        fills: Fills,
        counters: Counters,
        *,
        leases: Leases | None,
        sink: Sink | None,
    ) -> None:
        """`leases` and `sink` are used where the store is remote."""
        self._store, self._archives, self._pages, self._metadata = store, archives, pages, metadata
        self._fills, self._counters, self._leases, self._sink = fills, counters, leases, sink
        self._questions: dict[str, _Question] = {}

    def near(self, file: File, span: Span) -> bool:
        """Whether a download is on its way that will have the beginning of `span` soon."""
        fill = self._fills.running(file.path)
        return fill is not None and fill.size is not None and span.resolve(fill.size)[0] <= fill.have + 4 * PIECE

    async def open(self, project: ProjectName, file: File, span: Span, otherwise: MirrorError | None) -> Content:
        """The part `span` of an archive of a remote store, else from upstream, or `otherwise` if that is not None.

        What only the store or upstream has arrives as a whole, for all who want any of it.
        """
        found = await self._found(project, file, otherwise)
        if isinstance(found, FillReader):
            return await self._stream(found, project, file, span, otherwise)
        try:
            found.start, found.stop = span.resolve(found.size)
        except MirrorError:
            found.close()
            raise
        self._counters.count("files_cache" if found.origin is Origin.CACHE else "files_store")
        return found

    async def fetch(self, project: ProjectName, file: File, span: Span) -> ByteStream:
        """The part `span` of an archive that the store was found to lack."""
        return await self._stream(FillReader(self._start(project, file)), project, file, span, None)

    async def size(self, project: ProjectName, file: File) -> int:
        """The size of an archive of which nobody will say how long it is: it is downloaded."""
        fill = self._start(project, file)
        reader = FillReader(fill)
        try:
            return await fill.opened()
        finally:
            await reader.aclose()

    async def _stream(
        self, reader: FillReader, project: ProjectName, file: File, span: Span, otherwise: MirrorError | None
    ) -> ByteStream:
        """The file while it arrives. Bytes that fail their check before a client has any are asked for once more, of
        upstream and past its own caches: one of those has been seen to deliver damaged bytes of the right length."""
        try:
            size, start, stop = await reader.begin(span)
        except IntegrityError as e:
            if otherwise is not None:
                raise otherwise from e
            reader = FillReader(self._start(project, file, bypass_caches=True))
            size, start, stop = await reader.begin(span)
        self._counters.count("files_upstream" if reader.origin is Origin.UPSTREAM else "files_store")
        return ByteStream(reader, size, start, stop, reader.origin, file.digest)

    # --- one question for all --------------------------------------------------------------------

    async def _found(self, project: ProjectName, file: File, otherwise: MirrorError | None) -> FillReader | LocalFile:
        """Asks the store for the whole file, unless somebody is reading it or asking for it already."""
        while True:
            if fill := self._fills.joined(file):
                return FillReader(fill)
            question = self._questions.get(file.path)
            if question is None:
                return await self._first(project, file, otherwise)
            await question.answered.wait()
            if question.failure is not None:
                raise question.failure
            if question.is_here:
                return await self._ask(project, file, otherwise)
            # There is a download by now, or the client that asked has left.

    async def _first(self, project: ProjectName, file: File, otherwise: MirrorError | None) -> FillReader | LocalFile:
        question = self._questions[file.path] = _Question()
        try:
            found = await self._ask(project, file, otherwise)
            question.is_here = isinstance(found, LocalFile)
            return found
        except MirrorError as e:
            question.failure = e
            raise
        finally:
            del self._questions[file.path]
            question.answered.set()

    async def _ask(self, project: ProjectName, file: File, otherwise: MirrorError | None) -> FillReader | LocalFile:
        lost: StoreFailure | None = None
        try:
            held = await self._archives.open(project, file, only_copy=otherwise is not None, unproven=True, raises=True)
        except StoreFailure as e:
            if otherwise is not None:
                raise
            held, lost = None, e
        if isinstance(held, LocalFile):
            return held
        if fill := self._fills.joined(file):  # begun since: the copy on this machine has just been evicted
            reader = FillReader(fill)
            if held is not None:
                await held.aclose()
            return reader
        if held is None and otherwise is not None:
            raise otherwise
        return FillReader(self._start(project, file, opened=held, online=otherwise is None, lost=lost))

    def _start(
        self,
        project: ProjectName,
        file: File,
        *,
        bypass_caches: bool = False,
        online: bool = True,
        opened: ByteStream | None = None,
        lost: StoreFailure | None = None,
    ) -> Fill:
        # After a crash no archive shall be there whose page is not: offline, nobody could ask for it.
        async def settle() -> None:
            await self._pages.settle(project)

        def kept(size: int) -> None:
            self._metadata.archive_kept(project, file, size)

        async def keep(_: File, spool: Spool, size: int) -> None:
            await settle()
            if await self._archives.keep(project, file, spool, size):
                kept(size)

        place = None
        if self._archives.remote:
            place = ArchivePlace(self._archives, self._store, self._leases, self._sink, project, file, settle, kept)
        return self._fills.join(
            file, keep, bypass_caches=bypass_caches, online=online, place=place, opened=opened, lost=lost
        )
