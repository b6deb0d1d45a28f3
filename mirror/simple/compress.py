"""Compress answers, and decode upstream's bodies within a bound."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol, cast

from isal import igzip_lib, isal_zlib

from mirror.simple.negotiate import Coding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_GZIP_LEVEL = 1
_ZSTD_LEVEL = 3
_GZIP_WINDOW = 31
"""zlib's way to ask for a gzip header; isal writes it without a time, so equal bodies give equal bytes."""
_PIECE = 256 * 1024
_MAX_WINDOW = 23
"""log2 of the largest zstd window that a content coding may use (RFC 9659): 8 MiB."""
_DAMAGED: tuple[type[Exception], ...] = (cast("type[Exception]", igzip_lib.error), zstd.ZstdError)


class BadCoding(ValueError):
    """A body that cannot be decoded: coding unknown or doubled, damaged, cut short, or larger than allowed."""


class Compressor(Protocol):
    """An incremental compressor; the pieces that it gives, joined, are the compressed body."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Identity:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compress(body: bytes, coding: Coding) -> bytes:
    """`body` in `coding`; equal bodies give equal bytes. Call it in a thread for anything large."""
    match coding:
        case Coding.IDENTITY:
            return body
        case Coding.GZIP:
            return isal_zlib.compress(body, _GZIP_LEVEL, _GZIP_WINDOW)
        case Coding.ZSTD:
            return zstd.compress(body, _ZSTD_LEVEL)


def new_compressor(coding: Coding) -> Compressor:
    """A compressor for a body that is made piece by piece."""
    match coding:
        case Coding.IDENTITY:
            return _Identity()
        case Coding.GZIP:
            return cast("Compressor", isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW))
        case Coding.ZSTD:
            return zstd.ZstdCompressor(_ZSTD_LEVEL)


class _Member(Protocol):
    """One compressed stream: what igzip and zstd decompressors have in common."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes: ...


class BoundedDecoder:
    """Decodes a body of at most `limit` bytes that comes in pieces.

    `content_encoding` is the header as it came. Only identity, gzip, deflate and zstd are understood, and one
    coding at a time. Raises `BadCoding`, from every method.
    """

    def __init__(self, content_encoding: str | None, limit: int) -> None:
        codings = [c for part in (content_encoding or "").split(",") if (c := part.strip().lower()) != "identity" and c]
        if len(codings) > 1:
            raise BadCoding("more than one content coding")
        self._coding = codings[0].removeprefix("x-") if codings else "identity"
        if self._coding not in ("identity", "gzip", "deflate", "zstd"):
            raise BadCoding("a content coding that is not known here")
        self._limit = limit
        self._left = limit
        self._member: _Member | None = None
        self._head = b""
        self._begun = False

    def decode(self, piece: bytes) -> Iterator[bytes]:
        """What `piece` decodes to, in pieces of at most 256 KiB; to be read to its end."""
        if self._coding == "identity":
            if piece:
                yield self._counted(piece)
            return
        data = piece
        while True:
            if self._member is None:
                data = self._head + data
                if self._begun:
                    data = data.lstrip(b"\0")  # padding after a member, as tapes and some proxies leave it
                if len(data) < 2:  # too little to tell one kind of stream from another
                    self._head = data
                    return
                self._head = b""
                self._member = _open_member(self._coding, data)
                self._begun = True
            # One byte more than is allowed is enough to know.
            try:
                out = self._member.decompress(data, max_length=min(_PIECE, self._left + 1))
            except _DAMAGED as error:
                raise BadCoding(f"damaged {self._coding} data") from error
            data = b""
            if out:
                yield self._counted(out)
            if self._member.eof:
                data = self._member.unused_data
                self._member = None
                if not data:
                    return
            elif self._member.needs_input or not out:
                return

    def close(self) -> None:
        """The body is at its end."""
        if self._coding != "identity" and (self._member is not None or self._head.strip(b"\0")):
            raise BadCoding(f"{self._coding} data that is cut short or followed by something else")

    def _counted(self, piece: bytes) -> bytes:
        if len(piece) > self._left:
            raise BadCoding(f"more than {self._limit} bytes when decoded")
        self._left -= len(piece)
        return piece


def decode_body(body: bytes, content_encoding: str | None, limit: int) -> bytes:
    """The whole of `body`, decoded; at most `limit` bytes and a piece are ever held. Raises `BadCoding`."""
    decoder = BoundedDecoder(content_encoding, limit)
    decoded = b"".join(decoder.decode(body))
    decoder.close()
    return decoded


def _open_member(coding: str, head: bytes) -> _Member:
    if coding == "gzip":
        return cast("_Member", igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))
    if coding == "deflate":
        # The standard means zlib's wrapping; some servers send the naked stream (RFC 9110 §8.4.1.2).
        wrapped = head[0] & 0x0F == 8 and (head[0] * 256 + head[1]) % 31 == 0
        flag = igzip_lib.DECOMP_ZLIB if wrapped else igzip_lib.DECOMP_DEFLATE
        return cast("_Member", igzip_lib.IgzipDecompressor(flag=flag))
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW}
    return cast("_Member", zstd.ZstdDecompressor(options=options))
