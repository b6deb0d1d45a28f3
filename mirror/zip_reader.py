"""Reads one member of a zip archive without I/O of its own, trusting no size that the archive states.

The format is read by hand, because `zipfile` builds a record per member before anyone can object and needs
a seekable file; and because a zip that two readers may understand differently has to be refused: what the
mirror serves as `.metadata` must be what every installer finds in the wheel. So nothing may precede, follow
or overlap what the end record describes, and both headers of a member must agree.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Generator
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from mirror.errors import UnreadableArchive

T = TypeVar("T")
Reads = Generator[tuple[int, int], bytes, T]
"""Yields the half-open byte range that it needs next, is sent its bytes, and returns a `T`."""

MAX_DIRECTORY: Final = 16 * 1024 * 1024
MAX_MEMBERS: Final = 100_000
"""The largest wheels known have about half as many."""

# APPNOTE.TXT 6.3.10: 4.3.7 local header, 4.3.12 directory header, 4.3.14 and 4.3.15 zip64, 4.3.16 end record.
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END: Final = struct.Struct("<4s4H2LH")
_TAIL: Final = _END64.size + _LOCATOR.size + _END.size + 0xFFFF
"""Bytes in which the end of every zip lies, however long its comment."""
_LOCAL_EXTRA: Final = 512
"""Bytes by which the first read of a member exceeds what the directory promises, for the local extra field."""
_NARROW: Final = 0xFFFFFFFF
_ENCRYPTED: Final = 0x0001 | 0x0040 | 0x2000
_SIZES_FOLLOW: Final = 0x0008
_STORED, _DEFLATED = 0, 8
_DEFLATE_GROWTH: Final = 64 * 1024
"""Bytes by which the deflated form of a few MiB may exceed the plain one."""


class Member(NamedTuple):
    """One entry of the central directory."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    is_link: bool


