"""A whole repository in memory, and a served application over it."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from aiohttp import web

from mirror.counters import Counters
from mirror.errors import NoSuchFile, NoSuchProject, NoSuchSidecar
from mirror.flight import Tasks
from mirror.model import (
    WHOLE,
    ByteStream,
    Content,
    Digest,
    File,
    FileFacts,
    FileRef,
    LocalFile,
    Origin,
    PageAnswer,
    ProjectPage,
    Redirect,
    Span,
)
from mirror.names import ProjectName
from mirror.ports import ProjectListAnswer
from mirror.web.app import build_app
from mirror.web.services import Services
from tests.support.rawhttp import RawConnection, RawResponse, fetch


class MovableClock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Blob:
    """An archive and how it is delivered."""

    content: bytes
    promised: bool = True
    """Whether the index gave a digest."""
    streamed: bool = False
    """As a stream in pieces, instead of an open file."""
    piece: int = 64 * 1024
    stop_after: int | None = None
    """The stream ends, or raises `error`, after so many bytes."""
    error: Exception | None = None
    surplus: bytes = b""
    """Comes in one piece with the last bytes that were declared."""
    gate: asyncio.Event | None = None
    """The stream waits for it after its first piece."""
    unlinked_tail: int = 0
    """So many bytes are missing at the end of the open file."""

    @property
    def digest(self) -> Digest | None:
        return Digest("sha256", hashlib.sha256(self.content).hexdigest()) if self.promised else None


@dataclass
class MemoryRepository:
    """Answers from dictionaries; `failures` names methods that raise; `asked` tells what was called."""

    pages: dict[str, ProjectPage] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    sidecars: dict[tuple[str, str], bytes] = field(default_factory=dict)
    legacy: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    names_streamed: bool = False
    names_error: Exception | None = None
    failures: dict[str, Exception] = field(default_factory=dict)
    origin: Origin = Origin.MEMORY
    max_age: int = 600
    stale: bool = False
    redirects: dict[str, Redirect] = field(default_factory=dict)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    opened: list[BinaryIO] = field(default_factory=list)
    streams: list[PieceSource] = field(default_factory=list)

    async def project_list(self) -> ProjectListAnswer:
        self._called("project_list")
        lines = "".join(f"{name}\n" for name in self.names).encode()
        blob = Blob(lines, streamed=self.names_streamed, piece=1000, error=self.names_error)
        blob.stop_after = 2500 if self.names_error else None
        return ProjectListAnswer(
            self._content(blob, WHOLE), hashlib.sha256(lines).hexdigest(), self.max_age, self.stale
        )

    async def project_page(self, project: ProjectName, *, newest: bool = False) -> PageAnswer:
        self._called("project_page", project, newest)
        if project not in self.pages:
            raise NoSuchProject(project)
        return PageAnswer(self.pages[project], self.origin, self.max_age, self.stale)

    async def open_file(self, ref: FileRef, span: Span = WHOLE) -> Content:
        self._called("open_file", ref.path, span)
        return self._content(self._blob(ref), span)

    async def redirect(self, ref: FileRef) -> Redirect | None:
        self._called("redirect", ref.path)
        return self.redirects.get(ref.path)

    async def file_facts(self, ref: FileRef) -> FileFacts:
        self._called("file_facts", ref.path)
        blob = self._blob(ref)
        return FileFacts(len(blob.content), Origin.STORE, blob.digest)

    async def open_sidecar(self, ref: FileRef, kind: str) -> bytes:
        self._called("open_sidecar", ref.path, kind)
        self._blob(ref)
        if kind not in ("metadata", "provenance"):
            raise ValueError(kind)
        if (ref.path, kind) not in self.sidecars:
            raise NoSuchSidecar(ref.filename, kind)
        return self.sidecars[ref.path, kind]

    async def legacy_json(self, project: ProjectName, version: str | None = None) -> dict[str, Any]:
        self._called("legacy_json", project, version)
        return self.legacy

    def add_file(self, project: str, filename: str, blob: Blob, **facts: Any) -> File:
        """Puts an archive on `project`'s page and returns its entry."""
        hashes = {"sha256": blob.digest.hex} if blob.digest else {}
        file = File(
            filename=filename,
            url=f"https://files.example.com/packages/ab/cd/{filename}",
            path=f"packages/ab/cd/{filename}",
            hashes=hashes,
            **({"size": len(blob.content)} | facts),
        )
        self.blobs[file.path] = blob
        old = self.pages.get(project)
        files = (*(old.files if old else ()), file)
        self.put_page(ProjectPage(ProjectName(project), files, versions=("1.0", "2.0"), serial=4711))
        return file

    def put_page(self, page: ProjectPage) -> None:
        revision = hashlib.sha256(repr(page.files).encode()).hexdigest()
        self.pages[page.name] = ProjectPage(
            page.name, page.files, page.versions, page.status, page.serial, revision=revision
        )

    def _called(self, method: str, *arguments: Any) -> None:
        self.asked.append((method, *arguments))
        if error := self.failures.get(method):
            raise error

    def _blob(self, ref: FileRef) -> Blob:
        if ref.path not in self.blobs:
            raise NoSuchFile(ref.filename)
        return self.blobs[ref.path]

    def _content(self, blob: Blob, span: Span) -> Content:
        size = len(blob.content)
        start, stop = span.resolve(size)
        if blob.streamed:
            source = PieceSource(blob, start, stop)
            self.streams.append(source)
            return ByteStream(source, size, start, stop, Origin.UPSTREAM, blob.digest)
        handle = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - whoever receives it closes it
        handle.write(blob.content[: size - blob.unlinked_tail])
        handle.flush()
        self.opened.append(handle)
        return LocalFile(handle, size, start, stop, Origin.STORE, blob.digest)


