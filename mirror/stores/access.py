"""What was read on which day, recorded in the store for its garbage collection."""

from __future__ import annotations

import asyncio
import sys
from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.flight import Tasks
from mirror.model import WHOLE, Blob, Content, Redirect, Span, Unchanged
from mirror.names import file_name
from mirror.ports import Clock, Presigner, Store, StoredKey
from mirror.stores.keys import access_hash, is_recorded, page_of
from mirror.stores.rounds import Rounds

DAY: Final = 86_400
HOURLY: Final = 3600.0
AT_ONCE: Final = 250_000
"""Keys in memory (about 25 MB) that are written before the hour is over; what comes when there are twice as many is
not recorded."""
MAX_BYTES: Final = 64 << 20
"""Of one day's record of one replica: 8 million keys."""

log = structlog.get_logger()


class AccessLog:
    """Records use as `access/<YYYY-MM-DD>/<replica>.bin`: one `access_hash` for each key that was used that day (UTC),
    each 64 bits little-endian, ascending, none twice.

    What is lost if the process is killed is at most an hour's evidence: garbage collection may then take away what
    can be fetched again.
    """

    def __init__(
        self,
        store: Store,
        tasks: Tasks,
        clock: Clock,
        counters: Counters,
        replica: str,
        *,
        every: float = HOURLY,
        at_once: int = AT_ONCE,
    ) -> None:
        """`replica`: another for every process that uses the store. Raises `InvalidName` if no file could have it."""
        self._store, self._clock, self._counters = store, clock, counters
        self._name = file_name(f"{replica}.bin")
        self._at_once = at_once
        self._days: dict[int, set[int]] = {}
        """By days since the epoch: what has not been written yet."""
        self._recorded = -1
        """The last day that has a record of this replica."""
        self._noted = 0
        self._left_off = 0
        self._hurried = False
        self._flushing = asyncio.Lock()
        self._rounds = Rounds(tasks, every, self.flush, "record what was read")

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        """To be called before `Tasks.drain`; `flush` is called after it."""
        self._rounds.stop()

    def note(self, key: str) -> None:
        """`key` was used now. Keys that are not subject to garbage collection are passed over."""
        if not is_recorded(key):
            return
        noted = self._days.setdefault(int(self._clock.now() // DAY), set())
        self._add(noted, key)
        if page := page_of(key):
            self._add(noted, page)

    def _add(self, noted: set[int], key: str) -> None:
        number = access_hash(key)
        if number in noted:
            return
        if self._noted >= 2 * self._at_once:
            self._left_off += 1
            return
        noted.add(number)
        self._noted += 1
        if self._noted >= self._at_once and not self._hurried:
            self._hurried = True  # if that fails, the next try has its time
            self._rounds.hurry()

    async def flush(self) -> None:
        """Writes what is not written yet. What the store refuses is counted, and tried again the next time."""
        async with self._flushing:
            if self._left_off:
                self._counters.count("access_failures")
                log.error("use not recorded, too much waits for the store", keys=self._left_off)
                self._left_off = 0
            today = int(self._clock.now() // DAY)
            if self._recorded != today:
                self._days.setdefault(today, set())  # that nothing was used is evidence, too; no record is none
            for day in sorted(self._days):
                await self._flush(day)

    async def _flush(self, day: int) -> None:
        noted = self._days.pop(day)
        written = False
        try:
            await self._write(f"access/{datetime.fromtimestamp(day * DAY, UTC):%Y-%m-%d}/{self._name}", noted)
            written = True
        except StoreFailure as e:
            self._counters.count("access_failures")
            log.error("use not recorded", keys=len(noted), reason=str(e))
        finally:
            meanwhile = self._days.get(day, set())
            if written:
                self._recorded = max(self._recorded, day)
                self._noted -= len(noted)
                self._hurried = False
            else:
                self._noted -= len(noted & meanwhile)
                noted |= meanwhile
                self._days[day] = noted

    async def _write(self, key: str, noted: set[int]) -> None:
        found = await self._store.read(key, MAX_BYTES)
        before = found or b""
        if len(before) % 8:
            self._counters.count("access_failures")
            log.error("record of use is damaged, its whole entries are kept", key=key, size=len(before))
        after = await asyncio.to_thread(_merged, before, noted)
        if after != found:
            await self._store.put(key, after)


def _merged(before: bytes, noted: set[int]) -> bytes:
    """In 256 parts, because a sort holds up every other thread until it ends."""
    old = array("Q", before[: len(before) // 8 * 8])
    if sys.byteorder == "big":
        old.byteswap()
    parts: list[list[int]] = [[] for _ in range(256)]
    for number in noted:
        parts[number >> 56].append(number)
    merged = array("Q")
    at = 0
    for top, part in enumerate(parts):
        end = bisect_left(old, (top + 1) << 56, at)
        merged.extend(sorted({*part, *old[at:end]}))
        at = end
    if sys.byteorder == "big":
        merged.byteswap()
    return merged.tobytes()


class RecordingStore:
    """A store whose use is noted in `access`: what was opened, read or written and is there.

    Listings, checks, removals and whatever is not subject to garbage collection leave no trace, nor does a start.
    """

    def __init__(self, inner: Store, access: AccessLog) -> None:
        self._inner, self._access = inner, access

    @property
    def remote(self) -> bool:
        return self._inner.remote

    @property
    def exact(self) -> bool:
        return self._inner.exact

    async def open(self, key: str, span: Span = WHOLE) -> Content | None:
        content = await self._inner.open(key, span)
        if content is not None:
            self._access.note(key)
        return content

    async def read(self, key: str, limit: int) -> bytes | None:
        body = await self._inner.read(key, limit)
        if body is not None:
            self._access.note(key)
        return body

    async def reread(self, key: str, limit: int, version: str) -> Blob | Unchanged | None:
        found = await self._inner.reread(key, limit, version)
        if found is not None:
            self._access.note(key)
        return found

    async def put(self, key: str, body: bytes) -> None:
        await self._inner.put(key, body)
        self._access.note(key)

    async def create(self, key: str, body: bytes) -> bool:
        return await self._inner.create(key, body)

    async def replace(self, key: str, body: bytes, version: str) -> bool:
        return await self._inner.replace(key, body, version)

    async def adopt(self, key: str, path: Path) -> None:
        await self._inner.adopt(key, path)
        self._access.note(key)

    async def admit(self, key: str, path: Path) -> bool:
        return await self._inner.admit(key, path)

    async def delete(self, key: str) -> None:
        await self._inner.delete(key)

    async def quarantine(self, key: str) -> None:
        await self._inner.quarantine(key)

    def list(self, prefix: str) -> AsyncIterator[StoredKey]:
        return self._inner.list(prefix)

    async def check(self) -> None:
        await self._inner.check()

    async def aclose(self) -> None:
        await self._inner.aclose()


class RecordingPresigner:
    """A presigner whose use is noted in `access`: what clients fetch past the mirror is used, too."""

    def __init__(self, inner: Presigner, access: AccessLog) -> None:
        self._inner, self._access = inner, access

    async def open(self, key: str, span: Span = WHOLE) -> Content | None:
        return await self._inner.open(key, span)

    async def presigned(self, key: str, filename: str) -> Redirect | None:
        redirect = await self._inner.presigned(key, filename)
        if redirect is not None:
            self._access.note(key)
        return redirect
