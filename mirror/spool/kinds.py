"""What a spool is, wherever its bytes are."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Spool(Protocol):
    """An append-only file. `append` and `read` may block and belong in a thread; `peek` never blocks."""

    size: int
    """Bytes appended so far."""
    path: Path | None
    """Where it is, once closed for writing; None in memory."""

    def append(self, pieces: list[bytes]) -> None:
        """Adds all pieces or raises `OSError`; after an error nothing is added."""
        ...

    def peek(self, position: int, length: int) -> bytes | None:
        """Bytes that can be had without waiting for a disk; None if they cannot."""
        ...

    def read(self, position: int, length: int) -> bytes:
        """At most `length` bytes from `position`, at least one if `position < size`."""
        ...

    def discard(self) -> None:
        """Removes the file; what is open stays readable."""
        ...

    def close(self) -> None:
        """Lets go of the handle; nothing can be read any more."""
        ...


class Spools(Protocol):
    """Where spools come from."""

    def create(self, expected: int | None) -> Spool:
        """A new, empty spool for about `expected` bytes; `OSError` if there is no room. May block."""
        ...
