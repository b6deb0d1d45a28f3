"""A remote store in memory that does what a test tells it to, leases likewise, and a world on both."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mirror.adapters.memory_store import MemoryStore
from mirror.errors import StoreFailure, UnsatisfiableSpan
from mirror.fill.tee import Tees
from mirror.model import WHOLE, ByteSource, ByteStream, Content, File, LocalFile, Origin, Redirect, Span
from mirror.names import archive_key, project_name
from mirror.ports import Lease
from mirror.repositories.cached import CachedRepository, Rules
from mirror.spool import DiskSpools, MemorySpools, Spools
from tests.repositories.world import LIFE, World
from tests.support.descriptors import open_files
from tests.support.packages import Archive

PIECE = 16_384


class ScriptedStore(MemoryStore):
    """A remote store, and a sink; with a folder it keeps copies there as a cache of archives does."""

    def __init__(self, near: Path | None = None) -> None:
        super().__init__(1 << 30)
        self.near = near
        self.opened: list[Span] = []
        """What was asked of archives, copies apart."""
        self.lists: list[Span] = []
        """What was asked of the list of all projects."""
        self.asked = 0
        """How often an archive was asked for, before any gate."""
        self.breaks: list[int | None] = []
        """After how many bytes the next bodies break off, one after the other."""
        self.open_gate: asyncio.Event | None = None
        """Archives are not opened before it is set."""
        self.body_gate: asyncio.Event | None = None
        """Bodies hang after their first piece until it is set."""
        self.pour_gate: asyncio.Event | None = None
        """Bodies on their way are not read before it is set."""
        self.refuses_reads = self.refuses_writes = self.refuses_quarantine = False
        self.poured: list[str] = []
        self.spoilt: list[Exception] = []
        """Why bodies on their way were not stored."""
        self.unclosed = 0

    @property
    def remote(self) -> bool:
        return True

    async def open(self, key: str, span: Span = WHOLE) -> Content | None:  # type: ignore[override]
        if not key.startswith("files/"):
            self.lists.append(span)
            if self.refuses_reads:
                raise StoreFailure("read", key, "the test switched it off")
            return await super().open(key, span)
        if (copy := self.copy(key)) is not None and copy.exists():
            handle = copy.open("rb")
            size = copy.stat().st_size
            try:
                start, stop = span.resolve(size)
            except UnsatisfiableSpan:
                handle.close()
                raise
            return LocalFile(handle, size, start, stop, Origin.CACHE)
        self.asked += 1
        if self.open_gate is not None:
            await self.open_gate.wait()
        self.opened.append(span)
        if self.refuses_reads:
            raise StoreFailure("read", key, "the test switched it off")
        stream = await super().open(key, span)
        if stream is not None:
            self.unclosed += 1
            cut = self.breaks.pop(0) if self.breaks else None
            stream.body = _Body(self, key, stream.body, cut)
        return stream

    async def put(self, key: str, body: bytes) -> None:
        self._check_write(key)
        await super().put(key, body)

    async def adopt(self, key: str, path: Path) -> None:
        self._check_write(key)
        body = path.read_bytes()
        await super().put(key, body)
        if (copy := self.copy(key)) is None:
            path.unlink()
        else:
            path.rename(copy)

    async def admit(self, key: str, path: Path) -> bool:
        if (copy := self.copy(key)) is None:
            return False
        path.rename(copy)
        return True

    async def quarantine(self, key: str) -> None:
        if (copy := self.copy(key)) is not None and copy.exists():
            copy.unlink()
            return
        if self.refuses_quarantine:
            raise StoreFailure("quarantine", key, "the test switched it off")
        await super().quarantine(key)

    async def presigned(self, key: str, filename: str) -> Redirect | None:
        return Redirect(f"https://s3.example.com/{key}?for={filename}")

    async def pour(self, key: str, size: int, body: ByteSource) -> None:
        try:
            if self.pour_gate is not None:
                await self.pour_gate.wait()
            self._check_write(key)
            whole = b"".join([piece async for piece in body])
            if len(whole) != size:
                raise StoreFailure("write", key, f"{len(whole)} bytes came instead of {size}")
            await super().put(key, whole)
            self.poured.append(key)
        except Exception as e:
            self.spoilt.append(e)
            raise
        finally:
            await body.aclose()

    def copy(self, key: str) -> Path | None:
        if self.near is None or not key.startswith("files/"):
            return None
        return self.near / hashlib.sha256(key.encode()).hexdigest()

    def _check_write(self, key: str) -> None:
        if self.refuses_writes:
            raise StoreFailure("write", key, "the test switched it off")


class _Body:
    def __init__(self, owner: ScriptedStore, key: str, source: ByteSource, cut: int | None) -> None:
        self._owner, self._key, self._source, self._cut = owner, key, source, cut
        self._pieces = self._read()
        self._open = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def _read(self) -> AsyncGenerator[bytes, None]:
        passed = 0
        async for chunk in self._source:
            for at in range(0, len(chunk), PIECE):
                if passed and self._owner.body_gate is not None:
                    await self._owner.body_gate.wait()
                piece = chunk[at : at + PIECE]
                if self._cut is not None and passed + len(piece) > self._cut:
                    if self._cut > passed:
                        yield piece[: self._cut - passed]
                    raise StoreFailure("read", self._key, "the connection was lost")
                passed += len(piece)
                yield piece

    async def aclose(self) -> None:
        await self._pieces.aclose()
        await self._source.aclose()
        if self._open:
            self._open = False
            self._owner.unclosed -= 1


class ScriptedLeases:
    """Leases whose answers the test gives: `delivered` runs before "the store has it now" is said."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.held = 0
        self.delivered: Any = None
        self.gate: asyncio.Event | None = None
        self.released: list[bool] = []
        """Whether the store had the object when a lease was given back."""
        self.store: ScriptedStore | None = None

    async def lead(self, key: str) -> Lease | None:
        self.asked.append(key)
        if self.gate is not None:
            await self.gate.wait()
        if self.delivered is not None:
            await self.delivered(key)
            return None
        self.held += 1
        return _Held(self, key)


