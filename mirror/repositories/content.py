"""What is done alike with both kinds of content."""

from __future__ import annotations

import asyncio
import os

from mirror.model import Content, LocalFile


async def close(content: Content) -> None:
    """Lets go of content that nobody reads."""
    if isinstance(content, LocalFile):
        content.close()
    else:
        await content.aclose()


async def read(content: Content) -> bytes:
    """All bytes of a small part; closes it. Raises what its source does, `OSError` for a file."""
    try:
        if isinstance(content, LocalFile):
            return await asyncio.to_thread(_read, content)
        return b"".join([piece async for piece in content.body])
    finally:
        await close(content)


def _read(file: LocalFile) -> bytes:
    parts = []
    at = file.start
    while piece := os.pread(file.handle.fileno(), file.stop - at, at):
        parts.append(piece)
        at += len(piece)
    return b"".join(parts)
