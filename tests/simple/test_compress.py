from __future__ import annotations

import contextlib
import gzip
import os
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.simple.compress import BadCoding, BoundedDecoder, compress, decode_body, new_compressor
from mirror.simple.negotiate import Coding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BODY = b'{"filename":"click-8.1.7-py3-none-any.whl"},' * 5000
MIB = 1024 * 1024


def raw_deflate(body: bytes) -> bytes:
    squeezer = zlib.compressobj(wbits=-15)
    return squeezer.compress(body) + squeezer.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    " DEFLATE ": raw_deflate,
    "zstd": zstd.compress,
    "identity": bytes,
    "": bytes,
}


@pytest.mark.parametrize("coding", list(Coding))
def test_compressed_bytes_are_the_same_each_time_and_decode(coding: Coding) -> None:
    first = compress(BODY, coding)
    assert first == compress(BODY, coding)
    assert decode_body(first, coding.value, len(BODY)) == BODY
    assert len(first) < len(BODY) / 10 or coding is Coding.IDENTITY


def test_gzip_header_holds_no_time() -> None:
    assert compress(BODY, Coding.GZIP)[:8] == bytes.fromhex("1f8b080000000000")
    assert gzip.decompress(compress(BODY, Coding.GZIP)) == BODY


@pytest.mark.parametrize("coding", list(Coding))
def test_incremental(coding: Coding) -> None:
    squeezer = new_compressor(coding)
    pieces = [squeezer.compress(BODY[at : at + 1000]) for at in range(0, len(BODY), 1000)]
    assert decode_body(b"".join(pieces) + squeezer.flush(), coding.value, len(BODY)) == BODY


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("step", [1, 2, 7, 100_000])
def test_decoding_in_pieces(coding: str, step: int) -> None:
    for body in (BODY[:20_000], b"", b"x"):
        encoded = ENCODERS[coding](body)
        decoder = BoundedDecoder(coding, len(body))
        decoded = b"".join(b"".join(decoder.decode(encoded[at : at + step])) for at in range(0, len(encoded), step))
        decoder.close()
        assert decoded == body


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_several_members_and_padding(coding: str) -> None:
    encode = ENCODERS[coding]
    assert decode_body(encode(b"one") + encode(b"two") + bytes(9), coding, 6) == b"onetwo"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "identity"])
def test_u23_the_limit_is_exact(coding: str) -> None:
    encoded = ENCODERS[coding](BODY)
    assert decode_body(encoded, coding, len(BODY)) == BODY
    with pytest.raises(BadCoding, match="more than"):
        decode_body(encoded, coding, len(BODY) - 1)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_u23_a_bomb_costs_no_more_than_the_limit(coding: str) -> None:
    bomb = ENCODERS[coding](bytes(64 * MIB))
    tracemalloc.start()
    try:
        with pytest.raises(BadCoding):
            decode_body(bomb, coding, 4 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * MIB


def test_u23_bomb_in_a_bomb_of_members() -> None:
    with pytest.raises(BadCoding, match="more than"):
        decode_body(gzip.compress(bytes(MIB)) * 8, "gzip", 5 * MIB)


@pytest.mark.parametrize("coding", ["gzip, gzip", "gzip, zstd", "br", "compress", "gzip,identity,deflate", "*"])
def test_u23_double_and_unknown_codings(coding: str) -> None:
    with pytest.raises(BadCoding):
        BoundedDecoder(coding, 10)


def test_identity_beside_a_coding_is_nothing() -> None:
    assert decode_body(gzip.compress(b"x"), "identity, gzip", 9) == b"x"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_damaged_cut_short_or_continued(coding: str) -> None:
    noise = os.urandom(4000)
    whole = ENCODERS[coding](noise)
    for bad in (
        whole[:-1],
        whole[:100],
        whole[:1],
        b"\x07" + whole[1:],
        whole + b"tail",
        b"plain text, no coding at all",
    ):
        with pytest.raises(BadCoding):
            decode_body(bad, coding, 10_000)


def test_wrong_checksum() -> None:
    whole = bytearray(gzip.compress(b"some text"))
    whole[-6] ^= 1
    with pytest.raises(BadCoding):
        decode_body(bytes(whole), "gzip", 100)


def test_a_zstd_window_beyond_what_the_web_allows_is_refused() -> None:
    wide = zstd.compress(os.urandom(1000), options={zstd.CompressionParameter.window_log: 27})
    squeezer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    streamed = squeezer.compress(b"x" * 1000) + squeezer.flush()
    assert len(decode_body(wide, "zstd", 1000)) == 1000  # one segment: the window is the content
    with pytest.raises(BadCoding):
        decode_body(streamed, "zstd", 1000)


@given(st.binary(), st.sampled_from(["gzip", "deflate", "zstd"]))
def test_noise_never_escapes_the_bound(noise: bytes, coding: str) -> None:
    for body in (noise, ENCODERS[coding](b"x" * 100)[:10] + noise):
        with contextlib.suppress(BadCoding):
            assert len(decode_body(body, coding, 1000)) <= 1000
