"""Core metadata out of archives: what is read, what is refused, and within which bounds."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors import UnreadableArchive
from mirror.tar_reader import TarReader
from mirror.wheel import (
    MAX_METADATA,
    MAX_RANGE_BYTES,
    MAX_RANGES,
    metadata_from_file,
    metadata_from_ranges,
    metadata_from_sdist,
)
from mirror.zip_reader import MAX_DIRECTORY, MAX_MEMBERS
from tests.support.packages import core_metadata, sdist, wheel

NAME = "alpha-1.0-py3-none-any.whl"
INFO = "alpha-1.0.dist-info"
METADATA = core_metadata("alpha", "1.0", ["beta"])
GOOD = wheel("alpha", "1.0", requires=["beta"])
SDIST = sdist("alpha", "1.0", requires=["beta"])

Members = list[tuple[str | zipfile.ZipInfo, bytes]]


def _zip(members: Members, *, compression: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", compression) as archive:
        for name, body in members:
            archive.writestr(name, body)
        archive.comment = comment
    return output.getvalue()


def _link(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, 0o120777 << 16
    return member


def _renamed(name: str, other: str) -> zipfile.ZipInfo:
    """A member that has another name in the Unicode path field (APPNOTE 4.6.9), which newer readers prefer."""
    member = zipfile.ZipInfo(name)
    path = struct.pack("<BL", 1, zlib.crc32(name.encode())) + other.encode()
    member.extra = struct.pack("<2H", 0x7075, len(path)) + path
    return member


def _patched(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


class _Remote:
    """Bytes that are read by range, and what was read of them."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ranges: list[tuple[int, int]] = []

    async def fetch(self, start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(self.content)
        self.ranges.append((start, stop))
        return self.content[start:stop]

    @property
    def received(self) -> int:
        return sum(stop - start for start, stop in self.ranges)


async def _read_both(content: bytes, filename: str = NAME) -> bytes:
    """What both functions read out of a wheel, or the error that both raise."""
    remote = _Remote(content)
    try:
        local = metadata_from_file(io.BytesIO(content), filename)
    except UnreadableArchive as refused:
        with pytest.raises(UnreadableArchive):
            await metadata_from_ranges(filename, len(content), remote.fetch)
        assert len(remote.ranges) <= MAX_RANGES
        raise refused from None
    assert await metadata_from_ranges(filename, len(content), remote.fetch) == local
    assert len(remote.ranges) <= MAX_RANGES
    assert remote.received <= MAX_RANGE_BYTES
    return local


async def _refused(content: bytes, why: str, filename: str = NAME) -> None:
    with pytest.raises(UnreadableArchive, match=why) as caught:
        await _read_both(content, filename)
    assert caught.value.filename == filename


# --- wheels that are good -------------------------------------------------------------------------


async def test_a_wheel() -> None:
    assert await _read_both(GOOD.content, GOOD.filename) == GOOD.metadata


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("filename", "folder"),
    [
        ("Foo.Bar-1.0-py3-none-any.whl", "foo_bar-1.0"),
        ("foo_bar-1.0-py3-none-any.whl", "Foo.Bar-1.0"),
        ("foo_bar-1.0-1-py3-none-any.whl", "foo-bar-1.0"),
        ("torch-2.0+cpu-cp311-cp311-linux_x86_64.whl", "torch-2.0+cpu"),
        ("alpha-1.0.0-py3-none-any.whl", "alpha-1.0"),
    ],
)
async def test_the_folder_may_spell_its_release_otherwise(filename: str, folder: str, compression: int) -> None:
    assert await _read_both(_zip([(f"{folder}.dist-info/METADATA", METADATA)], compression=compression), filename) == (
        METADATA
    )


async def test_metadata_of_vendored_projects_do_not_matter() -> None:
    members: Members = [("alpha/_vendor/beta-2.0.dist-info/METADATA", b"other"), (f"{INFO}/METADATA", METADATA)]
    assert await _read_both(_zip(members)) == METADATA


async def test_a_large_wheel_takes_one_small_read_if_its_metadata_is_near_the_end() -> None:
    content = wheel("alpha", "1.0", blob=3_000_000, requires=["beta"]).content
    remote = _Remote(content)
    assert await metadata_from_ranges(NAME, len(content), remote.fetch) == METADATA
    assert len(remote.ranges) == 1
    assert remote.received < 70_000


