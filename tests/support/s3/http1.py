"""HTTP/1.1 messages as they pass by: heads that are kept as they are, and bodies in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

MAX_HEAD: Final = 64 * 1024
_PIECE: Final = 64 * 1024


@dataclass(frozen=True)
class Head:
    """Start line and header fields, in their order and spelling."""

    start: str
    fields: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        """The first field of that name; names are compared without regard to case."""
        return next((value for known, value in self.fields if known.lower() == name), None)

    def without(self, names: Iterable[str]) -> Head:
        """The same without the fields of these lower-case names."""
        unwanted = set(names)
        return Head(self.start, tuple(field for field in self.fields if field[0].lower() not in unwanted))

    def adding(self, *fields: tuple[str, str]) -> Head:
        """The same with more fields, which replace those of the same name."""
        return Head(self.start, self.without(name.lower() for name, _ in fields).fields + fields)

    def sized(self, length: int) -> Head:
        """The same for a body of so many bytes."""
        return self.without(["transfer-encoding"]).adding(("Content-Length", str(length)))

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.start.split(" ")[1])

    @property
    def chunked(self) -> bool:
        return (self.get("transfer-encoding") or "").lower() == "chunked"

    def encode(self) -> bytes:
        lines = [self.start, *(f"{name}: {value}" for name, value in self.fields)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def read_head(reader: asyncio.StreamReader) -> Head:
    """The next head. Raises `IncompleteReadError` where the connection ends instead."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n")
    start, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Head(start, tuple((name, value.strip()) for name, _, value in pairs))


async def pieces(reader: asyncio.StreamReader, head: Head, *, until_closed: bool) -> AsyncIterator[bytes]:
    """The body that follows `head`, without its framing; if nothing says how long it is, all or nothing.

    Raises `IncompleteReadError` where the connection ends too early.
    """
    length = head.get("content-length")
    if head.chunked:
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            async for piece in _exactly(reader, size):
                yield piece
            await reader.readexactly(2)
        while (await reader.readuntil(b"\r\n")) != b"\r\n":
            pass  # fields of the trailer
    elif length is not None:
        async for piece in _exactly(reader, int(length)):
            yield piece
    elif until_closed:
        while piece := await reader.read(_PIECE):
            yield piece


def framed(piece: bytes, head: Head) -> bytes:
    """A piece as it is sent below `head`."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if head.chunked else piece


def end_of(head: Head) -> bytes:
    """What is sent after the last piece."""
    return b"0\r\n\r\n" if head.chunked else b""


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size:
        if not (piece := await reader.read(min(size, _PIECE))):
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(piece)
        yield piece
