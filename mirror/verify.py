"""Hold bytes against what the index promised of them, and hold back their end until they pass."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from mirror.errors import IntegrityError
from mirror.model import File

HOLD_BACK: Final = 64 * 1024
"""Bytes at the end of a file that no client receives before the whole file has passed its check."""


class Check:
    """The size and digest of one file, computed as it goes by."""

    def __init__(self, file: File, upstream: str) -> None:
        self._file = file
        self.source = upstream
        """Whom failures name."""
        self.position = 0
        self._algorithm, self._promised = _strongest(file)
        self._hash = hashlib.new(self._algorithm, usedforsecurity=False) if self._algorithm else None

    @property
    def proves(self) -> bool:
        """Whether there is a digest to check by: without one, two parts need not be of the same file."""
        return self._hash is not None

    def update(self, piece: bytes | memoryview) -> None:
        self.position += len(piece)
        if self._hash is not None:
            self._hash.update(piece)

    def copy(self) -> Check:
        """An independent check that has seen the same bytes."""
        twin = Check(self._file, self.source)
        twin.position = self.position
        twin._hash = self._hash.copy() if self._hash else None
        return twin

    def longer(self, promised: int) -> IntegrityError:
        """The failure of a body that goes on after `promised` bytes."""
        return IntegrityError(self.source, self._file.filename, f"is longer than the {promised} bytes promised")

    def finish(self, size: int | None) -> None:
        """Raises `IntegrityError` unless exactly `size` bytes have gone by and their digest is the promised one."""
        if size is not None and self.position != size:
            why = f"ended after {self.position} of {size} bytes"
            raise IntegrityError(self.source, self._file.filename, why)
        if self._hash is not None and self._hash.hexdigest() != self._promised:
            why = f"has the {self._algorithm} {self._hash.hexdigest()} where the index promised {self._promised}"
            raise IntegrityError(self.source, self._file.filename, why)


def _strongest(file: File) -> tuple[str, str]:
    """Algorithm and hex digest to check by: a strong one, else any that hashlib knows (md5), else nothing."""
    if digest := file.digest:
        return digest.algorithm, digest.hex
    for algorithm, value in file.hashes.items():
        if algorithm in hashlib.algorithms_available and not algorithm.startswith("shake"):
            return algorithm, value
    return "", ""


async def held_back(
    body: AsyncIterator[bytes],
    check: Check,
    size: int | None,
    start: int,
    stop: int,
    before: bytes = b"",
    *,
    proven: bool = False,
) -> AsyncGenerator[bytes, None]:
    """The part `start`–`stop` of a body that begins where `check` stands, its end held back until it passes.

    `before` are the bytes just before the body, which `check` has seen and no client has. A part that ends before
    the file's last `HOLD_BACK` bytes is over before the check is: such a part carries no proof, which is the nature of
    a range, unless it is to be `proven`: then its last byte waits for the end of the body, and so does all that
    comes after it, in memory. Raises `IntegrityError`.
    """
    held = deque([before] if before else [])
    at = check.position - len(before)  # position of the first byte in `held`
    released = False
    async for piece in body:
        check.update(piece)
        if size is not None and check.position > size:
            raise check.longer(size)
        held.append(piece)
        free = check.position - HOLD_BACK
        if proven:
            free = min(free, stop - 1)
        while held and at < free:
            piece = held.popleft()
            if at + len(piece) > free:
                # Pieces pass uncopied, each once it is free from end to end; but nobody waits so long for the first.
                if released:
                    held.appendleft(piece)
                    break
                held.appendleft(piece[free - at :])
                piece = piece[: free - at]
            if part := _within(piece, at, start, stop):
                released = True
                yield part
            at += len(piece)
        if at >= stop:
            return
    check.finish(size)
    for piece in held:
        if part := _within(piece, at, start, stop):
            yield part
        at += len(piece)


def _within(piece: bytes, at: int, start: int, stop: int) -> bytes:
    """What of `piece`, whose first byte is at `at`, lies in the part `start`–`stop`."""
    if start <= at and at + len(piece) <= stop:
        return piece
    return piece[max(0, start - at) : max(0, stop - at)]
