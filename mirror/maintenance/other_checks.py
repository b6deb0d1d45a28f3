"""What a store holds besides the projects of upstreams: hosted files, lists, records of use, pins."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from typing import Final

import msgspec

from mirror.errors import IntegrityError, StoreFailure
from mirror.maintenance.content import pour
from mirror.maintenance.findings import Account, Finding, Kind
from mirror.maintenance.last_use import ACCESS, MAX_RECORD, DamagedRecord, day_of_key, unpack_record
from mirror.maintenance.pins import PINS, DamagedPin, read_pin
from mirror.maintenance.promises import Proof
from mirror.maintenance.walk import archive_of, in_order, is_of_source, project_of
from mirror.model import File, Span
from mirror.ports import Store, StoredKey

MAX_HOSTED_RECORD: Final = 1 << 20
NOT_OURS: Final = "This mirror writes no object of that name."
TRAILER: Final = 512
"""Bytes at the end of the list of projects that surely hold its last line."""


class _HostedRecord(msgspec.Struct):
    """What the record beside a hosted archive says of it; more may be in it."""

    hashes: dict[str, str] = {}
    size: int | None = None


class _Url(msgspec.Struct):
    url: str


class _ListFacts(msgspec.Struct):
    """The last line of the list of projects, as the mirror writes it."""

    revision: str
    stop: int


class OtherChecks:
    """Looks at single objects; each method gives what is wrong, and never a failure of the store to give one of them."""

    def __init__(self, store: Store, account: Account, sampled: Callable[[], bool]) -> None:
        self._store, self._account, self._sampled = store, account, sampled

    async def of_source(self, key: str) -> Finding | None:
        """An object in `files/` or `meta/` that belongs to no project."""
        if not is_of_source(key):
            return Finding(Kind.STRAY, key, NOT_OURS)
        try:
            if key.endswith("/projects.txt"):
                return await self._project_list(key)
            blob = await self._store.read(key, MAX_HOSTED_RECORD)
            if blob is not None:
                msgspec.json.decode(blob, type=_Url)
        except StoreFailure as error:
            return Finding(Kind.UNREADABLE, key, error.why)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Finding(Kind.DAMAGED, key, f"The record of where the upstream is cannot be read: {error}.")
        return None

    async def _project_list(self, key: str) -> Finding | None:
        damaged = Finding(Kind.DAMAGED, key, "The list of projects is not what was stored.")
        content = await self._store.open(key, Span(suffix=TRAILER))
        if content is None:
            return None
        size = content.size
        trailer = bytearray()
        await pour(key, content, trailer.extend)
        line = bytes(trailer).rpartition(b"\n")[2]
        try:
            facts = msgspec.json.decode(line, type=_ListFacts)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return damaged
        if size != facts.stop + len(line):
            return damaged
        digest = hashlib.sha256()
        if facts.stop:
            names = await self._store.open(key, Span(0, facts.stop - 1))
            if names is None:
                return None
            count = await pour(key, names, digest.update)
            self._account.bytes_read += count  # in one step: others add to it meanwhile
        return None if digest.hexdigest() == facts.revision else damaged

    async def hosted(self) -> AsyncGenerator[Finding, None]:
        """What was published here: each archive against its record, the record being what makes it one."""
        group: list[StoredKey] = []
        async for found in in_order(self._store.list("local/"), "local/"):
            self._account.objects += 1
            if project_of(found.key) is None:
                yield Finding(Kind.STRAY, found.key, NOT_OURS)
                continue
            if group and project_of(group[0].key) != project_of(found.key):
                async for finding in self._hosted_project(group):
                    yield finding
                group = []
            group.append(found)
        async for finding in self._hosted_project(group):
            yield finding

    async def _hosted_project(self, group: list[StoredKey]) -> AsyncGenerator[Finding, None]:
        keys = {found.key for found in group}
        for key in sorted(keys):
            try:
                if key.endswith(".json"):
                    if key.removesuffix(".json") not in keys:
                        yield Finding(
                            Kind.MISSING, key.removesuffix(".json"), "Its record is there, its bytes are not."
                        )
                elif (archive := archive_of(key)) == key:
                    if (finding := await self._hosted_archive(key, f"{key}.json" in keys)) is not None:
                        yield finding
                elif archive not in keys:
                    yield Finding(Kind.ORPHAN, key, "The archive that it belongs to is not there.")
            except StoreFailure as error:
                yield Finding(Kind.UNREADABLE, key, error.why)

    async def _hosted_archive(self, key: str, has_record: bool) -> Finding | None:
        if not has_record:
            return Finding(Kind.ORPHAN, key, "It has no record: an upload that was never finished.")
        blob = await self._store.read(f"{key}.json", MAX_HOSTED_RECORD)
        if blob is None:
            return None
        try:
            record = msgspec.json.decode(blob, type=_HostedRecord)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Finding(Kind.DAMAGED, f"{key}.json", f"The record cannot be read: {error}.")
        if not self._sampled():
            return None
        content = await self._store.open(key)
        if content is None:
            return None
        proof = Proof([File(filename=key.rpartition("/")[2], url="", path=key, hashes=record.hashes, size=record.size)])
        count = await pour(key, content, proof.update)
        self._account.bytes_read += count  # in one step: others add to it meanwhile
        self._account.unproven += not proof.proves
        try:
            proof.finish()
        except IntegrityError as error:
            return Finding(Kind.DAMAGED, key, f"It {error.why.partition(' ')[2]}.")
        return None

    async def bookkeeping(self) -> AsyncGenerator[Finding, None]:
        """Records of use, and pins."""
        for prefix in (ACCESS, PINS):
            async for found in self._store.list(prefix):
                self._account.objects += 1
                try:
                    if prefix == PINS:
                        await read_pin(self._store, found.key)
                    elif day_of_key(found.key) is None:
                        yield Finding(Kind.STRAY, found.key, NOT_OURS)
                    elif (blob := await self._store.read(found.key, MAX_RECORD)) is not None:
                        await asyncio.to_thread(unpack_record, blob)
                except StoreFailure as error:
                    yield Finding(Kind.UNREADABLE, found.key, error.why)
                except (DamagedRecord, DamagedPin) as error:
                    yield Finding(Kind.DAMAGED, found.key, str(error))