async def test_metadata_at_the_start_and_a_directory_larger_than_the_first_read() -> None:
    padding = random.Random(1).randbytes(200_000)
    members: Members = [(f"{INFO}/METADATA", METADATA), ("alpha/blob", padding)]
    members += [(f"alpha/{i:060}", b"") for i in range(1500)]
    remote = _Remote(_zip(members))
    assert await metadata_from_ranges(NAME, len(remote.content), remote.fetch) == METADATA
    assert len(remote.ranges) == 3
    assert await _read_both(remote.content) == METADATA


async def test_a_local_extra_field_longer_than_expected_takes_one_more_read() -> None:
    member = zipfile.ZipInfo(f"{INFO}/METADATA")
    member.extra = struct.pack("<2H", 0xCAFE, 5000) + bytes(5000)
    remote = _Remote(_zip([(member, METADATA), ("alpha/blob", random.Random(1).randbytes(200_000))]))
    assert await metadata_from_ranges(NAME, len(remote.content), remote.fetch) == METADATA
    assert len(remote.ranges) == 3


async def test_a_comment_of_64_kib() -> None:
    content = _zip([(f"{INFO}/METADATA", METADATA)], comment=b"c" * 0xFFFF)
    assert await _read_both(content) == METADATA


async def test_sizes_that_follow_the_data() -> None:
    class Unseekable(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    output = Unseekable()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{INFO}/METADATA", METADATA)
    content = output.getvalue()
    assert struct.unpack_from("<H", content, 6)[0] & 8
    assert await _read_both(content) == METADATA


def _zip64(content: bytes) -> bytes:
    """The same archive with every number of its only member and of its end in zip64 form."""
    end = content.rindex(b"PK\5\6")
    count, length, start = struct.unpack_from("<HLL", content, end + 10)
    entry = bytearray(content[start:end])
    packed, size = struct.unpack_from("<LL", entry, 20)
    (offset,) = struct.unpack_from("<L", entry, 42)
    struct.pack_into("<LL", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<L", entry, 42, 0xFFFFFFFF)
    extra = struct.pack("<2H4s", 0xCAFE, 4, b"skip") + struct.pack("<2H3Q", 1, 24, size, packed, offset)
    struct.pack_into("<H", entry, 30, len(extra))
    directory = bytes(entry) + extra
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(directory), 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert length < len(directory)
    return content[:start] + directory + record + locator + last


async def test_zip64() -> None:
    content = _zip64(_zip([(f"{INFO}/METADATA", METADATA)]))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read(f"{INFO}/METADATA") == METADATA
    assert await _read_both(content) == METADATA


async def test_zip64_records_that_contradict_or_lack_something() -> None:
    content = _zip64(_zip([(f"{INFO}/METADATA", METADATA)]))
    last = content.rindex(b"PK\5\6")
    await _refused(_patched(content, last + 12, struct.pack("<L", 77)), "contradict each other")
    await _refused(_patched(content, last - 12, struct.pack("<Q", 3)), "not where it should be")
    await _refused(content.replace(struct.pack("<2H", 1, 24), struct.pack("<2H", 2, 24)), "zip64 sizes are missing")


# --- wheels that are not --------------------------------------------------------------------------


def test_trap_a_small_wheel_can_hold_200_mib_of_metadata() -> None:
    """zipfile would unpack it all; here no more memory is taken than the bound."""
    size = 200 * 1024 * 1024
    inflated = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = bytes(1024 * 1024)
    packed = b"".join([*(inflated.compress(piece) for _ in range(200)), inflated.flush()])
    crc = 0
    for _ in range(200):
        crc = zlib.crc32(piece, crc)
    content = _one_member(packed, size, crc)
    assert len(content) < 210_000
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.getinfo(f"{INFO}/METADATA").file_size == size
    liar = _one_member(packed, 1000, crc)
    tracemalloc.start()
    for bomb in (content, liar):
        with pytest.raises(UnreadableArchive):
            metadata_from_file(io.BytesIO(bomb), NAME)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * MAX_METADATA


def _one_member(packed: bytes, size: int, crc: int) -> bytes:
    name = f"{INFO}/METADATA".encode()
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(packed), size, len(name), 0) + name
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, len(packed), size, len(name), *[0] * 6)
    start = len(local) + len(packed)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry) + len(name), start, 0)
    return local + packed + entry + name + end


