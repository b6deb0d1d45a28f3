"""The store in a folder: objects are plain files, reached in threads so that a slow disk delays nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import structlog

from mirror.adapters.directory.tree import ObjectTree
from mirror.adapters.store_keys import checked_key, checked_prefix
from mirror.model import WHOLE, Blob, LocalFile, Span, Unchanged
from mirror.ports import StoredKey

_T = TypeVar("_T")
_SWEEP_PATIENCE: Final = 1.0
"""Seconds that the start waits for the sweep; in a large store it goes on behind."""

_log = structlog.get_logger(__name__)


class DirectoryStore:
    """A `mirror.ports.Store` in the folder `root`, layout 1.

    Several processes may share the folder. An object is written to a temporary file beside its place, and
    renamed once it is on disk. Replacing one that is being read is safe: an open file stays what it was.
    A call that is cancelled after it began goes on in its thread to its end. Where both `a` and `a/b` are written, the
    second fails: keys are meant to be portable.
    """

    def __init__(self, root: Path, *, readers: int = 8, writers: int = 4) -> None:
        """`readers` and `writers`: threads; two pools, so that a disk that hangs in a write still answers reads."""
        self._root = root
        self._readers = ThreadPoolExecutor(readers, "store-read")
        self._writers = ThreadPoolExecutor(writers, "store-write")
        self._stopping = threading.Event()
        self._tree: ObjectTree | None = None

    async def start(self) -> None:
        """Creates or opens the folder and removes what an earlier process left unfinished.

        Raises `StartError` if the folder is not a store of this layout or cannot be written.
        """
        self._tree = await self._in(self._writers, ObjectTree, self._root)
        await asyncio.wait({self._submit(self._readers, self._sweep)}, timeout=_SWEEP_PATIENCE)

    @property
    def remote(self) -> bool:
        return False

    @property
    def exact(self) -> bool:
        """For the processes of one machine; a network file system may ignore their locks."""
        return True

    async def open(self, key: str, span: Span = WHOLE) -> LocalFile | None:
        opening = self._submit(self._readers, self._opened.open, checked_key(key), span)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unclaimed)
            raise

    async def read(self, key: str, limit: int) -> bytes | None:
        return await self._in(self._readers, self._opened.read, checked_key(key), limit)

    async def reread(self, key: str, limit: int, version: str) -> Blob | Unchanged | None:
        return await self._in(self._readers, self._opened.reread, checked_key(key), limit, version)

    async def put(self, key: str, body: bytes) -> None:
        await self._in(self._writers, self._opened.put, checked_key(key), body)

    async def create(self, key: str, body: bytes) -> bool:
        return await self._in(self._writers, self._opened.create, checked_key(key), body)

    async def replace(self, key: str, body: bytes, version: str) -> bool:
        return await self._in(self._writers, self._opened.replace, checked_key(key), body, version)

    async def adopt(self, key: str, path: Path) -> None:
        """After `StoreFailure` the file is still there."""
        await self._in(self._writers, self._opened.adopt, checked_key(key), path)

    async def admit(self, key: str, path: Path) -> bool:
        """Nothing is nearer than the folder itself."""
        checked_key(key)
        return False

    async def delete(self, key: str) -> None:
        await self._in(self._writers, self._opened.delete, checked_key(key))

    async def quarantine(self, key: str) -> None:
        """Moves the object below `quarantine/` in the store's folder, where no key reaches it."""
        await self._in(self._writers, self._opened.quarantine, checked_key(key))

    async def list(self, prefix: str) -> AsyncIterator[StoredKey]:
        """Reads one folder after the other; what is written meanwhile may or may not be told."""
        batches = self._opened.batches(checked_prefix(prefix))
        while batch := await self._in(self._readers, next, batches, None):
            for found in batch:
                yield found

    async def check(self) -> None:
        """Writes a block to disk, so a folder that is full, read-only or gone is noticed."""
        await self._in(self._writers, self._opened.probe)

    async def aclose(self) -> None:
        """Waits for what is under way, then closes the folder."""
        self._stopping.set()
        await asyncio.to_thread(self._close)

    @property
    def _opened(self) -> ObjectTree:
        if self._tree is None:
            raise RuntimeError("the store has not been started")
        return self._tree

    def _sweep(self) -> None:
        removed, errors = self._opened.sweep(self._stopping)
        if removed:
            _log.info("store_leftovers_removed", files=removed)
        for error in errors:
            _log.warning("store_leftovers_unreadable", reason=error.strerror)

    def _close(self) -> None:
        self._readers.shutdown()
        self._writers.shutdown()
        if self._tree is not None:
            self._tree.close()
            self._tree = None

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., _T], *args: object) -> _T:
        return await self._submit(pool, function, *args)

    @staticmethod
    def _submit(pool: ThreadPoolExecutor, function: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(pool, function, *args)


def _close_unclaimed(opening: asyncio.Future[LocalFile | None]) -> None:
    """Closes the file that a cancelled caller will never receive."""
    if not opening.cancelled() and opening.exception() is None and (file := opening.result()) is not None:
        file.close()
