"""A project page as it lies in the store: one line of JSON with the facts, then upstream's body, compressed."""

from __future__ import annotations

import hashlib
import zlib

import msgspec
from isal import isal_zlib

from mirror.errors import MirrorError
from mirror.model import Learned, PageDocument, Validator

MAX_BODY = 256 * 1024 * 1024
"""Decoded bytes that a stored page may have; far above what is ever put there."""


class DamagedDocument(MirrorError):
    """A stored page that cannot be read back; `why` says what is wrong with it."""


class _Header(msgspec.Struct, frozen=True, omit_defaults=True):
    content_type: str
    url: str
    fetched_at: float
    sha256: str
    encoding: str
    etag: str | None = None
    last_modified: str | None = None
    serial: int | None = None
    max_age: int | None = None
    learned: dict[str, Learned] = {}
    withdrawn: dict[str, dict[str, str]] = {}
    line_sha256: str = ""
    """Of this line with nothing in this place: the line holds digests that the mirror stands by."""


_decoder = msgspec.json.Decoder(_Header)


def pack(document: PageDocument) -> bytes:
    """`document` as one blob. Takes milliseconds for a large page: call it in a thread."""
    header = _Header(
        content_type=document.content_type,
        url=document.url,
        fetched_at=document.fetched_at,
        sha256=hashlib.sha256(document.body).hexdigest(),
        encoding="gzip",
        etag=document.validator.etag,
        last_modified=document.validator.last_modified,
        serial=document.serial,
        max_age=document.max_age,
        learned=document.learned,
        withdrawn=document.withdrawn,
    )
    header = msgspec.structs.replace(header, line_sha256=_line_sha256(header))
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    return msgspec.json.encode(header) + b"\n" + packer.compress(document.body) + packer.flush()


def unpack(blob: bytes) -> PageDocument:
    """The inverse of `pack`. Raises `DamagedDocument`, also when a single bit has flipped."""
    line, newline, packed = blob.partition(b"\n")
    if not newline:
        raise DamagedDocument("The stored page has no header line.")
    try:
        header = _decoder.decode(line)
        if header.encoding != "gzip":
            raise DamagedDocument(f"The stored page has the unknown encoding {header.encoding!r}.")
        unpacker = zlib.decompressobj(31)
        body = unpacker.decompress(packed, MAX_BODY)
    except (msgspec.DecodeError, UnicodeDecodeError, zlib.error) as e:
        raise DamagedDocument(f"The stored page cannot be read: {e}.") from e
    whole = unpacker.eof and not unpacker.unused_data
    if not whole or hashlib.sha256(body).hexdigest() != header.sha256 or _line_sha256(header) != header.line_sha256:
        raise DamagedDocument("The stored page is not what was stored.")
    return PageDocument(
        body=body,
        content_type=header.content_type,
        url=header.url,
        fetched_at=header.fetched_at,
        validator=Validator(header.etag, header.last_modified),
        serial=header.serial,
        max_age=header.max_age,
        learned=header.learned,
        withdrawn=header.withdrawn,
    )


def _line_sha256(header: _Header) -> str:
    line = msgspec.json.encode(msgspec.structs.replace(header, line_sha256=""))
    return hashlib.sha256(line).hexdigest()
