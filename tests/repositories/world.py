"""An upstream, a store, a clock and the repository between them, which can be restarted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from mirror.adapters.directory.store import DirectoryStore
from mirror.adapters.memory_store import MemoryStore
from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.flight import Tasks
from mirror.freshness import Lifetime
from mirror.model import (
    WHOLE,
    Blob,
    Content,
    File,
    FileRef,
    NotModified,
    PageAnswer,
    PageDocument,
    Span,
    Unchanged,
    UpstreamStream,
    Validator,
)
from mirror.names import ProjectName, archive_key, page_key, project_name
from mirror.ports import Store, StoredKey
from mirror.repositories.cached import CachedRepository, Rules
from mirror.spool import DiskSpools, MemorySpools, Spools
from mirror.testing import MemoryUpstream, MovableClock
from tests.support.descriptors import open_files
from tests.support.objects import body_of
from tests.support.packages import Archive

P = project_name("p")
LIFE = Lifetime(ttl=600, stale=300)


class GatedUpstream(MemoryUpstream):
    """An upstream whose pages can be made to wait, and whose answers can be scripted."""

    def __init__(self, clock: MovableClock) -> None:
        super().__init__(clock)
        self.page_gate: asyncio.Event | None = None
        self.scripted: list[PageDocument | NotModified | Exception] = []
        self.validators: list[Validator] = []
        self.cached: dict[str, bytes] = {}
        """What the cache in front of upstream delivers, by URL; requests that bypass caches do not see it."""
        self.bypassed: list[bool] = []

    async def fetch_page(self, project: ProjectName, known: Validator) -> PageDocument | NotModified:
        self.validators.append(known)
        answer = await super().fetch_page(project, known) if not self.scripted else self.scripted.pop(0)
        if self.page_gate is not None:
            await self.page_gate.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def fetch_file(self, file: File, span: Span = WHOLE, *, bypass_caches: bool = False) -> UpstreamStream:
        self.bypassed.append(bypass_caches)
        true = self.files.get(file.url)
        if true is None or bypass_caches or file.url not in self.cached:
            return await super().fetch_file(file, span)
        self.files[file.url] = self.cached[file.url]
        try:
            return await super().fetch_file(file, span)
        finally:
            self.files[file.url] = true


class RefusingStore:
    """A store that can be made to refuse reads or writes."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.reads = self.writes = True

    async def open(self, key: str, span: Span = WHOLE) -> Content | None:
        self._check(self.reads, "read", key)
        return await self._inner.open(key, span)

    async def read(self, key: str, limit: int) -> bytes | None:
        self._check(self.reads, "read", key)
        return await self._inner.read(key, limit)

    @property
    def remote(self) -> bool:
        return self._inner.remote

    @property
    def exact(self) -> bool:
        return self._inner.exact

    async def reread(self, key: str, limit: int, version: str) -> Blob | Unchanged | None:
        self._check(self.reads, "read", key)
        return await self._inner.reread(key, limit, version)

    async def create(self, key: str, body: bytes) -> bool:
        self._check(self.writes, "write", key)
        return await self._inner.create(key, body)

    async def replace(self, key: str, body: bytes, version: str) -> bool:
        self._check(self.writes, "write", key)
        return await self._inner.replace(key, body, version)

    async def admit(self, key: str, path: Path) -> bool:
        return await self._inner.admit(key, path)

    async def put(self, key: str, body: bytes) -> None:
        self._check(self.writes, "write", key)
        await self._inner.put(key, body)

    async def adopt(self, key: str, path: Path) -> None:
        self._check(self.writes, "write", key)
        await self._inner.adopt(key, path)

    async def delete(self, key: str) -> None:
        await self._inner.delete(key)

    async def quarantine(self, key: str) -> None:
        self._check(self.writes, "quarantine", key)
        await self._inner.quarantine(key)

    def list(self, prefix: str) -> AsyncIterator[StoredKey]:
        return self._inner.list(prefix)

    async def check(self) -> None:
        await self._inner.check()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _check(self, works: bool, action: str, key: str) -> None:
        if not works:
            raise StoreFailure(action, key, "the test switched it off")


