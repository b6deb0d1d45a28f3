"""Reads members of a `.tar.gz` in one forward pass, trusting no size that the archive states.

The format is read by hand, because `tarfile` reads extended headers of any length into memory, keeps a
record of every member, and does not end on some damaged archives (CVE-2025-8194).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, NoReturn

from mirror.errors import UnreadableArchive

MAX_UNPACKED: Final = 1024 * 1024 * 1024
MAX_MEMBERS: Final = 100_000
_MAX_EXTENDED: Final = 256 * 1024
_BLOCK: Final = 512
_FILES: Final = b"0\x007"
_WITHOUT_DATA: Final = b"123456"
"""Links, devices and folders: no data follow, whatever their header says; `tarfile` reads them so too."""


class TarReader:
    """One archive, of at most `max_unpacked` bytes; raises `UnreadableArchive` for what cannot be trusted. Blocking."""

    def __init__(self, filename: str, handle: BinaryIO, max_unpacked: int = MAX_UNPACKED) -> None:
        self._filename, self._max_unpacked = filename, max_unpacked
        self._pieces = self._inflated(handle)
        self._piece = memoryview(b"")

    def refuse(self, why: str) -> NoReturn:
        raise UnreadableArchive(self._filename, why)

    def contents(self, wanted: Callable[[bytes], bool], limit: int) -> list[bytes]:
        """The bytes of every member whose path is `wanted`, each at most `limit`; reads to the end."""
        found = []
        overrides: dict[bytes, bytes] = {}
        for _ in range(MAX_MEMBERS):
            header = self._read(_BLOCK)
            if not header.strip(b"\0"):
                break
            kind, size = self._check_header(header)
            if kind in b"xgLK":
                if size > _MAX_EXTENDED:
                    self.refuse("an extended header in it is too large")
                overrides |= self._extended(kind, self._read(size))
                self._skip(-size % _BLOCK)
                continue
            path = overrides.get(b"path") or _path(header)
            size = int(overrides.get(b"size", size))
            overrides = {}
            if kind in _WITHOUT_DATA or (kind == b"\0" and path.endswith(b"/")):
                kind, size = b"5", 0
            if wanted(path):
                if kind not in _FILES or size > limit:
                    self.refuse(f"its metadata is no ordinary file, or larger than {limit} bytes")
                found.append(self._read(size))
            else:
                self._skip(size)
            self._skip(-size % _BLOCK)
        else:
            self.refuse(f"it has more than {MAX_MEMBERS} members")
        for _ in self._pieces:  # the checksum of the stream is at its end
            pass
        return found

    def _check_header(self, header: bytes) -> tuple[bytes, int]:
        """Type and size of the member that a header block begins."""
        if self._number(header[148:156]) != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
            self.refuse("a header in it has a wrong checksum")
        kind = header[156:157]
        if kind == b"S":
            self.refuse("it has sparse members")
        return kind, self._number(header[124:136])

    def _number(self, field: bytes) -> int:
        """A number of a tar header: octal text, or base 256 if the first byte says so (GNU)."""
        if field[0] == 0x80:
            return int.from_bytes(field[1:])
        text = field.strip(b" \0")
        if not re.fullmatch(rb"[0-7]*", text):
            self.refuse("a header in it is damaged")
        return int(text or b"0", 8)

    def _extended(self, kind: bytes, data: bytes) -> dict[bytes, bytes]:
        """What an extended header says of the path and size of the next member (pax `x`, `g`; GNU `L`, `K`)."""
        if kind in b"LK":
            return {b"path": data.partition(b"\0")[0]} if kind == b"L" else {}
        records: dict[bytes, bytes] = {}
        while data:
            length, space, _ = data[:8].partition(b" ")
            if not space or not length.isdigit() or not len(length) + 2 < int(length) <= len(data):
                self.refuse("an extended header in it is damaged")
            record, data = data[len(length) + 1 : int(length)], data[int(length) :]
            key, equals, value = record.removesuffix(b"\n").partition(b"=")
            if not equals or not record.endswith(b"\n"):
                self.refuse("an extended header in it is damaged")
            if key.startswith(b"GNU.sparse"):
                self.refuse("it has sparse members")
            if key in (b"path", b"size"):
                records[key] = value
        if not re.fullmatch(rb"[0-9]{1,19}", records.get(b"size", b"0")) or (records and kind == b"g"):
            self.refuse("an extended header in it is damaged")
        return records

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            parts.append(self._next(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._next(size))

    def _next(self, size: int) -> memoryview:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
            if not self._piece:
                self.refuse("its last member is cut off")
        part, self._piece = self._piece[:size], self._piece[size:]
        return part

    def _inflated(self, handle: BinaryIO) -> Iterator[bytes]:
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        total = 0
        while not inflater.eof:
            packed = inflater.unconsumed_tail or handle.read(64 * 1024)
            try:
                # Nothing may be left to read while output still waits inside the inflater.
                piece = inflater.decompress(packed, 256 * 1024)
            except zlib.error:
                self.refuse("it does not decompress")
            if not packed and not piece and not inflater.eof:
                self.refuse("it is cut off")
            total += len(piece)
            if total > self._max_unpacked:
                self.refuse(f"it unpacks to more than {self._max_unpacked} bytes")
            if piece:
                yield piece
        if inflater.unused_data or handle.read(1):
            self.refuse("something follows its gzip stream")


def _path(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name