async def test_metadata_as_large_as_allowed_and_one_byte_larger() -> None:
    body = random.Random(1).randbytes(MAX_METADATA)
    assert await _read_both(_zip([(f"{INFO}/METADATA", body)], compression=zipfile.ZIP_STORED)) == body
    assert await _read_both(_zip([(f"{INFO}/METADATA", body)])) == body
    await _refused(_zip([(f"{INFO}/METADATA", body + b"!")]), "larger than")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([], "0 .dist-info folders and 0 METADATA"),
        ([("alpha/__init__.py", b"")], "0 .dist-info folders"),
        ([(f"{INFO}/WHEEL", b"")], "1 .dist-info folders and 0 METADATA"),
        ([(f"{INFO}/METADATA", METADATA), (f"{INFO}/METADATA", b"other")], "1 .dist-info folders and 2 METADATA"),
        ([(f"{INFO}/METADATA", METADATA), ("beta-1.0.dist-info/METADATA", b"other")], "2 .dist-info folders"),
        ([(f"{INFO}/METADATA", METADATA), ("alpha-1.1.dist-info/WHEEL", b"")], "2 .dist-info folders"),
        ([("beta-1.0.dist-info/METADATA", METADATA)], "another release"),
        ([("alpha-1.1.dist-info/METADATA", METADATA)], "another release"),
        ([("\u212alpha-1.0.dist-info/METADATA", METADATA)], "another release"),
        ([("alpha-" + "1" * 5000 + ".dist-info/METADATA", METADATA)], "another release"),
        ([(f"../{INFO}/METADATA", METADATA)], "0 .dist-info folders"),
        ([(f"/{INFO}/METADATA", METADATA)], "0 .dist-info folders"),
        ([(_link(f"{INFO}/METADATA"), b"/etc/passwd")], "symbolic link"),
        ([(f"{INFO}/METADATA", METADATA), (f"{INFO}\\METADATA", b"other")], "not all readers"),
        ([(f"{INFO}/METADATA", METADATA), (_renamed("x", f"{INFO}/METADATA"), b"other")], "not all readers"),
    ],
)
async def test_i2_members_that_are_not_those_of_the_wheel(members: Members, why: str) -> None:
    await _refused(_zip(members), why)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
async def test_i2_compression_that_wheels_do_not_use(compression: int) -> None:
    await _refused(_zip([(f"{INFO}/METADATA", METADATA)], compression=compression), "compressed in a way")


@pytest.mark.parametrize(
    "filename", ["alpha-1.0.tar.gz", "alpha.whl", "alpha-1.0-py3-none.whl", "x" * 300 + "-1-py3-none-any.whl", ""]
)
async def test_names_that_are_not_those_of_wheels(filename: str) -> None:
    await _refused(GOOD.content, "its name is not that of a wheel", filename)


PLAIN = _zip([(f"{INFO}/METADATA", METADATA)])
DIRECTORY = PLAIN.index(b"PK\1\2")
END = PLAIN.index(b"PK\5\6")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no zip archive"),
        (b"PK", "no zip archive"),
        (bytes(1_000_000), "no zip archive"),
        (PLAIN[:-1], "cut off"),
        (PLAIN[: len(PLAIN) // 2], "no zip archive"),
        (PLAIN[10:], "not where its end record says"),
        (b"#!/bin/sh\n" + PLAIN, "not where its end record says"),
        (PLAIN + b"\0", "something follows"),
        (PLAIN + PLAIN, "not where its end record says"),
        (_patched(PLAIN, END + 16, struct.pack("<L", 0xFFFFFFF0)), "not where its end record says"),
        (_patched(PLAIN, END + 12, struct.pack("<L", MAX_DIRECTORY + 1)), "bytes of directory"),
        (_patched(PLAIN, END + 4, struct.pack("<H", 1)), "several disks"),
        (_patched(PLAIN, END + 8, struct.pack("<2H", 2, 2)), "directory is damaged"),
        (_patched(PLAIN, END + 8, struct.pack("<2H", 0, 0)), "not as long as its members"),
        (_patched(PLAIN, DIRECTORY, b"XX"), "directory is damaged"),
        (_patched(PLAIN, DIRECTORY + 28, struct.pack("<H", 60_000)), "directory is damaged"),
        (_patched(PLAIN, DIRECTORY + 42, struct.pack("<L", 0x7FFFFFFF)), "reaches into"),
        (_patched(PLAIN, DIRECTORY + 42, struct.pack("<L", 1)), "reaches into"),
        (_patched(PLAIN, DIRECTORY + 8, struct.pack("<H", 1)), "encrypted"),
        (_patched(PLAIN, DIRECTORY + 16, b"\0\0\0\0"), "contradict"),
        (_patched(_patched(PLAIN, DIRECTORY + 16, b"\0\0\0\0"), 14, b"\0\0\0\0"), "wrong checksum"),
        (_patched(PLAIN, 0, b"XX"), "contradict"),
        (_patched(PLAIN, 30, b"b"), "contradict"),
        (_patched(PLAIN, DIRECTORY + 46 + 5, b"\0"), "not all readers"),
        (_patched(PLAIN, 28, struct.pack("<H", 60_000)), "reaches into"),
        (_patched(PLAIN, 30 + len(f"{INFO}/METADATA"), b"\xff\xff"), "does not decompress"),
    ],
)
async def test_i2_damaged_and_hostile_wheels(content: bytes, why: str) -> None:
    await _refused(content, why)