class World:
    """`repository` and all that it stands on."""

    repository: CachedRepository
    tasks: Tasks

    def __init__(self, store: Store, spools: Spools, root: Path | None, rules: Rules) -> None:
        self.clock, self.counters = MovableClock(), Counters()
        self.upstream = GatedUpstream(self.clock)
        self.store, self.spools, self.root, self.rules = RefusingStore(store), spools, root, rules
        self._start()

    def _start(self) -> None:
        self.tasks = Tasks(self.counters)
        self.repository = CachedRepository(
            self.upstream, self.store, self.spools, self.clock, self.tasks, self.counters, self.rules
        )

    async def settle(self) -> None:
        """Waits for all background work."""
        assert await self.tasks.drain(20) == 0

    async def restart(self, **rules: Any) -> None:
        """Another process over the same store, with other rules if given."""
        await self.kill()
        self.rules = Rules(**{f: getattr(self.rules, f) for f in Rules.__dataclass_fields__} | rules)
        self._start()

    async def kill(self, timeout: float = 20) -> None:
        await self.tasks.drain(timeout)
        self.repository.close()

    def publish(self, archive: Archive, project: str = "p", **fields: Any) -> File:
        return self.upstream.publish(project, archive.filename, archive.content, **fields)

    async def page(self, project: str = "p", *, newest: bool = False) -> PageAnswer:
        return await self.repository.project_page(project_name(project), newest=newest)

    async def entry(self, filename: str, project: str = "p") -> File:
        return (await self.page(project)).page.by_filename[filename]

    async def get(self, file: File, span: Span = WHOLE) -> bytes:
        return await body_of(await self.repository.open_file(FileRef(file.path), span))

    async def metadata(self, file: File) -> bytes:
        return await self.repository.open_sidecar(FileRef(file.path), "metadata")

    def archive_on_disk(self, file: File, suffix: str = "", project: str = "p") -> Path:
        assert self.root is not None
        return self.root / archive_key("memory", project_name(project), file.filename, suffix)

    def page_on_disk(self, project: str = "p") -> Path:
        assert self.root is not None
        return self.root / page_key("memory", project_name(project))

    def upstream_calls(self, kind: str) -> int:
        return sum(n for call, n in self.upstream.calls.items() if call.startswith(kind))


@asynccontextmanager
async def world(folder: Path | None, **rules: Any) -> AsyncIterator[World]:
    """A world in `folder`, or in memory. At the end nothing may be left open, running or half done."""
    before = open_files()
    store: MemoryStore | DirectoryStore
    spools: DiskSpools | MemorySpools
    root = None if folder is None else folder / "store"
    if folder is None or root is None:
        store, spools = MemoryStore(64 << 20), MemorySpools(64 << 20)
    else:
        store, spools = DirectoryStore(root), DiskSpools(folder / "spool")
        await asyncio.to_thread(spools.prepare)
    await store.start()
    made = World(store, spools, root, Rules(**({"pages": LIFE, "lists": LIFE} | rules)))
    try:
        try:
            yield made
        finally:
            await made.kill()
        assert made.counters["background_failures"] == 0
        if isinstance(spools, DiskSpools) and folder is not None:
            assert [p for p in (folder / "spool").rglob("*") if p.is_file()] == []
    finally:
        await store.aclose()
        if isinstance(spools, DiskSpools):
            spools.close()
    left = open_files() - before
    assert not left, f"left open: {dict(left)}"


def rewrite(path: Path, body: bytes) -> None:
    """Replaces a stored object, which is read-only, as damage does: in place."""
    path.chmod(0o644)
    path.write_bytes(body)


def serial_page(answer: PageDocument, serial: int) -> PageDocument:
    return msgspec.structs.replace(answer, serial=serial, validator=Validator(etag=f'"{serial}"'))
