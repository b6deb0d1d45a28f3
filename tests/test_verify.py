"""Bytes against promises: which digest counts, and what is held back until it holds."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import IntegrityError
from mirror.model import File
from mirror.verify import HOLD_BACK, Check, held_back

BODY = b"0123456789" * 20_000
SIZE = len(BODY)


def file(**hashes: str) -> File:
    return File("p-1.tar.gz", "https://index.example.com/p-1.tar.gz", "packages/p-1.tar.gz", hashes, SIZE)


def right(body: bytes = BODY) -> File:
    return file(sha256=hashlib.sha256(body).hexdigest())


async def pieces(body: bytes, size: int = 7000) -> AsyncGenerator[bytes, None]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


@pytest.mark.parametrize("algorithm", ["sha512", "sha384", "sha256", "sha3_256", "blake2b", "md5", "sha1"])
def test_any_digest_is_checked(algorithm: str) -> None:
    good = Check(file(**{algorithm: hashlib.new(algorithm, b"abc").hexdigest()}), "test")
    good.update(b"a")
    twin = good.copy()
    good.update(memoryview(b"bc"))
    good.finish(3)
    twin.update(b"xx")
    with pytest.raises(IntegrityError):
        twin.finish(3)


def test_a_strong_digest_counts_and_a_weak_one_beside_it_does_not() -> None:
    check = Check(file(md5="0" * 32, sha256=hashlib.sha256(b"abc").hexdigest()), "test")
    check.update(b"abc")
    check.finish(None)


@pytest.mark.parametrize("hashes", [{}, {"crc99": "00"}, {"shake_128": "00"}])
def test_without_a_usable_digest_the_length_counts(hashes: dict[str, str]) -> None:
    check = Check(file(**hashes), "test")
    assert not check.proves
    check.update(b"abc")
    check.finish(3)
    with pytest.raises(IntegrityError):
        check.finish(4)


@given(start=st.integers(0, SIZE - 1), length=st.integers(1, SIZE), piece=st.integers(1000, 90_000))
async def test_any_part_comes_whole(start: int, length: int, piece: int) -> None:
    stop = min(start + length, SIZE)
    body = held_back(pieces(BODY, piece), Check(right(), "test"), SIZE, start, stop)
    assert b"".join([p async for p in body]) == BODY[start:stop]


@given(seen=st.integers(0, SIZE), before=st.integers(0, SIZE), piece=st.integers(1000, 90_000))
async def test_a_check_goes_on_where_it_stands(seen: int, before: int, piece: int) -> None:
    before = min(seen, before)
    check = Check(right(), "test")
    check.update(BODY[:seen])
    body = held_back(pieces(BODY[seen:], piece), check, SIZE, seen - before, SIZE, before=BODY[seen - before : seen])
    assert b"".join([p async for p in body]) == BODY[seen - before :]


@pytest.mark.parametrize("size", [SIZE, None])
@pytest.mark.parametrize(
    "body", [BODY[:-1] + b"x", BODY[:-1], BODY + b"x", b""], ids=["wrong", "short", "long", "none"]
)
async def test_the_end_never_comes_out_unproved(body: bytes, size: int | None) -> None:
    received = b""
    failure = None
    try:
        async for piece in held_back(pieces(body), Check(right(), "test"), size, 0, SIZE):
            received += piece
    except IntegrityError as e:
        failure = e
    assert failure is not None
    assert len(received) <= max(0, len(body) - HOLD_BACK)
    assert BODY.startswith(received)


@given(
    start=st.integers(0, SIZE - 1),
    length=st.integers(1, SIZE),
    piece=st.integers(1000, 100_000),
    seen=st.integers(0, SIZE),
)
async def test_a_part_that_is_to_be_proven_is_whole_only_if_the_file_is_right(
    start: int, length: int, piece: int, seen: int
) -> None:
    stop = min(SIZE, start + length)
    seen = min(seen, start)
    for body in (BODY, BODY[:-1] + b"x"):
        check = Check(right(), "test")
        check.update(body[:seen])
        got = b""
        failed = False
        try:
            async for each in held_back(pieces(body[seen:], piece), check, SIZE, start, stop, proven=True):
                got += each
        except IntegrityError:
            failed = True
        assert failed == (body != BODY)
        assert got == BODY[start:stop] if not failed else len(got) < stop - start
