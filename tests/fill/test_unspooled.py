"""Downloads whose spool cannot be made or fills up: every reader goes on by itself, verified all the same."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.errors import IntegrityError, UpstreamDown
from mirror.model import WHOLE, Span
from mirror.spool import DiskSpools, MemorySpools
from mirror.verify import HOLD_BACK
from tests.fill.downloads import (
    LARGE,
    SMALL,
    Downloads,
    ScriptedUpstream,
    ShortSpools,
    content,
    disk,
    file_of,
    got,
    memory,
)
from tests.support.descriptors import open_files

SPANS = [WHOLE, Span(0, 0), Span(100_000, 499_999), Span(suffix=10), Span(LARGE - 70_000), Span(600_000, 700_000)]


@pytest.fixture
def upstream() -> ScriptedUpstream:
    return ScriptedUpstream()


@pytest.fixture
async def spools(tmp_path: Path) -> AsyncIterator[ShortSpools]:
    before = open_files()
    async with disk(tmp_path / "spool") as inner:
        yield ShortSpools(inner, -1)
    assert open_files() == before


@pytest.fixture
async def downloads(upstream: ScriptedUpstream, spools: ShortSpools) -> AsyncIterator[Downloads]:
    downloads = Downloads(upstream, spools)
    yield downloads
    await downloads.ended()
    downloads.fills.close()
    assert downloads.counters["background_failures"] == 0


@pytest.mark.parametrize("room", [-1, 0, 20_000, 500_000, LARGE - 1])
async def test_l1_every_reader_gets_right_bytes(
    downloads: Downloads, upstream: ScriptedUpstream, spools: ShortSpools, room: int
) -> None:
    spools.room = room
    body = content(LARGE)
    file = file_of(upstream, body)
    parts = await asyncio.gather(*(downloads.whole(file, span) for span in SPANS))
    for span, part in zip(SPANS, parts, strict=True):
        start, stop = span.resolve(LARGE)
        assert part == body[start:stop]
    await downloads.ended()
    assert downloads.counters["fills_unspooled"] == 1
    assert downloads.stored == {}
    spools.room = LARGE
    assert await downloads.whole(file) == body, "it recovers by itself"
    await downloads.ended()
    assert downloads.stored == {file.filename: body}


@pytest.mark.parametrize("has_ranges", [True, False])
async def test_l1_an_upstream_without_ranges(
    downloads: Downloads, upstream: ScriptedUpstream, spools: ShortSpools, has_ranges: bool
) -> None:
    spools.room = 500_000
    upstream.has_ranges = has_ranges
    body = content(LARGE)
    assert await downloads.whole(file_of(upstream, body)) == body


@pytest.mark.parametrize("room", [-1, 20_000, 500_000, LARGE - 1])
async def test_u12_wrong_bytes_are_found_without_a_spool_too(
    downloads: Downloads, upstream: ScriptedUpstream, spools: ShortSpools, room: int
) -> None:
    spools.room = room
    body = content(LARGE)
    file = file_of(upstream, body)
    upstream.files[file.url] = body[:-1] + bytes([body[-1] ^ 1])
    readers = [downloads.join(file)[1] for _ in range(3)]
    await asyncio.gather(*(r.begin(WHOLE) for r in readers))
    for received, failure in await asyncio.gather(*(got(r) for r in readers)):
        assert isinstance(failure, IntegrityError)
        assert len(received) <= LARGE - HOLD_BACK
    assert downloads.counters["integrity_failures"] == 3


@pytest.mark.parametrize("room", [-1, 20_000])
@pytest.mark.parametrize("size", [0, SMALL])
async def test_u12_of_a_small_file_no_byte_goes_out(
    downloads: Downloads, upstream: ScriptedUpstream, spools: ShortSpools, room: int, size: int
) -> None:
    spools.room = room
    upstream._piece = 10_000
    file = file_of(upstream, content(size), hashes={"sha256": "0" * 64})
    _, reader = downloads.join(file)
    with pytest.raises(IntegrityError):
        await reader.begin(WHOLE)


async def test_u13_too_long_and_no_room_for_the_rest_is_never_complete(
    downloads: Downloads, upstream: ScriptedUpstream, spools: ShortSpools
) -> None:
    spools.room = LARGE
    upstream.has_sizes = False
    wrong = content(LARGE, seed=1)
    file = file_of(upstream, content(LARGE))
    upstream.files[file.url] = wrong + content(3_000_000, seed=2)
    upstream._piece = LARGE  # the first batch fits exactly
    _, reader = downloads.join(file)
    await reader.begin(WHOLE)
    received, failure = await got(reader)
    assert isinstance(failure, IntegrityError)
    assert len(received) <= LARGE - HOLD_BACK


async def test_l1_upstream_breaks_off_too(
    downloads: Downloads, upstream: ScriptedUpstream, spools: ShortSpools
) -> None:
    body = content(LARGE)
    upstream.cuts = [300_000]
    _, reader = downloads.join(file_of(upstream, body))
    await reader.begin(WHOLE)
    received, failure = await got(reader)
    assert isinstance(failure, UpstreamDown)
    assert body.startswith(received)


async def test_u9_the_disk_is_full_when_the_download_is_to_be_resumed(
    downloads: Downloads, upstream: ScriptedUpstream, spools: ShortSpools
) -> None:
    spools.room = 299_999
    upstream.cuts = [300_000]
    body = content(LARGE)
    assert await downloads.whole(file_of(upstream, body)) == body


async def test_memory_spools_are_bounded_together(upstream: ScriptedUpstream) -> None:
    spools = memory(LARGE + LARGE // 2)
    downloads = Downloads(upstream, spools)
    bodies = {f"p-{n}.tar.gz": content(LARGE, seed=n) for n in range(4)}
    files = [file_of(upstream, body, name) for name, body in bodies.items()]
    assert await asyncio.gather(*(downloads.whole(f) for f in files)) == list(bodies.values())
    await downloads.ended()
    downloads.fills.close()
    assert downloads.counters["fills_unspooled"] >= 1
    assert spools._used == 0


async def test_memory_spool_takes_all_or_nothing() -> None:
    spools = MemorySpools(10)
    first, second = spools.create(4), spools.create(None)
    first.append([b"abc", b"def"])
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        second.append([b"123", b"45"])
    assert second.size == 0
    second.append([b"1234"])
    assert (first.read(2, 3), second.peek(0, 9)) == (b"cde", b"1234")
    first.close()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        spools.create(7)
    second.close()
    spools.create(10).close()


async def test_memory_that_is_promised_to_one_download_is_not_promised_to_another(upstream: ScriptedUpstream) -> None:
    downloads = Downloads(upstream, MemorySpools(2 * LARGE))
    bodies = {f"p-{n}.tar.gz": content(LARGE, seed=n) for n in range(6)}
    files = [file_of(upstream, body, name) for name, body in bodies.items()]
    assert await asyncio.gather(*(downloads.whole(f) for f in files)) == list(bodies.values())
    await downloads.ended()
    downloads.fills.close()
    assert upstream.spans == [WHOLE] * 6, "none was begun twice"


async def test_l6_a_spool_folder_removed_under_foot_is_made_anew(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with disk(tmp_path / "spool") as inner:
        downloads = Downloads(upstream, inner)
        for folder in (tmp_path / "spool").iterdir():
            folder.rmdir()
        body = content(LARGE)
        assert await downloads.whole(file_of(upstream, body)) == body
        await downloads.ended()
        downloads.fills.close()
        assert len(downloads.stored) == 1
        assert isinstance(inner, DiskSpools)
