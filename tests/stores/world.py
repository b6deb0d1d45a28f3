"""A remote store that can refuse and wait, caches in a folder and in memory, and replicas made of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from mirror.adapters.memory_store import MemoryStore
from mirror.adapters.store_keys import checked_key
from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.flight import Tasks
from mirror.model import WHOLE, Blob, ByteSource, Content, LocalFile, Origin, Span, Unchanged
from mirror.ports import Store, StoredKey
from mirror.stores.cached import CachedStore
from mirror.stores.write_behind import Pace
from mirror.testing import MovableClock

PATIENCE = 60.0
QUICK = Pace(first_pause=1.0, longest_pause=60.0, look=0.005)
"""Pauses by the clock that the test moves; it is looked often whether it has moved."""


async def eventually(condition: Callable[[], bool], otherwise: str = "it did not come") -> None:
    """Returns once `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, otherwise
        await asyncio.sleep(0.002)


async def turns(number: int = 50) -> None:
    """Lets whatever can go on go on."""
    for _ in range(number):
        await asyncio.sleep(0)


class ScriptedRemote:
    """An object store over `inner` that counts calls in `calls`, as `<call>:<key>`, and does what the test says."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        self.reads = self.writes = True
        self.refused: set[str] = set()
        """Keys that it never takes."""
        self.gates: dict[str, asyncio.Event] = {}
        """By `<call>:<key>`: the call has been counted and waits until this is set."""
        self.after: dict[str, Callable[[], Awaitable[None]]] = {}
        """Likewise: what happens when the call has been answered, before its caller hears of it."""
        self.is_exact = True

    @property
    def remote(self) -> bool:
        return True

    @property
    def exact(self) -> bool:
        return self.is_exact

    def asked(self, call: str) -> int:
        """Calls so far of which `call` is the beginning."""
        return sum(n for c, n in self.calls.items() if c.startswith(call))

    async def open(self, key: str, span: Span = WHOLE) -> Content | None:
        await self._enter("open", key, works=self.reads)
        return await self.inner.open(key, span)

    async def read(self, key: str, limit: int) -> bytes | None:
        await self._enter("read", key, works=self.reads)
        return await self.inner.read(key, limit)

    async def reread(self, key: str, limit: int, version: str) -> Blob | Unchanged | None:
        await self._enter("reread", key, works=self.reads)
        found = await self.inner.reread(key, limit, version)
        if isinstance(found, Blob):
            self.calls[f"body:{key}"] += 1
        await self._leave("reread", key)
        return found

    async def put(self, key: str, body: bytes) -> None:
        await self._enter("put", key, works=self.writes)
        await self.inner.put(key, body)
        await self._leave("put", key)

    async def create(self, key: str, body: bytes) -> bool:
        await self._enter("create", key, works=self.writes)
        return await self.inner.create(key, body)

    async def replace(self, key: str, body: bytes, version: str) -> bool:
        await self._enter("replace", key, works=self.writes)
        return await self.inner.replace(key, body, version)

    async def adopt(self, key: str, path: Path) -> None:
        await self._enter("adopt", key, works=self.writes)
        await self.inner.adopt(key, path)
        await self._leave("adopt", key)

    async def admit(self, key: str, path: Path) -> bool:
        return await self.inner.admit(key, path)

    async def delete(self, key: str) -> None:
        await self._enter("delete", key, works=self.writes)
        await self.inner.delete(key)

    async def quarantine(self, key: str) -> None:
        await self._enter("quarantine", key, works=self.writes)
        await self.inner.quarantine(key)

    def list(self, prefix: str) -> AsyncIterator[StoredKey]:
        return self.inner.list(prefix)

    async def check(self) -> None:
        await self.inner.check()

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def pour(self, key: str, size: int, body: ByteSource) -> None:
        await self._enter("pour", key, works=self.writes)
        try:
            await self.inner.put(key, b"".join([piece async for piece in body]))
        finally:
            await body.aclose()

    async def _enter(self, call: str, key: str, *, works: bool) -> None:
        self.calls[f"{call}:{key}"] += 1
        if gate := self.gates.get(f"{call}:{key}"):
            await gate.wait()
        # After the gate, as a service decides when the request has arrived.
        if not (works and (self.reads if call in ("open", "read", "reread") else self.writes)):
            raise StoreFailure(call, key, "the test switched it off")
        if key in self.refused and call not in ("open", "read", "reread"):
            raise StoreFailure(call, key, "the service does not like it")

    async def _leave(self, call: str, key: str) -> None:
        if after := self.after.pop(f"{call}:{key}", None):
            await after()


class FolderArchives:
    """A `mirror.ports.ArchiveCache` in a folder, without bounds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.full = False
        """It takes nothing."""
        self.stuck = False
        """Its disk does not answer: nothing is lent and nothing is told."""
        for name in ("archives", "owed", "lent"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def copy(self, key: str) -> Path:
        return self.root / "archives" / key

    def debt(self, key: str) -> Path:
        return self.root / "owed" / key

    async def open(self, key: str, span: Span = WHOLE) -> LocalFile | None:
        try:
            handle = self.copy(checked_key(key)).open("rb")
        except OSError:
            return None
        size = os.fstat(handle.fileno()).st_size
        try:
            start, stop = span.resolve(size)
        except BaseException:  # the handle has no other owner yet
            handle.close()
            raise
        return LocalFile(handle, size, start, stop, Origin.CACHE)

    async def adopt(self, key: str, path: Path, *, owed: bool = False) -> bool:
        target = self.copy(checked_key(key))
        if self.full or not path.exists():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        if owed:
            self.debt(key).parent.mkdir(parents=True, exist_ok=True)
            self.debt(key).unlink(missing_ok=True)
            os.link(path, self.debt(key))
        os.replace(path, target)
        return True

    async def owed(self) -> list[str]:
        found = [p for p in (self.root / "owed").rglob("*") if p.is_file()]
        return [] if self.stuck else [str(p.relative_to(self.root / "owed")) for p in sorted(found)]

    async def lend(self, key: str) -> Path | None:
        if self.stuck or not self.debt(key).exists():
            return None
        lent = self.root / "lent" / key.replace("/", "_")
        lent.unlink(missing_ok=True)
        os.link(self.debt(key), lent)
        return lent

    async def settled(self, key: str) -> None:
        self.debt(checked_key(key)).unlink(missing_ok=True)
        (self.root / "lent" / key.replace("/", "_")).unlink(missing_ok=True)

    async def forget(self, key: str) -> None:
        self.copy(checked_key(key)).unlink(missing_ok=True)

    async def aclose(self) -> None:
        """There is nothing open."""


class MemoryRecords:
    """A `mirror.ports.RecordCache` in a dict; `gates` (by key) hold writes up until they are set."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.gates: dict[str, asyncio.Event] = {}

    async def recall(self, key: str) -> bytes | None:
        await asyncio.sleep(0)
        return self.bodies.get(key)

    async def remember(self, key: str, body: bytes) -> None:
        await asyncio.sleep(0)
        if gate := self.gates.get(key):
            await gate.wait()
        self.bodies[key] = body

    async def forget(self, key: str) -> None:
        await asyncio.sleep(0)
        self.bodies.pop(key, None)

    async def aclose(self) -> None:
        self.bodies.clear()


class Replica:
    """One process: a `CachedStore` over a remote that others may share, with caches of its own."""

    def __init__(
        self,
        remote: ScriptedRemote,
        clock: MovableClock,
        folder: Path | None = None,
        *,
        records: MemoryRecords | None = None,
        kind: type[CachedStore] = CachedStore,
        **options: Any,
    ) -> None:
        self.remote, self.clock = remote, clock
        self.archives = None if folder is None else FolderArchives(folder)
        self.records = records
        self.refusal = 0.0
        self.counters = Counters()
        self.tasks = Tasks(self.counters)
        settings: dict[str, Any] = {"pace": QUICK, "refusal": lambda: self.refusal} | options
        self.store = kind(
            remote,
            records,
            self.archives,
            self.tasks,
            self.counters,
            clock,
            **settings,
        )

    @property
    def disk(self) -> FolderArchives:
        assert self.archives is not None
        return self.archives

    async def end(self, timeout: float = PATIENCE) -> int:
        """The process ends in good order; how many tasks had to be cancelled."""
        self.store.stop()
        cancelled = await self.tasks.drain(timeout)
        assert self.counters["background_failures"] == 0
        return cancelled

    async def kill(self) -> None:
        """Everything stops where it is."""
        await self.tasks.drain(0)


def remote_store(limit: int = 64 << 20) -> ScriptedRemote:
    return ScriptedRemote(MemoryStore(limit))
