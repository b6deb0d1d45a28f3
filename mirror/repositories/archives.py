"""Archives that the store holds: found by key, verified once since this process started, then served as they are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import structlog

from mirror.counters import Counters
from mirror.errors import IntegrityError, StoreFailure, UnsatisfiableSpan
from mirror.flight import Flights, Tasks
from mirror.lru import LRU
from mirror.model import WHOLE, ByteSource, Content, File, LocalFile, Span
from mirror.names import ProjectName, archive_key
from mirror.ports import Store
from mirror.repositories.content import close
from mirror.spool import Spool
from mirror.verify import Check, held_back

READ: Final = 1024 * 1024
"""Bytes hashed between two looks at the file."""
REMEMBERED: Final = 100_000
"""Files of which it is remembered that they passed."""

Identity = tuple[int, int, int, int]
"""Device, inode, size and time of change (ns) of a file: another or altered file has another."""

log = structlog.get_logger()


class Archives:
    """The archives of one upstream in the store."""

    def __init__(self, source: str, store: Store, tasks: Tasks, counters: Counters, *, keep_unverified: bool) -> None:
        self._source, self._store, self._counters = source, store, counters
        self._keep_unverified = keep_unverified
        self._passed: LRU[Identity, str] = LRU(REMEMBERED)
        self._checks: Flights[tuple[Identity, str], None] = Flights(tasks, "verify")

    def key(self, project: ProjectName, filename: str, suffix: str = "") -> str:
        """Key of an archive or of its sidecar."""
        return archive_key(self._source, project, filename, suffix)

    async def open(
        self, project: ProjectName, file: File, span: Span = WHOLE, *, only_copy: bool = False
    ) -> Content | None:
        """The verified archive, or None if it is not held or what is held is not it (that is quarantined).

        Also None if the store cannot be read; but `StoreFailure` if that is the `only_copy` to be had.
        """
        key = self.key(project, file.filename)
        try:
            try:
                content = await self._store.open(key, span)
            except UnsatisfiableSpan:
                whole = await self._store.open(key)  # past the end of the file, or of what is left of it?
                if whole is None:
                    return None
                await close(await self._verified(key, file, whole))
                raise
            return None if content is None else await self._verified(key, file, content)
        except StoreFailure as e:
            self._counters.count("store_failures")
            log.error("archive not read", file=file.filename, reason=str(e))
            if only_copy:
                raise
            return None
        except IntegrityError:
            return None

    async def holds(self, project: ProjectName, file: File) -> bool:
        """Whether the store has an archive of that name and size; its bytes are not looked at."""
        try:
            content = await self._store.open(self.key(project, file.filename), Span(0, 0))
        except (StoreFailure, UnsatisfiableSpan):
            return False  # counted and logged where the archive is then served from
        if content is None:
            return False
        await close(content)
        return file.size in (None, content.size)

    async def _damaged(self, key: str, error: IntegrityError) -> IntegrityError:
        """Takes the object out of service and hands `error` back."""
        self._counters.count("store_quarantined")
        log.error("stored archive is damaged", file=error.filename, reason=str(error))
        try:
            await self._store.quarantine(key)
        except StoreFailure as e:
            self._counters.count("store_failures")
            log.error("damaged archive not quarantined", key=key, reason=str(e))
        return error

    async def _verified(self, key: str, file: File, content: Content) -> Content:
        content.digest = file.digest
        try:
            if isinstance(content, LocalFile):
                await self._prove(key, file, content)
            elif file.size not in (None, content.size):
                raise await self._damaged(key, _wrong_size(file, content.size))
            elif (content.start, content.stop) == (0, content.size):
                content.body = _Proven(content.body, self._proven(key, file, content.body, content.size))
        except BaseException:  # cancelled, too: the handle has no other owner yet
            await close(content)
            raise
        return content

    async def _prove(self, key: str, file: File, content: LocalFile) -> None:
        """Hashes the whole stored file in a thread (about 1.5 GB/s), once for all who ask meanwhile."""
        identity = _identity(os.fstat(content.handle.fileno()))
        promised = file.digest.hex if file.digest else "any"
        if self._passed.get(identity) == promised and file.size in (None, content.size):
            return
        flight = identity, promised
        # A handle of its own on the same file: ours is closed if this caller leaves, and the key may by then
        # be that of another file.
        handle = -1 if flight in self._checks else os.dup(content.handle.fileno())

        async def check() -> None:
            try:
                await asyncio.to_thread(_hash, handle, file)
            except IntegrityError as e:
                if await self._identity_now(key) == identity:  # else a sound one has taken its place already
                    await self._damaged(key, e)
                raise
            except OSError as e:
                raise StoreFailure("read", key, e.strerror or str(e)) from e
            finally:
                os.close(handle)
            self._passed.put(identity, promised)

        await self._checks.run(flight, check)

    async def _identity_now(self, key: str) -> Identity | None:
        content = await self._store.open(key)
        if content is None:
            return None
        try:
            return _identity(os.fstat(content.handle.fileno())) if isinstance(content, LocalFile) else None
        finally:
            await close(content)

    async def _proven(self, key: str, file: File, body: ByteSource, size: int) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in held_back(aiter(body), Check(file, "store"), size, 0, size):
                yield piece
        except IntegrityError as e:
            raise await self._damaged(key, e) from e

    async def keep(self, project: ProjectName, file: File, spool: Spool, size: int) -> bool:
        """Stores a download that has passed its check. Without a strong digest it is kept only by setting."""
        if file.digest is None and not self._keep_unverified:
            return False
        key = self.key(project, file.filename)
        if spool.path is None:
            await self._store.put(key, await asyncio.to_thread(spool.read, 0, size))
            return True
        try:
            verified = await asyncio.to_thread(os.stat, spool.path)
        except OSError as e:
            raise StoreFailure("keep", key, e.strerror or str(e)) from e
        await self._store.adopt(key, spool.path)
        spool.path = None
        held = await self._store.open(key)
        if isinstance(held, LocalFile):
            now = os.fstat(held.handle.fileno())
            if _contents(now) == _contents(verified):  # else it was copied, and is verified when it is first opened
                self._passed.put(_identity(now), file.digest.hex if file.digest else "any")
        if held is not None:
            await close(held)
        return True

    async def sidecar(self, project: ProjectName, filename: str, suffix: str, limit: int) -> bytes | None:
        """A stored sidecar; None if it is not held or cannot be read."""
        try:
            return await self._store.read(self.key(project, filename, suffix), limit)
        except StoreFailure as e:
            self._counters.count("store_failures")
            log.error("sidecar not read", file=filename + suffix, reason=str(e))
            return None

    async def keep_sidecar(self, project: ProjectName, filename: str, suffix: str, body: bytes) -> bool:
        """Stores a sidecar; False if the store refused it."""
        try:
            await self._store.put(self.key(project, filename, suffix), body)
        except StoreFailure as e:
            self._counters.count("store_failures")
            log.error("sidecar not kept", file=filename + suffix, reason=str(e))
            return False
        return True


class _Proven:
    """A stored body on its way through its check; closing it closes both, also before the first piece."""

    def __init__(self, source: ByteSource, checked: AsyncGenerator[bytes, None]) -> None:
        self._source, self._checked = source, checked

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._checked

    async def aclose(self) -> None:
        await self._checked.aclose()
        await self._source.aclose()


def _wrong_size(file: File, size: int) -> IntegrityError:
    return IntegrityError("store", file.filename, f"has {size} bytes instead of {file.size}")


def _contents(stat: os.stat_result) -> Identity:
    """What stays when a file gets another name, and changes when somebody writes to it."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _identity(stat: os.stat_result) -> Identity:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns


def _hash(handle: int, file: File) -> None:
    size = os.fstat(handle).st_size
    if file.size is not None and size != file.size:
        raise _wrong_size(file, size)
    check = Check(file, "store")
    buffer = bytearray(READ)
    view = memoryview(buffer)
    while count := os.preadv(handle, [buffer], check.position):
        check.update(view[:count])
    check.finish(size)