async def test_i2_more_members_than_any_wheel_has() -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 9, 1, *[0] * 6) + b"a"
    count = MAX_MEMBERS + 1
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(entry) * count, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(entry) * count, 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(entry) * count, 0, 0)
    await _refused(entry * count + record + locator + last, "more than 100000 members")


async def test_a_directory_too_large_for_partial_reads_is_read_from_a_file_all_the_same() -> None:
    name = f"{INFO}/METADATA".encode()
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, *[0] * 4, zlib.crc32(b"m"), 1, 1, len(name), 0) + name + b"m"
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 6, zlib.crc32(b"m"), 1, 1, len(name), *[0] * 6) + name
    padding = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 9, 60_000, *[0] * 6) + b"x" * 60_000
    directory = padding * 160 + entry
    content = local + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 161, 161, len(directory), len(local), 0)
    assert metadata_from_file(io.BytesIO(content), NAME) == b"m"
    remote = _Remote(content)
    with pytest.raises(UnreadableArchive, match="bounds on partial reads"):
        await metadata_from_ranges(NAME, len(content), remote.fetch)
    assert remote.received <= MAX_RANGE_BYTES


@pytest.mark.parametrize("answer", [b"", b"short", bytes(200_000)])
async def test_ranges_that_come_back_with_another_length(answer: bytes) -> None:
    async def fetch(start: int, stop: int) -> bytes:
        return answer

    with pytest.raises(UnreadableArchive, match="does not have the size"):
        await metadata_from_ranges(NAME, 100_000, fetch)


async def test_errors_of_fetch_are_the_callers() -> None:
    async def fetch(start: int, stop: int) -> bytes:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await metadata_from_ranges(NAME, 100_000, fetch)


# --- source archives ------------------------------------------------------------------------------

TarMembers = list[tuple[str | tarfile.TarInfo, bytes]]


def _tar(members: TarMembers, kind: int = tarfile.PAX_FORMAT) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=kind) as archive:
        for name, body in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return output.getvalue()


