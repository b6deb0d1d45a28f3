"""Stored bytes against what the page promises of them, and how a file on disk is known again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Final

from mirror.errors import IntegrityError, StoreFailure
from mirror.flight import Flights, Tasks
from mirror.lru import LRU
from mirror.model import ByteSource, File, LocalFile
from mirror.verify import Check

READ: Final = 1024 * 1024
"""Bytes hashed between two looks at the file."""
REMEMBERED: Final = 100_000
"""Files of which it is remembered that they passed."""
SOURCE: Final = "store"
"""Who is named in failures of stored bytes."""

Identity = tuple[int, int, int, int]
"""Device, inode, size and a time (ns) of a file."""


def identity(stat: os.stat_result) -> Identity:
    """Another or altered file has another; so has the same file under a new name."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns


def contents(stat: os.stat_result) -> Identity:
    """What stays when a file gets another name, and changes when somebody writes to it."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def wrong_size(file: File, size: int) -> IntegrityError:
    """The failure of stored bytes that are too many or too few."""
    return IntegrityError(SOURCE, file.filename, f"has {size} bytes instead of {file.size}")


class Proofs:
    """Remembers which files have passed their check, so that each is hashed once since this process started."""

    def __init__(self, tasks: Tasks) -> None:
        self.passed: LRU[Identity, str] = LRU(REMEMBERED)
        self._handed_over: LRU[Identity, str] = LRU(REMEMBERED)
        self._checks: Flights[tuple[Identity, str], None] = Flights(tasks, "verify")

    def vouch(self, stat: os.stat_result, file: File) -> None:
        """This file on disk has passed as `file`."""
        self.passed.put(identity(stat), _promised(file))

    def hand_over(self, verified: Identity, file: File) -> None:
        """What has these `contents` has passed, and is to get another name now."""
        self._handed_over.put(verified, _promised(file))

    async def prove(
        self, file: File, content: LocalFile, fails: Callable[[Identity, IntegrityError], Awaitable[None]]
    ) -> None:
        """Hashes the whole file in a thread (about 1.5 GB/s), once for all who ask meanwhile.

        Raises `IntegrityError`, after `fails` was told of it, and `StoreFailure`.
        """
        stat = os.fstat(content.handle.fileno())
        found, promise = identity(stat), _promised(file)
        if self._handed_over.get(contents(stat)) == promise:
            self._handed_over.drop(contents(stat))
            self.passed.put(found, promise)
        if self.passed.get(found) == promise and file.size in (None, content.size):
            return
        flight = found, promise
        # A handle of its own on the same file: ours is closed if this caller leaves, and the key may by then
        # be that of another file.
        handle = -1 if flight in self._checks else os.dup(content.handle.fileno())

        async def check() -> None:
            try:
                await asyncio.to_thread(_hash, handle, file)
            except IntegrityError as e:
                await fails(found, e)
                raise
            except OSError as e:
                raise StoreFailure("read", file.filename, e.strerror or str(e)) from e
            finally:
                os.close(handle)
            self.passed.put(found, promise)

        await self._checks.run(flight, check)


def _promised(file: File) -> str:
    """The digest that proves a file, for comparison; "any" where the page gives none."""
    return file.digest.hex if file.digest else "any"


def _hash(handle: int, file: File) -> None:
    """Reads a whole open file. Raises `IntegrityError`, `OSError`."""
    size = os.fstat(handle).st_size
    if file.size is not None and size != file.size:
        raise wrong_size(file, size)
    check = Check(file, SOURCE)
    buffer = bytearray(READ)
    view = memoryview(buffer)
    while count := os.preadv(handle, [buffer], check.position):
        check.update(view[:count])
    check.finish(size)


class Proven:
    """A stored body on its way through its check; closing it closes both, also before the first piece."""

    def __init__(self, source: ByteSource, checked: AsyncGenerator[bytes, None]) -> None:
        self._source, self._checked = source, checked

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._checked

    async def aclose(self) -> None:
        await self._checked.aclose()
        await self._source.aclose()
