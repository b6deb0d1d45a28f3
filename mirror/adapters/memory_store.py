"""The store in memory, for tests and for runners without a disk: bounded, and gone with the process."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.adapters.store_keys import checked_key, checked_prefix
from mirror.errors import StoreFailure
from mirror.model import WHOLE, Blob, ByteStream, Origin, Span, Unchanged
from mirror.ports import StoredKey

_PIECE: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    modified: float
    version: str


class MemoryStore:
    """A `mirror.ports.Store` of at most `limit_bytes` bytes (keys and bodies).

    It keeps less than its port promises: when it is full, the objects that were not used for longest are
    forgotten, published packages too. An object larger than the whole store is refused.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._objects: OrderedDict[str, _Object] = OrderedDict()
        self._versions = itertools.count(1)

    async def start(self) -> None:
        """There is nothing to prepare."""

    @property
    def remote(self) -> bool:
        return False

    @property
    def exact(self) -> bool:
        return True

    async def open(self, key: str, span: Span = WHOLE) -> ByteStream | None:
        found = self._recall(checked_key(key))
        if found is None:
            return None
        size = len(found.body)
        start, stop = span.resolve(size)
        return ByteStream(_pieces(found.body, start, stop), size, start, stop, Origin.STORE)

    async def read(self, key: str, limit: int) -> bytes | None:
        found = await self.reread(key, limit, "")
        return found.body if isinstance(found, Blob) else None

    async def reread(self, key: str, limit: int, version: str) -> Blob | Unchanged | None:
        found = self._recall(checked_key(key))
        if found is None:
            return None
        if found.version == version:
            return Unchanged.UNCHANGED
        if (size := len(found.body)) > limit:
            raise StoreFailure("read", key, f"it has {size} bytes, and at most {limit} were expected")
        return Blob(found.body, found.version)

    async def put(self, key: str, body: bytes) -> None:
        self._remember(checked_key(key), bytes(body))

    async def create(self, key: str, body: bytes) -> bool:
        if checked_key(key) in self._objects:
            return False
        self._remember(key, bytes(body))
        return True

    async def replace(self, key: str, body: bytes, version: str) -> bool:
        found = self._objects.get(checked_key(key))
        if found is None or found.version != version:
            return False
        self._remember(key, bytes(body))
        return True

    async def adopt(self, key: str, path: Path) -> None:
        """After `StoreFailure` the file is still there."""
        checked_key(key)
        try:
            body = await asyncio.to_thread(path.read_bytes)
            self._remember(key, body)
            await asyncio.to_thread(path.unlink)
        except OSError as error:
            raise StoreFailure("write", key, error.strerror or type(error).__name__) from error

    async def admit(self, key: str, path: Path) -> bool:
        """Nothing is nearer than memory."""
        checked_key(key)
        return False

    async def delete(self, key: str) -> None:
        self._forget(checked_key(key))

    async def quarantine(self, key: str) -> None:
        """Keeps the bytes, as long as there is room for them; see `quarantined`."""
        if (found := self._objects.get(checked_key(key))) is not None:
            self._forget(key)
            self._remember(f"quarantine/{key}/{time.time_ns()}", found.body)

    def quarantined(self) -> list[bytes]:
        """The bodies of the objects in quarantine, oldest first."""
        return [self._objects[k].body for k in sorted(self._objects) if k.startswith("quarantine/")]

    async def list(self, prefix: str) -> AsyncIterator[StoredKey]:
        checked_prefix(prefix)
        for key in sorted(k for k in self._objects if k.startswith(prefix) and not k.startswith("quarantine/")):
            if (found := self._objects.get(key)) is not None:
                yield StoredKey(key, len(found.body), found.modified)

    async def check(self) -> None:
        """Memory can always be written."""

    async def aclose(self) -> None:
        self._objects.clear()
        self._used = 0

    def _recall(self, key: str) -> _Object | None:
        found = self._objects.get(key)
        if found is not None:
            self._objects.move_to_end(key)
        return found

    def _remember(self, key: str, body: bytes) -> None:
        if (needed := _cost(key, body)) > self._limit:
            raise StoreFailure("write", key, f"it needs {needed} bytes and the whole store has {self._limit}")
        self._forget(key)
        self._objects[key] = _Object(body, time.time(), str(next(self._versions)))
        self._used += needed
        while self._used > self._limit:
            self._forget(next(iter(self._objects)))

    def _forget(self, key: str) -> None:
        if (found := self._objects.pop(key, None)) is not None:
            self._used -= _cost(key, found.body)


def _cost(key: str, body: bytes) -> int:
    return len(key.encode()) + len(body)


async def _pieces(body: bytes, start: int, stop: int) -> AsyncGenerator[bytes, None]:
    for offset in range(start, stop, _PIECE):
        yield body[offset : min(offset + _PIECE, stop)]