class ZipReader:
    """One archive of `size` bytes; every method raises `UnreadableArchive` for what cannot be trusted."""

    def __init__(self, filename: str, size: int) -> None:
        self._filename, self._size = filename, size
        self._tail = b""
        self._tail_start = size
        self._members_stop = 0

    def refuse(self, why: str) -> NoReturn:
        raise UnreadableArchive(self._filename, why)

    def members(self) -> Reads[list[Member]]:
        """All entries of the central directory, in its order."""
        if self._size < _END.size:
            self.refuse("it is no zip archive, or cut off")
        self._tail_start = max(0, self._size - _TAIL)
        self._tail = yield from self._read(self._tail_start, self._size)
        count, start, stop = self._directory_place()
        self._members_stop = start
        directory = yield from self._read(start, stop)
        members = []
        at = 0
        for _ in range(count):
            if len(directory) - at < _ENTRY.size or not directory.startswith(b"PK\1\2", at):
                self.refuse("its central directory is damaged")
            member, at = self._member(directory, at)
            members.append(member)
        if at != len(directory):
            self.refuse("its central directory is not as long as its members")
        return members

    def content(self, member: Member, limit: int) -> Reads[bytes]:
        """The unpacked bytes of `member`, at most `limit`, their checksum verified."""
        if member.is_link:
            self.refuse("its metadata is a symbolic link")
        if member.flags & _ENCRYPTED or member.method not in (_STORED, _DEFLATED):
            self.refuse("its metadata is encrypted, or compressed in a way that wheels do not use")
        if member.size > limit or member.packed > limit + _DEFLATE_GROWTH:
            self.refuse(f"its metadata is larger than {limit} bytes")
        start, headers = member.offset, _LOCAL.size + len(member.name)
        if start + headers + member.packed > self._members_stop:
            self.refuse("its metadata reaches into its central directory")
        piece_stop = min(self._members_stop, start + headers + _LOCAL_EXTRA + member.packed)
        piece = yield from self._read(start, piece_stop)
        data_start = self._check_local(piece, member)
        data_stop = data_start + member.packed
        if start + data_stop > self._members_stop:
            self.refuse("its metadata reaches into its central directory")
        if data_stop > len(piece):
            piece += yield from self._read(piece_stop, start + data_stop)
        return self._unpack(piece[data_start:data_stop], member)

    def _read(self, start: int, stop: int) -> Reads[bytes]:
        if self._tail and start >= self._tail_start:
            return self._tail[start - self._tail_start : stop - self._tail_start]
        data = yield start, stop
        if len(data) != stop - start:
            self.refuse("it does not have the size that it should have")
        return data

    def _directory_place(self) -> tuple[int, int, int]:
        """Number of entries, start and stop of the central directory."""
        tail = self._tail
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) - at < _END.size:
            self.refuse("it is no zip archive, or cut off")
        *numbers, comment = _END.unpack_from(tail, at)[1:]
        if at + _END.size + comment != len(tail):
            self.refuse("something follows its end record")
        end = self._tail_start + at
        locator, record = at - _LOCATOR.size, at - _LOCATOR.size - _END64.size
        if locator >= 0 and tail.startswith(b"PK\6\7", locator):
            end = self._tail_start + record
            _, _, stated, disks = _LOCATOR.unpack_from(tail, locator)
            if record < 0 or stated != end or disks > 1 or not tail.startswith(b"PK\6\6", record):
                self.refuse("its zip64 end record is not where it should be")
            wide = _END64.unpack_from(tail, record)[4:]
            limits = (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, _NARROW, _NARROW)
            if any(n not in (limit, w) for n, w, limit in zip(numbers, wide, limits, strict=True)):
                self.refuse("its two end records contradict each other")
            numbers = list(wide)
        disk, directory_disk, count_here, count, length, start = numbers
        if disk or directory_disk or count_here != count:
            self.refuse("it is split over several disks")
        if count > MAX_MEMBERS or length > MAX_DIRECTORY:
            self.refuse(f"it has more than {MAX_MEMBERS} members or {MAX_DIRECTORY} bytes of directory")
        if start + length != end:
            self.refuse("its central directory is not where its end record says")
        return count, start, end

    def _member(self, directory: bytes, at: int) -> tuple[Member, int]:
        """The entry at `at`, and where the next one begins."""
        fields: tuple[Any, ...] = _ENTRY.unpack_from(directory, at)
        flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
        name_stop = at + _ENTRY.size + fields[10]
        extra_stop = name_stop + fields[11]
        after = extra_stop + fields[12]
        if after > len(directory):
            self.refuse("its central directory is damaged")
        offset = fields[16]
        if _NARROW in (size, packed, offset):
            size, packed, offset = self._wide((size, packed, offset), directory[name_stop:extra_stop])
        name = directory[at + _ENTRY.size : name_stop]
        # zipfile ends a name at NUL, on Windows reads a backslash as a slash, and takes names from extra fields.
        if b"\0" in name or b"\\" in name or b".dist-info" in directory[name_stop:extra_stop]:
            self.refuse("a member of it has a name that not all readers understand alike")
        return Member(name, flags, method, crc, packed, size, offset, stat.S_ISLNK(fields[15] >> 16)), after

    def _wide(self, narrow: tuple[int, int, int], extra: bytes) -> tuple[int, int, int]:
        """Size, packed size and offset, each from the zip64 extra field where it does not fit (APPNOTE 4.5.3)."""
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<2H", extra, at)
            at += 4
            wanted = sum(n == _NARROW for n in narrow)
            if kind == 1 and 8 * wanted <= length <= len(extra) - at:
                wide = iter(struct.unpack_from(f"<{wanted}Q", extra, at))
                size, packed, offset = (next(wide) if n == _NARROW else n for n in narrow)
                return size, packed, offset
            at += length
        raise UnreadableArchive(self._filename, "its zip64 sizes are missing")

    def _check_local(self, piece: bytes, member: Member) -> int:
        """Where the data begin in `piece`; refuses a local header that contradicts the directory."""
        fields: tuple[Any, ...] = _LOCAL.unpack_from(piece)
        signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
        pairs = ((crc, member.crc), (packed, member.packed), (size, member.size))
        agree = bool(flags & _SIZES_FOLLOW) or all(local in (_NARROW, central) for local, central in pairs)
        same = (signature, flags, method) == (b"PK\3\4", member.flags, member.method)
        if not (same and agree and piece[_LOCAL.size : _LOCAL.size + name_length] == member.name):
            self.refuse("the two headers of its metadata contradict each other")
        return _LOCAL.size + int(name_length) + int(extra_length)

    def _unpack(self, data: bytes, member: Member) -> bytes:
        if member.method == _DEFLATED:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = inflater.decompress(data, member.size + 1)
            except zlib.error:
                self.refuse("its metadata does not decompress")
            if not inflater.eof or inflater.unused_data:
                self.refuse("its metadata does not decompress to the stated size")
        if len(data) != member.size:
            self.refuse("its metadata does not have the stated size")
        if zlib.crc32(data) != member.crc:
            self.refuse("its metadata has a wrong checksum")
        return data