def _typed(name: str, kind: bytes, **fields: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def _sdist(content: bytes, filename: str = "alpha-1.0.tar.gz") -> bytes:
    return metadata_from_sdist(io.BytesIO(content), filename)


def test_a_source_archive() -> None:
    assert _sdist(SDIST.content, SDIST.filename) == SDIST.metadata


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    ("filename", "folder"),
    [
        ("alpha-1.0.tar.gz", "./alpha-1.0"),
        ("Foo.Bar-1.0.tar.gz", "foo_bar-1.0"),
        ("foo_bar-1.0.tar.gz", "Foo-Bar-1.0"),
        ("a" * 90 + "-1.0.tar.gz", "a" * 90 + "-1.0"),
    ],
)
def test_source_archives_of_every_format_and_spelling(kind: int, filename: str, folder: str) -> None:
    members: TarMembers = [
        (f"{folder}/src/PKG-INFO", b"other"),
        (f"{folder}/{'long' * 10}/{'name' * 20}", b"x" * 1000),
        (_typed(f"{folder}/latest", tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        (f"{folder}/PKG-INFO", METADATA),
        ("PKG-INFO", b"other"),
    ]
    assert _sdist(gzip.compress(_tar(members, kind)), filename) == METADATA


def test_a_member_larger_than_its_header_can_say() -> None:
    """Sizes in base 256 (GNU) and in a pax record are heeded."""
    plain = bytearray(_tar([("alpha-1.0/PKG-INFO", METADATA)], tarfile.GNU_FORMAT))
    plain[124:136] = b"\x80" + len(METADATA).to_bytes(11)
    plain[148:156] = b"%06o\0 " % (sum(plain[:148]) + 256 + sum(plain[156:512]))
    assert _sdist(gzip.compress(bytes(plain))) == METADATA
    member = _typed("alpha-1.0/PKG-INFO", tarfile.REGTYPE, pax_headers={"size": str(len(METADATA))})
    assert _sdist(gzip.compress(_tar([(member, METADATA)]))) == METADATA


GLOBAL = _typed("x", tarfile.XGLTYPE)
PKG_INFO = ("alpha-1.0/PKG-INFO", METADATA)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([], "0 PKG-INFO"),
        ([("alpha-1.0/setup.py", b"")], "0 PKG-INFO"),
        ([("beta-1.0/PKG-INFO", METADATA)], "0 PKG-INFO"),
        ([("alpha-1.1/PKG-INFO", METADATA)], "0 PKG-INFO"),
        ([("../alpha-1.0/PKG-INFO", METADATA)], "0 PKG-INFO"),
        ([("/alpha-1.0/PKG-INFO", METADATA)], "0 PKG-INFO"),
        ([PKG_INFO, PKG_INFO], "2 PKG-INFO"),
        ([PKG_INFO, ("Alpha-1.0/PKG-INFO", METADATA)], "2 PKG-INFO"),
        ([(_typed("alpha-1.0/PKG-INFO", tarfile.SYMTYPE, linkname="/etc/passwd"), b"")], "no ordinary file"),
        ([(_typed("alpha-1.0/PKG-INFO", tarfile.LNKTYPE, linkname="/etc/passwd"), b"")], "no ordinary file"),
        ([(_typed("alpha-1.0/PKG-INFO", tarfile.DIRTYPE), b"")], "no ordinary file"),
        ([(_typed("alpha-1.0/PKG-INFO", tarfile.FIFOTYPE), b"")], "no ordinary file"),
        ([PKG_INFO, ("alpha-1.0//PKG-INFO", b"other")], "2 PKG-INFO"),
        ([PKG_INFO, ("alpha-1.0/x/.././PKG-INFO", b"other")], "2 PKG-INFO"),
        ([("alpha-1.0/PKG-INFO", bytes(MAX_METADATA + 1))], "larger than"),
        ([(GLOBAL, b"21 path=alpha-1.0/x\n\n"), PKG_INFO], "extended header"),
        ([(GLOBAL, b"8 size=1"), PKG_INFO], "extended header"),
        ([(_typed("x", tarfile.XHDTYPE), b"999999 path=x\n"), PKG_INFO], "extended header"),
        ([(_typed("x", tarfile.XHDTYPE), b"11 size=-1\n"), PKG_INFO], "extended header"),
        ([(_typed("x", tarfile.XHDTYPE), b"25 GNU.sparse.realsize=5\n"), PKG_INFO], "sparse"),
        ([(_typed("x", tarfile.XHDTYPE), b"x" * 300_000), PKG_INFO], "too large"),
        ([(_typed("alpha-1.0/x", tarfile.GNUTYPE_SPARSE), b""), PKG_INFO], "sparse"),
    ],
)
def test_i2_source_archives_that_are_refused(members: TarMembers, why: str) -> None:
    with pytest.raises(UnreadableArchive, match=why):
        _sdist(gzip.compress(_tar(members, tarfile.USTAR_FORMAT)))


TAR = _tar([("alpha-1.0/PKG-INFO", METADATA), ("alpha-1.0/x", bytes(5000))])
TGZ = gzip.compress(TAR)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cut off"),
        (b"no gzip at all", "does not decompress"),
        (TAR, "does not decompress"),
        (TGZ[:-1], "cut off"),
        (TGZ[: len(TGZ) // 2], "cut off"),
        (_patched(TGZ, len(TGZ) - 8, b"\0\0\0\0"), "does not decompress"),
        (TGZ + b"\0", "something follows"),
        (TGZ + TGZ, "something follows"),
        (gzip.compress(TAR[:3000]), "last member is cut off"),
        (gzip.compress(TAR[:700]), "last member is cut off"),
        (gzip.compress(b""), "last member is cut off"),
        (gzip.compress(_patched(TAR, 0, b"X")), "wrong checksum"),
        (gzip.compress(_patched(TAR, 148, b"9")), "header in it is damaged"),
    ],
    ids=[
        "empty",
        "text",
        "not compressed",
        "last byte missing",
        "half",
        "another checksum",
        "a byte more",
        "twice",
        "inner end in a body",
        "inner end in a header",
        "nothing inside",
        "inner name changed",
        "inner checksum changed",
    ],
)
def test_i2_damaged_source_archives(content: bytes, why: str) -> None:
    with pytest.raises(UnreadableArchive, match=why):
        _sdist(content)


