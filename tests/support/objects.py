"""Objects that prove by themselves to be whole, and short ways to look at a store."""

from __future__ import annotations

import hashlib
import os

from mirror.model import Content, LocalFile
from mirror.ports import Store


def version(number: int, size: int = 100_000) -> bytes:
    """A body of about `size` bytes that says which one it is, and that `is_whole` can judge."""
    payload = (b"%08d" % number) * (size // 8)
    return hashlib.sha256(payload).digest() + payload


def is_whole(body: bytes) -> bool:
    return len(body) > 32 and hashlib.sha256(body[32:]).digest() == body[:32]


def number_of(body: bytes) -> int:
    """The number of a whole version."""
    assert is_whole(body), f"{len(body)} bytes that are no whole version"
    return int(body[32:40])


async def body_of(content: Content | None) -> bytes:
    """The bytes of the part that `content` carries; closes it."""
    assert content is not None
    if isinstance(content, LocalFile):
        try:
            return os.pread(content.handle.fileno(), content.stop - content.start, content.start)
        finally:
            content.close()
    try:
        return b"".join([piece async for piece in content.body])
    finally:
        await content.aclose()


async def keys_of(store: Store, prefix: str = "") -> list[str]:
    return [found.key async for found in store.list(prefix)]
