"""All that is stored of one project, held against what its page says."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from mirror.errors import IntegrityError, StoreFailure
from mirror.flight import Tasks
from mirror.maintenance.content import pour
from mirror.maintenance.findings import Account, Finding, Kind
from mirror.maintenance.promises import Promises, Proof, metadata_digest, read_promises
from mirror.maintenance.walk import Holding, archive_of
from mirror.maintenance.work import each, one_by_one
from mirror.ports import Store, StoredKey
from mirror.repositories.envelope import DamagedDocument
from mirror.repositories.legacy import MAX_RECORD
from mirror.repositories.metadata import MAX_METADATA

FILES_AT_ONCE: Final = 4
"""Files of one project that are read at the same time."""
LARGE: Final = 256 * 1024
"""Bytes from which on a sidecar is hashed in a thread."""


class _Legacy(msgspec.Struct):
    info: dict[str, object]
    vulnerabilities: list[object]


@dataclass(frozen=True, slots=True)
class ProjectCheck:
    """Looks at projects one by one. `turn` bounds the reads of all of them; `sampled` says which files to read."""

    store: Store
    tasks: Tasks
    account: Account
    turn: asyncio.Semaphore
    sampled: Callable[[], bool]

    async def look(self, holding: Holding) -> list[Finding]:
        """What is wrong with the project. Of a file that is not sampled only the size is looked at."""
        found, page = await self._page(holding)
        for record in holding.records:
            if record.key != holding.page_key:
                found += await self._legacy(record.key)
        if page is False:
            return found  # nothing can be said of the files
        await self._each(page, holding.files, found, whole=False)
        if page is not None:
            found += await self._advertised(holding, page)
        return found

    async def look_again(self, holding: Holding, suspects: Iterable[str]) -> list[Finding]:
        """The same of single keys, read anew and in full: a running mirror replaces pages and adds files."""
        found, page = await self._page(holding)
        wanted = set(suspects)
        found = [finding for finding in found if finding.key in wanted]
        for key in sorted(wanted):
            if key.startswith("meta/") and key != holding.page_key:
                found += await self._legacy(key)
        if page is False:
            return found
        listed = {stored.key: stored for stored in holding.files}
        await self._each(page, [listed[key] for key in sorted(wanted & listed.keys())], found, whole=True)
        for key in sorted(wanted - listed.keys()):
            if key.startswith("files/") and page is not None:
                found += await self._missing(key)
        return found

    async def _page(self, holding: Holding) -> tuple[list[Finding], Promises | Literal[False] | None]:
        """The page; None if there is none that can be believed, False if the store does not give it now."""
        key = holding.page_key
        try:
            async with self.turn:
                return [], await read_promises(self.store, key, holding.source, holding.project)
        except DamagedDocument as error:
            return [Finding(Kind.DAMAGED, key, str(error))], None
        except StoreFailure as error:
            return [Finding(Kind.UNREADABLE, key, error.why)], False

    async def _legacy(self, key: str) -> list[Finding]:
        try:
            async with self.turn:
                blob = await self.store.read(key, MAX_RECORD)
            if blob is not None:
                self.account.unproven += 1
                await asyncio.to_thread(msgspec.json.decode, blob, type=_Legacy)
        except StoreFailure as error:
            return [Finding(Kind.UNREADABLE, key, error.why)]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return [Finding(Kind.DAMAGED, key, f"It is no record of the legacy JSON API: {error}.")]
        return []

    async def _each(
        self,
        page: Promises | None,
        files: list[StoredKey],
        found: list[Finding],
        *,
        whole: bool,
    ) -> None:

        async def look(stored: StoredKey) -> None:
            finding = await self._file(page, stored, whole=whole)
            if finding is not None:
                found.append(finding)

        if len(files) == 1:
            await look(files[0])
        elif files:
            await each(self.tasks, one_by_one(files), look, at_once=min(FILES_AT_ONCE, len(files)))

    async def _file(self, page: Promises | None, stored: StoredKey, *, whole: bool) -> Finding | None:
        key = stored.key
        name = key.rpartition("/")[2]
        archive = archive_of(name)
        if page is None:
            return Finding(Kind.ORPHAN, key, "No page of its project is stored that could be read.")
        try:
            if page.of(name):
                return await self._archive(page, stored, whole=whole)
            if archive == name or not page.of(archive):
                return Finding(Kind.ORPHAN, key, "The stored page of its project does not name it.")
            if whole or self.sampled():
                return await self._sidecar(key, name, page)
        except StoreFailure as error:
            return Finding(Kind.UNREADABLE, key, error.why)
        return None

    async def _archive(self, page: Promises, stored: StoredKey, *, whole: bool) -> Finding | None:
        key = stored.key
        files = page.of(key.rpartition("/")[2])
        sizes = [file.size for file in files]
        if not whole and None not in sizes and stored.size not in sizes:
            return Finding(Kind.DAMAGED, key, f"It has {stored.size} bytes instead of {sizes[0]}.")
        if not whole and not self.sampled():
            return None
        async with self.turn:
            content = await self.store.open(key)
            if content is None:
                return None  # deleted or quarantined since it was listed
            proof = Proof(files)
            count = await pour(key, content, proof.update)
            self.account.bytes_read += count  # in one step: others add to it meanwhile
        self.account.unproven += not proof.proves
        try:
            proof.finish()
        except IntegrityError as error:
            return Finding(Kind.DAMAGED, key, f"It {error.why.partition(' ')[2]}.")
        return None

    async def _sidecar(self, key: str, name: str, page: Promises) -> Finding | None:
        async with self.turn:
            body = await self.store.read(key, MAX_METADATA)
        if body is None:
            return None
        self.account.bytes_read += len(body)
        if name.endswith(".provenance"):
            self.account.unproven += 1
            return await self._provenance(key, body)
        file = page.files.get(archive_of(name))
        promised = metadata_digest(file) if file is not None else None
        if promised is None:
            self.account.unproven += 1
            return None
        hashed = functools.partial(hashlib.new, promised[0], body, usedforsecurity=False)
        digest = await asyncio.to_thread(hashed) if len(body) > LARGE else hashed()
        if digest.hexdigest() != promised[1]:
            return Finding(
                Kind.DAMAGED, key, f"It has the {promised[0]} {digest.hexdigest()} instead of {promised[1]}."
            )
        return None

    async def _provenance(self, key: str, body: bytes) -> Finding | None:
        try:
            await asyncio.to_thread(msgspec.json.decode, body, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Finding(Kind.DAMAGED, key, f"It is no provenance document: {error}.")
        return None

    async def _advertised(self, holding: Holding, page: Promises) -> list[Finding]:
        """Core metadata that this mirror promised out of its own store, of archives that are held."""
        held = {stored.key for stored in holding.files}
        wanted = [
            holding.file_key(name)
            for name, learned in page.learned.items()
            if learned.metadata_sha256 is not None and name in page.files
        ]
        found = []
        for key in wanted:
            if key in held and f"{key}.metadata" not in held:
                found += await self._missing(f"{key}.metadata")
        return found

    async def _missing(self, key: str) -> list[Finding]:
        try:
            async with self.turn:
                if await self.store.read(key, MAX_METADATA) is not None:
                    return []
        except StoreFailure as error:
            return [Finding(Kind.UNREADABLE, key, error.why)]
        return [Finding(Kind.MISSING, key, "The page advertises this core metadata, and only this mirror has it.")]
