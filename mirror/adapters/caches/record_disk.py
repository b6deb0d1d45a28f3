"""What diskcache may do with keys and values: text keys as they are, sealed bytes in rows, and nothing else."""

from __future__ import annotations

import hashlib
from typing import Any, Final, NoReturn

import diskcache
from diskcache.core import MODE_RAW

_MAGIC: Final = b"MRC1"
_HEAD: Final = len(_MAGIC) + 8 + 32


class Damaged(ValueError):
    """A row that this mirror did not write, or not so. Not an `OSError`, which diskcache takes for a miss."""


class SafeDisk(diskcache.Disk):  # type: ignore[misc] # diskcache ships no types
    """diskcache's serialisation with every way closed that leads from a row to code or to a file (CVE-2025-69872).

    Values lie in their rows, whatever their size, so no row has a reason to name a file: one that does is refused,
    and no file is ever opened or removed on the word of the database. Anything but text keys and bytes is a
    `TypeError`, so that the branches that pickle are out of reach.
    """

    def put(self, key: object) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"a key is text, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        if raw != 1 or type(key) is not str:
            raise Damaged("a key that is not text")
        return key

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, bytes]:
        if type(value) is not bytes or read:
            raise TypeError(f"a value is bytes, not {type(value).__name__}")
        return 0, MODE_RAW, None, value

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> bytes:
        if mode != MODE_RAW or filename is not None or read or type(value) is not bytes:
            raise Damaged("a row that is not of this mirror's making")
        return value

    def filename(self, key: object = None, value: object = None) -> NoReturn:
        raise TypeError("no value lies in a file")

    def remove(self, file_path: Any) -> None:
        """Eviction hands over the names that rows give; there is nothing that they could rightly name."""


def sealed(key: str, body: bytes) -> bytes:
    """`body` with magic, length and a digest that covers the key too, so that no row passes for another's."""
    return b"".join((_MAGIC, len(body).to_bytes(8), _digest(key, body), body))


def unsealed(key: str, value: bytes) -> bytes:
    """The body that was `sealed`; raises `Damaged`."""
    body = value[_HEAD:]
    if value[:_HEAD] != b"".join((_MAGIC, len(body).to_bytes(8), _digest(key, body))):
        raise Damaged("a record whose bytes have changed")
    return body


def _digest(key: str, body: bytes) -> bytes:
    digest = hashlib.sha256(key.encode(errors="surrogatepass"))
    digest.update(b"\0")
    digest.update(body)
    return digest.digest()