class PieceSource:
    """A body in pieces that fails as its blob says; remembers whether it was closed."""

    def __init__(self, blob: Blob, start: int, stop: int) -> None:
        self._pieces = self._run(blob, start, stop)
        self.closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        self.closed = True
        await self._pieces.aclose()

    async def _run(self, blob: Blob, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        end = stop if blob.stop_after is None else min(stop, start + blob.stop_after)
        for position in range(start, end, blob.piece):
            last = position + blob.piece >= end
            yield blob.content[position : min(end, position + blob.piece)] + (blob.surplus if last else b"")
            if blob.gate is not None:
                await blob.gate.wait()
        if blob.error is not None:
            raise blob.error


@dataclass
class Served:
    """A running application."""

    repository: MemoryRepository
    counters: Counters
    clock: MovableClock
    tasks: Tasks
    port: int

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def get(
        self,
        target: str,
        headers: dict[str, str] | None = None,
        *,
        method: str = "GET",
        version: str = "HTTP/1.1",
    ) -> RawResponse:
        """One request on a connection of its own; `target` is sent as it is."""
        async with self.connect() as connection:
            await connection.request(method, target, headers, version=version)
            return await connection.response(method)

    async def settled(self) -> None:
        """Waits, at most as long as a test may take, until everything that was opened is closed again."""
        while not all(handle.closed for handle in self.repository.opened) or not all(
            stream.closed for stream in self.repository.streams
        ):
            await asyncio.sleep(0.005)

    async def counted(self, event: str, times: int = 1) -> None:
        """Waits until `event` was counted `times` times."""
        while self.counters[event] < times:
            await asyncio.sleep(0.005)

    def connect(self, **options: Any) -> RawConnection:
        return RawConnection("127.0.0.1", self.port, **options)


@asynccontextmanager
async def serving(repository: MemoryRepository, **settings: Any) -> AsyncIterator[Served]:
    """Serves `repository` on a free port of the loopback interface."""

    async def usable() -> None:
        return None

    counters, clock = Counters(), MovableClock()
    tasks = Tasks(counters)
    defaults: dict[str, Any] = {"instance": "mirror-under-test", "check_store": usable, "access_log": False}
    services = Services(repository=repository, counters=counters, clock=clock, tasks=tasks, **(defaults | settings))
    async with serving_app(build_app(services)) as port:
        yield Served(repository, counters, clock, tasks, port)
    await tasks.drain(5)


@asynccontextmanager
async def serving_app(app: web.Application) -> AsyncIterator[int]:
    """Serves any application; yields its port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


__all__ = ["Blob", "MemoryRepository", "MovableClock", "Served", "fetch", "serving", "serving_app"]