@pytest.mark.parametrize("filename", ["alpha-1.0.zip", "alpha.tar.gz", "alpha-1.0.tar", "x" * 300 + "-1.0.tar.gz", ""])
def test_names_that_are_not_those_of_source_archives(filename: str) -> None:
    with pytest.raises(UnreadableArchive, match="its name is not that of a source archive"):
        _sdist(TGZ, filename)


def test_a_source_archive_with_too_many_members_or_bytes() -> None:
    header = _tar([("alpha-1.0/x", b"")])[:512]
    with pytest.raises(UnreadableArchive, match="more than 100000 members"):
        _sdist(gzip.compress(header * (MAX_MEMBERS + 1), 1))
    with pytest.raises(UnreadableArchive, match="unpacks to more than 5000 bytes"):
        TarReader("alpha-1.0.tar.gz", io.BytesIO(TGZ), max_unpacked=5000).contents(lambda _: False, 10)


def test_a_source_archive_is_read_in_bounded_memory() -> None:
    content = gzip.compress(_tar([("alpha-1.0/zeros", bytes(64 * 1024 * 1024)), PKG_INFO]), 1)
    tracemalloc.start()
    assert _sdist(content) == METADATA
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 1024 * 1024


def test_what_is_wanted_is_asked_of_every_member_once() -> None:
    asked: list[bytes] = []

    def wanted(path: bytes) -> bool:
        asked.append(path)
        return False

    assert TarReader("alpha-1.0.tar.gz", io.BytesIO(TGZ)).contents(wanted, 10) == []
    assert asked == [b"alpha-1.0/PKG-INFO", b"alpha-1.0/x"]


# --- whatever the bytes ---------------------------------------------------------------------------

MUTATIONS = st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["set", "cut", "grow"]), st.binary(max_size=8)))


def _mutated(content: bytes, mutations: list[tuple[int, str, bytes]]) -> bytes:
    for place, kind, data in mutations:
        at = place % (len(content) + 1)
        match kind:
            case "set":
                content = content[:at] + data + content[at + len(data) :]
            case "cut":
                content = content[:at] + content[at + len(data) :]
            case _:
                content = content[:at] + data + content[at:]
    return content


def _outcome(read: Callable[[], bytes]) -> bytes | None:
    try:
        return read()
    except UnreadableArchive:
        return None


@settings(max_examples=300, deadline=None)
@given(MUTATIONS, st.sampled_from([PLAIN, GOOD.content, _zip64(PLAIN)]))
def test_mutated_wheels_are_read_right_or_refused(mutations: list[tuple[int, str, bytes]], content: bytes) -> None:
    mutated = _mutated(content, mutations)
    if (found := _outcome(lambda: metadata_from_file(io.BytesIO(mutated), NAME))) is not None:
        try:
            archive = zipfile.ZipFile(io.BytesIO(mutated))
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
            return  # another member is such that no installer can open this wheel at all
        with archive:
            (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
            assert archive.read(name) == found


@settings(max_examples=300, deadline=None)
@given(MUTATIONS)
def test_mutated_source_archives_are_read_right_or_refused(mutations: list[tuple[int, str, bytes]]) -> None:
    assert _outcome(lambda: _sdist(_mutated(TGZ, mutations))) in (None, METADATA)
    plain = _mutated(TAR, mutations)
    if (found := _outcome(lambda: _sdist(gzip.compress(plain, 1)))) is not None:
        with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
            handle = archive.extractfile("alpha-1.0/PKG-INFO")
            assert handle is not None
            assert handle.read() == found


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_refused(content: bytes) -> None:
    assert _outcome(lambda: metadata_from_file(io.BytesIO(content), NAME)) is None
    assert _outcome(lambda: _sdist(content)) is None
    assert _outcome(lambda: _sdist(gzip.compress(content))) is None
