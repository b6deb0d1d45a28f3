"""One object copied from one store to another: left alone where it is there already, verified where it can be."""

from __future__ import annotations

import asyncio
import enum
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mirror.errors import IntegrityError, StoreFailure
from mirror.maintenance.content import pour
from mirror.maintenance.promises import Proof
from mirror.model import Blob, File, PageDocument
from mirror.ports import Store, StoredKey
from mirror.repositories.entries import is_older
from mirror.repositories.envelope import MAX_BODY, DamagedDocument, unpack
from mirror.spool import Spool, Spools

SMALL: Final = 4 << 20
"""Bytes up to which an object is copied in memory."""
AT_ONCE: Final = 16
"""Objects on their way at the same time."""


class Rule(enum.Enum):
    """When an object that is there already is written again."""

    IMMUTABLE = enum.auto()
    """It never changes: only if its size is another."""
    NEWER = enum.auto()
    """A page: only if the one in the source is newer."""
    EQUAL = enum.auto()
    """A record that may change: whenever it differs."""
    ABSENT = enum.auto()
    """Never: the target's own counts."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One object to be copied."""

    stored: StoredKey
    there: int | None
    """The size of what the target has under this key; None if it has nothing."""
    rule: Rule
    files: list[File] = field(default_factory=list)
    """What the page says of it; empty if nothing is known."""


@dataclass(slots=True)
class Copied:
    """What a copy has done."""

    copied: int = 0
    copied_bytes: int = 0
    skipped: int = 0
    """Objects that the target had already, or had newer."""
    failed: int = 0
    """Objects that the source could not give, or that are damaged there."""
    verified: int = 0
    """Archives that were held against a digest on their way."""


class _Unfit(Exception):
    """The object cannot be copied as it is; the reason is its text."""


class ObjectCopy:
    """Copies single objects and keeps the account. A target that cannot be written raises `StoreFailure`."""

    def __init__(
        self,
        source: Store,
        target: Store,
        spools: Spools,
        result: Copied,
        *,
        checksum: bool,
        failed: Callable[[str, str], None],
    ) -> None:
        self._source, self._target, self._spools, self._result = source, target, spools, result
        self._checksum, self._failed = checksum, failed
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def copy(self, transfer: Transfer) -> None:
        """Copies one object, unless the rule says that the target has it."""
        stored, rule = transfer.stored, transfer.rule
        same_size = transfer.there == stored.size
        if (rule is Rule.IMMUTABLE and same_size and not self._checksum) or (
            rule is Rule.ABSENT and transfer.there is not None
        ):
            self._result.skipped += 1
            return
        async with self._turn:
            try:
                if rule is Rule.NEWER:
                    await self._copy_page(stored.key)
                elif rule is Rule.EQUAL and stored.size <= SMALL:
                    await self._copy_record(stored.key)
                else:
                    await self._copy_body(transfer)
            except _Unfit as error:
                self._result.failed += 1
                self._failed(stored.key, str(error))

    async def _copy_record(self, key: str) -> None:
        body = await self._from_source(key)
        if body is None:
            return
        there = await self._target.reread(key, MAX_BODY, "")
        if isinstance(there, Blob) and there.body == body:
            self._result.skipped += 1
            return
        await self._target.put(key, body)
        self._count(len(body))

    async def _copy_page(self, key: str) -> None:
        body = await self._from_source(key)
        if body is None:
            return
        try:
            page = await asyncio.to_thread(unpack, body)
        except DamagedDocument as error:
            raise _Unfit(str(error)) from error
        # A mirror that works on the target writes pages too, and never waits for us: the version decides.
        for _ in range(3):
            there = await self._target.reread(key, MAX_BODY, "")
            if not isinstance(there, Blob):
                done = await self._target.create(key, body)
            elif there.body == body or not await asyncio.to_thread(_is_newer, page, there.body):
                self._result.skipped += 1
                return
            else:
                done = await self._target.replace(key, body, there.version)
            if done:
                self._count(len(body))
                return
        self._result.skipped += 1  # it is being written again and again: by a mirror, which knows better

    async def _copy_body(self, transfer: Transfer) -> None:
        key = transfer.stored.key
        before = await self._digest_there(key) if self._checksum and transfer.there is not None else None
        try:
            content = await self._source.open(key)
        except StoreFailure as error:
            raise _Unfit(str(error)) from error
        if content is None:
            return  # deleted since it was listed
        size = content.size
        proof, digest = Proof(transfer.files), hashlib.sha256()
        small = bytearray()
        spool = await self._spool(key, size) if size > SMALL else None

        def take(piece: bytes) -> None:
            proof.update(piece)
            digest.update(piece)
            if spool is None:
                small.extend(piece)
            else:
                spool.append([piece])

        try:
            try:
                await pour(key, content, take)
                proof.finish()
            except (StoreFailure, IntegrityError) as error:
                raise _Unfit(str(error)) from error
            except OSError as error:
                raise StoreFailure("spool", key, error.strerror or type(error).__name__) from error
            self._result.verified += proof.proves
            if before == digest.hexdigest():
                self._result.skipped += 1
                return
            if spool is None:
                await self._target.put(key, bytes(small))
            else:
                await self._hand_over(key, spool)
        finally:
            if spool is not None:
                await asyncio.to_thread(_dispose, spool)
        if self._checksum and await self._digest_there(key) != digest.hexdigest():
            raise StoreFailure("keep", key, "what it gives back is not what it was given")
        self._count(size)

    async def _spool(self, key: str, size: int) -> Spool:
        try:
            return await asyncio.to_thread(self._spools.create, size)
        except OSError as error:
            raise StoreFailure("spool", key, error.strerror or type(error).__name__) from error

    async def _hand_over(self, key: str, spool: Spool) -> None:
        if spool.path is None:
            await self._target.put(key, await asyncio.to_thread(spool.read, 0, spool.size))
        else:
            await self._target.adopt(key, spool.path)
            spool.path = None

    async def _from_source(self, key: str) -> bytes | None:
        try:
            return await self._source.read(key, MAX_BODY)
        except StoreFailure as error:
            raise _Unfit(str(error)) from error

    async def _digest_there(self, key: str) -> str | None:
        """sha256 of what the target has; None if that is nothing, or cannot be read and so is to be replaced."""
        digest = hashlib.sha256()
        try:
            content = await self._target.open(key)
            if content is None:
                return None
            await pour(key, content, digest.update)
        except StoreFailure:
            return None
        return digest.hexdigest()

    def _count(self, size: int) -> None:
        self._result.copied += 1
        self._result.copied_bytes += size


def _is_newer(page: PageDocument, there: bytes) -> bool:
    """Whether `page` is newer than the one that lies there; also if that one is damaged."""
    try:
        other = unpack(there)
    except DamagedDocument:
        return True
    if page.serial != other.serial and (is_older(page.serial, other.serial) or is_older(other.serial, page.serial)):
        return is_older(other.serial, page.serial)
    return page.fetched_at > other.fetched_at


def _dispose(spool: Spool) -> None:
    spool.discard()
    spool.close()