class _Held:
    def __init__(self, owner: ScriptedLeases, key: str) -> None:
        self._owner, self._key = owner, key

    async def release(self) -> None:
        self._owner.held -= 1
        assert self._owner.store is not None
        self._owner.released.append(await MemoryStore.read(self._owner.store, self._key, 1 << 30) is not None)


class NoRoom:
    """Spools of memory for files of at most `limit` bytes each."""

    def __init__(self, limit: int) -> None:
        self.limit, self.inner = limit, MemorySpools(64 << 20)

    def create(self, expected: int | None) -> Any:
        if expected is None or expected > self.limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.inner.create(expected)


class RemoteWorld(World):
    """A world whose store is remote."""

    def __init__(self, store: ScriptedStore, spools: Spools, rules: Rules) -> None:
        self.s3, self.leases = store, ScriptedLeases()
        self.leases.store = store
        super().__init__(store, spools, None, rules)

    def _start(self) -> None:
        super()._start()
        self.repository.close()
        self.repository = CachedRepository(
            self.upstream,
            self.s3,
            self.spools,
            self.clock,
            self.tasks,
            self.counters,
            self.rules,
            sink=self.s3,
            leases=self.leases,
            presigner=self.s3,
        )
        # A machine under load shall not look like a slow store.
        self.repository._fills._tools.tees = Tees(self.tasks, self.counters, patience=3600)

    @staticmethod
    def key(file: File) -> str:
        return archive_key("memory", project_name("p"), file.filename)

    async def stored(self, file: File) -> bytes | None:
        """What the store itself has."""
        return await MemoryStore.read(self.s3, self.key(file), 1 << 30)

    async def published(self, archive: Archive, **fields: Any) -> File:
        """Publishes a file, of which this replica knows."""
        file = self.publish(archive, **fields)
        self.clock.advance(1000)
        await self.page()
        await self.settle()
        return file

    async def only_stored(self, archive: Archive, **fields: Any) -> File:
        """Publishes a file that the store has and this replica does not."""
        file = await self.published(archive, **fields)
        await MemoryStore.put(self.s3, self.key(file), archive.content)
        return file

    async def damage(self, file: File, at: int = -1) -> bytes:
        """Flips a bit of what the store has."""
        body = bytearray(await self.stored(file) or b"")
        body[at] ^= 1
        await MemoryStore.put(self.s3, self.key(file), bytes(body))
        return bytes(body)


@asynccontextmanager
async def remote_world(
    folder: Path | None = None, *, near: bool = False, spools: Spools | None = None, **rules: Any
) -> AsyncIterator[RemoteWorld]:
    """A world with spools in `folder`, or else in memory, and copies in it if `near`. At the end nothing is left open."""
    before = open_files()
    copies = None
    disk: DiskSpools | None = None
    if folder is not None:
        disk = DiskSpools(folder / "spool")
        disk.prepare()
        if near:
            copies = folder / "copies"
            copies.mkdir()
    store = ScriptedStore(copies)
    made = RemoteWorld(
        store, spools or disk or MemorySpools(64 << 20), Rules(**({"pages": LIFE, "lists": LIFE} | rules))
    )
    try:
        try:
            yield made
        finally:
            await made.kill()
        assert made.counters["background_failures"] == 0
        assert store.unclosed == 0
        assert made.leases.held == 0
        if folder is not None:
            assert [p for p in (folder / "spool").rglob("*") if p.is_file()] == []
    finally:
        await store.aclose()
        if disk is not None:
            disk.close()
    left = open_files() - before
    assert not left, f"left open: {dict(left)}"


async def taken(stream: Content) -> tuple[bytes, Exception | None]:
    """What a client gets before its answer breaks off, and why; closes it."""
    assert isinstance(stream, ByteStream)
    pieces = []
    try:
        async for piece in stream.body:
            pieces.append(piece)  # noqa: PERF401 - what came before a failure counts
    except Exception as e:  # noqa: BLE001 - the test says which it must be
        return b"".join(pieces), e
    finally:
        await stream.aclose()
    return b"".join(pieces), None
