"""Archives that the store holds: found by key, verified once since this process started, then served as they are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import structlog

from mirror.counters import Counters
from mirror.errors import IntegrityError, StoreFailure, UnsatisfiableSpan
from mirror.flight import Tasks
from mirror.lru import LRU
from mirror.model import WHOLE, ByteSource, Content, File, LocalFile, Span
from mirror.names import ProjectName, archive_key
from mirror.ports import Store
from mirror.repositories.content import close
from mirror.repositories.proof import SOURCE, Identity, Proofs, Proven, contents, identity, wrong_size
from mirror.spool import Spool
from mirror.verify import Check, held_back

REMEMBERED: Final = 100_000
"""Archives of which it is remembered that they are damaged."""

FIRST_BYTE: Final = Span(0, 0)

log = structlog.get_logger()


class Archives:
    """The archives of one upstream in the store."""

    def __init__(self, source: str, store: Store, tasks: Tasks, counters: Counters, *, keep_unverified: bool) -> None:
        self._source, self._store, self._counters = source, store, counters
        self._keep_unverified = keep_unverified
        self._proofs = Proofs(tasks)
        # What was found damaged and may be there still: it is not read again until something sound takes its place.
        self._distrusted: LRU[str, bool] = LRU(REMEMBERED)

    def key(self, project: ProjectName, filename: str, suffix: str = "") -> str:
        """Key of an archive or of its sidecar."""
        return archive_key(self._source, project, filename, suffix)

    @property
    def remote(self) -> bool:
        """As `mirror.ports.Store.remote`."""
        return self._store.remote

    def storable(self, file: File) -> bool:
        """Whether a file may be stored: without a strong digest only by setting."""
        return file.digest is not None or self._keep_unverified

    async def open(
        self,
        project: ProjectName,
        file: File,
        span: Span = WHOLE,
        *,
        only_copy: bool = False,
        unproven: bool = False,
        raises: bool = False,
    ) -> Content | None:
        """The verified archive, or None if it is not held or what is held is not it (that is quarantined).

        Also None if the store cannot be read; but `StoreFailure` if that is the `only_copy` to be had, or if the caller
        wants to know (`raises`). `unproven`: the body of a whole stream is given as it is, for a download that
        verifies it.
        """
        key = self.key(project, file.filename)
        for last in (False, True):
            if self.distrusts(key) and not only_copy:
                return None
            try:
                return await self._open(key, file, span, unproven=unproven)
            except StoreFailure as e:
                self._counters.count("store_failures")
                log.error("archive not read", file=file.filename, reason=str(e))
                if only_copy or raises:
                    raise
                return None
            except IntegrityError:
                if last or not self.remote:
                    return None
                # What was damaged may have been the copy on this machine, which is gone now.
        raise AssertionError("unreachable: the second try returns or raises")

    def distrusts(self, key: str) -> bool:
        """Whether what the store has there was found damaged, and is not known to have been replaced."""
        return self._distrusted.get(key) is not None

    def distrust(self, key: str) -> None:
        """What the store has there is not to be read as long as there is another way."""
        self._distrusted.put(key, True)

    async def _open(self, key: str, file: File, span: Span, *, unproven: bool) -> Content | None:
        try:
            content = await self._store.open(key, span)
        except UnsatisfiableSpan as e:  # past the end of the file, or of what is left of it?
            if self.remote:  # the whole would be a transfer
                if file.size not in (None, e.size):
                    raise await self.damaged(key, wrong_size(file, e.size)) from e
                raise
            whole = await self._store.open(key)
            if whole is None:
                return None
            await close(await self._verified(key, file, whole, unproven=False))
            raise
        return None if content is None else await self._verified(key, file, content, unproven=unproven)

    async def glance(self, project: ProjectName, file: File, *, only_copy: bool = False) -> LocalFile | int | None:
        """The verified archive where it lies on this machine, else its size, if it is held; without a transfer.

        Raises as `open`.
        """
        try:
            held = await self.open(project, file, FIRST_BYTE if self.remote else WHOLE, only_copy=only_copy)
        except UnsatisfiableSpan as e:
            return e.size
        if held is None or isinstance(held, LocalFile):
            return held
        await held.aclose()
        return held.size

    async def damaged(self, key: str, error: IntegrityError) -> IntegrityError:
        """Takes the object out of service and hands `error` back."""
        self._counters.count("store_quarantined")
        log.error("stored archive is damaged", file=error.filename, reason=str(error))
        try:
            await self._store.quarantine(key)
        except StoreFailure as e:
            self._counters.count("store_failures")
            log.error("damaged archive not quarantined", key=key, reason=str(e))
            self.distrust(key)
        return error

    async def _verified(self, key: str, file: File, content: Content, *, unproven: bool) -> Content:
        content.digest = file.digest
        try:
            if isinstance(content, LocalFile):
                await self._proofs.prove(file, content, lambda found, e: self._fails(key, found, e))
            elif file.size not in (None, content.size):
                raise await self.damaged(key, wrong_size(file, content.size))
            elif (content.start, content.stop) == (0, content.size) and not unproven:
                content.body = Proven(content.body, self._proven(key, file, content.body, content.size))
        except BaseException:  # cancelled, too: the handle has no other owner yet
            await close(content)
            raise
        return content

    async def _fails(self, key: str, found: Identity, error: IntegrityError) -> None:
        if await self._identity_now(key) == found:  # else a sound one has taken its place already
            await self.damaged(key, error)

    async def _identity_now(self, key: str) -> Identity | None:
        content = await self._store.open(key)
        if content is None:
            return None
        try:
            return identity(os.fstat(content.handle.fileno())) if isinstance(content, LocalFile) else None
        finally:
            await close(content)

    async def _proven(self, key: str, file: File, body: ByteSource, size: int) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in held_back(aiter(body), Check(file, SOURCE), size, 0, size):
                yield piece
        except IntegrityError as e:
            raise await self.damaged(key, e) from e

    async def keep(self, project: ProjectName, file: File, spool: Spool, size: int) -> bool:
        """Stores a download that has passed its check. Without a strong digest it is kept only by setting."""
        if not self.storable(file):
            return False
        key = self.key(project, file.filename)
        if spool.path is None:
            await self._store.put(key, await asyncio.to_thread(spool.read, 0, size))
            self.replaced(key)
            return True
        verified = await _stat(key, spool.path)
        await self._store.adopt(key, spool.path)
        spool.path = None
        self.replaced(key)
        if self.remote:  # to look at the object would be a transfer
            self._proofs.hand_over(verified, file)
            return True
        held = await self._store.open(key)
        if isinstance(held, LocalFile):
            now = os.fstat(held.handle.fileno())
            if contents(now) == verified:  # else it was copied, and is verified when it is first opened
                self._proofs.vouch(now, file)
        if held is not None:
            await close(held)
        return True

    async def admit(self, project: ProjectName, file: File, spool: Spool) -> None:
        """Keeps a copy of what the store has, if there is a place that is nearer. Raises `StoreFailure`."""
        if spool.path is None or not self.storable(file):
            return
        key = self.key(project, file.filename)
        verified = await _stat(key, spool.path)
        if await self._store.admit(key, spool.path):
            spool.path = None
            self._proofs.hand_over(verified, file)

    def replaced(self, key: str) -> None:
        """The store has been given sound bytes."""
        self._distrusted.drop(key)

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


async def _stat(key: str, path: Path) -> Identity:
    try:
        return contents(await asyncio.to_thread(os.stat, path))
    except OSError as e:
        raise StoreFailure("keep", key, e.strerror or str(e)) from e
