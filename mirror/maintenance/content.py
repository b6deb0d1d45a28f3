"""Stored bodies, read in pieces that never hold up the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from mirror.errors import StoreFailure
from mirror.model import Content, LocalFile
from mirror.repositories.content import close

PIECE: Final = 1 << 20
"""Bytes handed on at a time."""


async def pour(key: str, content: Content, take: Callable[[bytes], None]) -> int:
    """Gives all bytes of `content` to `take`, piece by piece in threads; closes it and returns how many they were.

    Raises `StoreFailure` if they cannot be read to their end, and what `take` raises.
    """
    try:
        if isinstance(content, LocalFile):
            count = await asyncio.to_thread(_pour_file, key, content, take)
        else:
            count = 0
            gathered: list[bytes] = []
            async for piece in content.body:
                gathered.append(piece)
                count += len(piece)
                if sum(map(len, gathered)) >= PIECE:
                    await asyncio.to_thread(take, b"".join(gathered))
                    gathered.clear()
            if gathered:
                await asyncio.to_thread(take, b"".join(gathered))
    finally:
        await close(content)
    if count != content.stop - content.start:
        raise StoreFailure("read", key, f"it ended after {count} of {content.stop - content.start} bytes")
    return count


def _pour_file(key: str, file: LocalFile, take: Callable[[bytes], None]) -> int:
    at = file.start
    while True:
        try:
            piece = os.pread(file.handle.fileno(), min(PIECE, file.stop - at), at)
        except OSError as error:
            raise StoreFailure("read", key, error.strerror or type(error).__name__) from error
        if not piece:
            return at - file.start
        take(piece)
        at += len(piece)
