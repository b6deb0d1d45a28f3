"""One download, many readers: what each gets, when, and what is kept."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.errors import IntegrityError, ShuttingDown, UnsatisfiableSpan, UpstreamDown, UpstreamMisbehaved
from mirror.fill.download import Fill
from mirror.fill.reader import FillReader
from mirror.fill.sources import RESUMES
from mirror.fill.spooling import BATCH
from mirror.model import WHOLE, Span
from mirror.spool import Spools
from mirror.verify import HOLD_BACK
from tests.fill.downloads import (
    LARGE,
    SMALL,
    Downloads,
    ScriptedUpstream,
    content,
    disk,
    file_of,
    got,
    memory,
    rest,
    sha256,
)
from tests.support.descriptors import open_files


@pytest.fixture
def upstream() -> ScriptedUpstream:
    return ScriptedUpstream()


@pytest.fixture(params=["disk", "memory"])
async def spools(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Spools]:
    before = open_files()
    if request.param == "memory":
        in_memory = memory()
        yield in_memory
        assert in_memory._used == 0
    else:
        async with disk(tmp_path / "spool") as spools:
            yield spools
    assert open_files() == before


@pytest.fixture
async def downloads(upstream: ScriptedUpstream, spools: Spools) -> AsyncIterator[Downloads]:
    downloads = Downloads(upstream, spools)
    yield downloads
    await downloads.ended()
    downloads.fills.close()
    assert downloads.counters["background_failures"] == 0


async def has_begun(fill: Fill) -> None:
    """Returns once the first piece can be read."""
    while not fill.have:
        await fill.news()


async def joined(downloads: Downloads, count: int) -> None:
    """Returns once so many readers have joined a download that was on its way."""
    while downloads.counters["files_joined"] < count:
        await asyncio.sleep(0)


async def asked(upstream: ScriptedUpstream, count: int) -> None:
    """Returns once upstream was asked for so many bodies."""
    while len(upstream.spans) < count:
        await asyncio.sleep(0.001)


async def test_p7_many_readers_cost_one_request(downloads: Downloads, upstream: ScriptedUpstream) -> None:
    body = content(LARGE)
    file = file_of(upstream, body)
    assert set(await asyncio.gather(*(downloads.whole(file) for _ in range(50)))) == {body}
    assert len(upstream.spans) == 1
    assert downloads.counters["files_joined"] == 49
    await downloads.ended()
    assert downloads.stored == {file.filename: body}


async def test_late_readers_start_at_byte_0_or_wherever_they_like(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    body = content(LARGE)
    file = file_of(upstream, body)
    upstream.gate = asyncio.Event()
    fill, first = downloads.join(file)
    begun = asyncio.ensure_future(first.begin(WHOLE))
    await has_begun(fill)
    late = [asyncio.ensure_future(downloads.whole(file)) for _ in range(3)]
    spans = [Span(0, 0), Span(10, 99), Span(LARGE - 5), Span(suffix=7), Span(300_000, 700_000), Span(5, 2 * LARGE)]
    parts = [asyncio.ensure_future(downloads.whole(file, span)) for span in spans]
    await joined(downloads, len(late) + len(parts))
    upstream.gate.set()
    assert await begun == (LARGE, 0, LARGE)
    assert await rest(first) == body
    assert await asyncio.gather(*late) == [body] * 3
    for span, part in zip(spans, await asyncio.gather(*parts), strict=True):
        start, stop = span.resolve(LARGE)
        assert part == body[start:stop]
    assert len(upstream.spans) == 1
    assert fill.state.name == "VERIFIED"


async def test_an_impossible_span_is_refused_and_harms_nobody(downloads: Downloads, upstream: ScriptedUpstream) -> None:
    body = content(SMALL)
    file = file_of(upstream, body)
    _, reader = downloads.join(file)
    with pytest.raises(UnsatisfiableSpan):
        await reader.begin(Span(SMALL))
    assert await downloads.whole(file) == body


@pytest.mark.parametrize("size", [1, HOLD_BACK - 1, HOLD_BACK, HOLD_BACK + 1, LARGE])
async def test_the_end_is_held_back_until_the_digest_holds(
    downloads: Downloads, upstream: ScriptedUpstream, size: int
) -> None:
    body = content(size)
    file = file_of(upstream, body)
    upstream.files[file.url] = body[:-1] + bytes([body[-1] ^ 1])
    _, reader = downloads.join(file)
    try:
        await reader.begin(WHOLE)
        received, failure = await got(reader)
    except IntegrityError as e:
        received, failure = b"", e
    assert isinstance(failure, IntegrityError)
    assert len(received) <= max(0, size - HOLD_BACK)
    assert body.startswith(received)
    await downloads.ended()
    assert downloads.counters["integrity_failures"] == 1
    assert downloads.stored == {}


async def test_nothing_is_sent_ahead_of_the_last_bytes_arrival(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    body = content(SMALL)
    file = file_of(upstream, body)
    upstream.gate = asyncio.Event()
    upstream._piece = SMALL - 1
    fill, reader = downloads.join(file)
    begun = asyncio.ensure_future(reader.begin(WHOLE))
    await has_begun(fill)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not begun.done()
    upstream.gate.set()
    await begun
    assert await rest(reader) == body


async def test_an_empty_file_is_proved_too(downloads: Downloads, upstream: ScriptedUpstream) -> None:
    assert await downloads.whole(file_of(upstream, b"", "p-0.tar.gz")) == b""
    wrong = file_of(upstream, b"", "p-1.tar.gz", hashes={"sha256": sha256(b"not empty")})
    with pytest.raises(IntegrityError):
        await downloads.whole(wrong)


async def test_u12_wrong_hash_right_length_fails_for_all_and_is_not_kept(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    body = content(SMALL)
    file = file_of(upstream, body)
    upstream.files[file.url] = content(SMALL, seed=1)
    outcomes = await asyncio.gather(*(downloads.whole(file) for _ in range(20)), return_exceptions=True)
    assert [type(o) for o in outcomes] == [IntegrityError] * 20
    assert len(upstream.spans) == 1
    await downloads.ended()
    assert downloads.counters["integrity_failures"] == 1
    assert downloads.stored == {}
    upstream.files[file.url] = body
    assert await downloads.whole(file) == body, "a failure is not remembered"


async def test_u12_who_hears_of_a_failure_and_tries_again_meets_a_new_download(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    body = content(SMALL)
    file = file_of(upstream, body)
    upstream.cached[file.url] = content(SMALL, seed=1)

    async def twice() -> bytes:
        try:
            return await downloads.whole(file)
        except IntegrityError:
            _, reader = downloads.join(file, bypass_caches=True)
            await reader.begin(WHOLE)
            return await rest(reader)

    assert set(await asyncio.gather(*(twice() for _ in range(30)))) == {body}
    assert upstream.bypassed == [False, True]


@pytest.mark.parametrize("extra", [1, 3 * BATCH])
async def test_u13_longer_than_promised(downloads: Downloads, upstream: ScriptedUpstream, extra: int) -> None:
    body = content(LARGE)
    file = file_of(upstream, body)
    upstream.has_sizes = False
    upstream.files[file.url] = body + content(extra, seed=2)
    _, reader = downloads.join(file)
    await reader.begin(WHOLE)
    received, failure = await got(reader)
    assert isinstance(failure, IntegrityError)
    assert len(received) <= LARGE - HOLD_BACK
    await downloads.ended()
    assert downloads.stored == {}


async def test_u13_a_declared_length_other_than_promised_fails_at_the_head(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    file = file_of(upstream, content(LARGE))
    upstream.files[file.url] = content(LARGE + 1)
    _, reader = downloads.join(file)
    with pytest.raises(IntegrityError):
        await reader.begin(WHOLE)
    await downloads.ended()
    assert downloads.counters["integrity_failures"] == 1


async def test_u11_a_body_that_ends_early_without_an_error_is_not_whole(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    file = file_of(upstream, content(LARGE))
    upstream.has_sizes = False
    upstream.files[file.url] = content(LARGE)[:-1000]
    _, reader = downloads.join(file)
    await reader.begin(WHOLE)
    received, failure = await got(reader)
    assert failure is not None
    assert len(received) <= LARGE - HOLD_BACK


@pytest.mark.parametrize("has_ranges", [True, False])
async def test_u9_a_download_that_breaks_off_is_resumed(
    downloads: Downloads, upstream: ScriptedUpstream, has_ranges: bool
) -> None:
    body = content(LARGE)
    file = file_of(upstream, body)
    upstream.has_ranges = has_ranges
    upstream.cuts = [300_001, 300_002 if has_ranges else 700_000]
    assert await downloads.whole(file) == body
    assert [s.first for s in upstream.spans] == [0, 300_001, 600_003 if has_ranges else 700_000]
    await downloads.ended()
    assert downloads.stored == {file.filename: body}


async def test_u9_after_the_last_resume_it_fails_for_all(downloads: Downloads, upstream: ScriptedUpstream) -> None:
    file = file_of(upstream, content(LARGE))
    upstream.cuts = [100_000] * (RESUMES + 1)
    readers = [downloads.join(file)[1] for _ in range(10)]
    await asyncio.gather(*(r.begin(WHOLE) for r in readers))
    outcomes = await asyncio.gather(*(got(r) for r in readers))
    assert {type(failure) for _, failure in outcomes} == {UpstreamDown}
    assert len(upstream.spans) == RESUMES + 1
    await downloads.ended()
    assert downloads.stored == {}


async def test_u9_a_body_that_breaks_off_behind_its_last_byte_is_whole(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    class Late(ScriptedUpstream):
        async def _cutting(self, stream, cut):  # type: ignore[no-untyped-def]
            async for piece in stream.body:
                yield piece
            raise self._cut()

    late = Late()
    downloads.fills._tools.upstream = late
    body = content(LARGE)
    assert await downloads.whole(file_of(late, body)) == body
    assert len(late.spans) == 1


async def test_u9_without_any_digest_parts_are_not_put_together(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    file = file_of(upstream, content(LARGE), hashes={})
    upstream.cuts = [500_000]
    _, reader = downloads.join(file)
    await reader.begin(WHOLE)
    _, failure = await got(reader)
    assert isinstance(failure, UpstreamDown)
    assert len(upstream.spans) == 1


async def test_u9_a_file_that_shrank_meanwhile_is_no_error_of_the_client(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    body = content(LARGE)
    file = file_of(upstream, body)
    upstream.cuts = [500_000]
    upstream.gate = asyncio.Event()
    fill, reader = downloads.join(file)
    begun = asyncio.ensure_future(reader.begin(WHOLE))
    await has_begun(fill)
    upstream.files[file.url] = body[:1000]
    upstream.gate.set()
    await begun
    _, failure = await got(reader)
    assert isinstance(failure, IntegrityError)


async def test_p5_a_failure_reaches_all_readers_and_the_next_request_tries_again(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    body = content(SMALL)
    file = file_of(upstream, body)
    with upstream.failing():
        outcomes = await asyncio.gather(*(downloads.whole(file) for _ in range(100)), return_exceptions=True)
    assert [type(o) for o in outcomes] == [UpstreamDown] * 100
    assert await downloads.whole(file) == body


async def test_a_download_is_not_joined_by_who_was_promised_more(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    body = content(LARGE)
    proven = file_of(upstream, body)
    unproven = file_of(upstream, body, hashes={})
    upstream.files[proven.url] = body[:-1] + bytes([body[-1] ^ 1])
    upstream.gate = asyncio.Event()
    first = asyncio.ensure_future(downloads.whole(unproven))
    await asked(upstream, 1)
    second = asyncio.ensure_future(downloads.whole(proven))
    await asked(upstream, 2)
    upstream.gate.set()
    assert await first != body, "nobody promised anything of it"
    with pytest.raises(IntegrityError):
        await second


async def test_p4_the_first_reader_leaves_and_the_others_stay(downloads: Downloads, upstream: ScriptedUpstream) -> None:
    body = content(LARGE)
    file = file_of(upstream, body)
    upstream.gate = asyncio.Event()
    leader = asyncio.ensure_future(downloads.whole(file))
    others = [asyncio.ensure_future(downloads.whole(file)) for _ in range(99)]
    await joined(downloads, 99)
    await asked(upstream, 1)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    upstream.gate.set()
    assert await asyncio.gather(*others) == [body] * 99
    assert len(upstream.spans) == 1


@pytest.mark.parametrize(("limit", "have", "goes_on"), [(0, 0.1, False), (0, 0.6, True), (LARGE, 0.1, True)], ids=str)
async def test_p3_an_abandoned_download_goes_on_if_little_is_missing(
    upstream: ScriptedUpstream, spools: Spools, limit: int, have: float, goes_on: bool
) -> None:
    downloads = Downloads(upstream, spools, finish_abandoned=limit)
    body = content(LARGE)
    file = file_of(upstream, body)
    gate = upstream.gate = asyncio.Event()
    upstream._piece = int(LARGE * have)
    fill, reader = downloads.join(file)
    begun = asyncio.ensure_future(reader.begin(WHOLE))
    await has_begun(fill)
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    gate.set()
    await downloads.ended()
    assert (downloads.stored == {file.filename: body}) is goes_on
    assert downloads.counters["fills_abandoned"] == (0 if goes_on else 1)
    assert await downloads.whole(file) == body
    await downloads.ended()
    downloads.fills.close()


async def test_p3_a_new_reader_saves_an_abandoned_download(downloads: Downloads, upstream: ScriptedUpstream) -> None:
    body = content(LARGE)
    file = file_of(upstream, body)
    upstream.gate = asyncio.Event()
    first = asyncio.ensure_future(downloads.whole(file))
    await asked(upstream, 1)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.ensure_future(downloads.whole(file))
    await joined(downloads, 1)
    upstream.gate.set()
    assert await second == body
    assert len(upstream.spans) == 1


@pytest.mark.parametrize("known_at_head", [True, False])
@pytest.mark.parametrize("size", [0, SMALL, LARGE])
async def test_a_file_of_unknown_size(
    downloads: Downloads, upstream: ScriptedUpstream, known_at_head: bool, size: int
) -> None:
    body = content(size)
    upstream.has_sizes = known_at_head
    file = file_of(upstream, body, size=None)
    assert set(await asyncio.gather(*(downloads.whole(file) for _ in range(5)))) == {body}
    await downloads.ended()
    assert downloads.stored == {file.filename: body}


async def test_l1_unknown_size_and_no_room_is_refused(upstream: ScriptedUpstream) -> None:
    downloads = Downloads(upstream, memory(500_000))
    upstream.has_sizes = False
    file = file_of(upstream, content(LARGE), size=None)
    with pytest.raises(UpstreamMisbehaved):
        await downloads.whole(file)
    await downloads.ended()
    downloads.fills.close()


async def test_s_a_store_that_refuses_does_not_hurt_the_client(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    downloads.refuses = True
    body = content(LARGE)
    file = file_of(upstream, body)
    assert await downloads.whole(file) == body
    await downloads.ended()
    assert downloads.counters["store_failures"] == 1


async def test_a_reader_that_never_reads_holds_nothing_when_closed(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    file = file_of(upstream, content(SMALL))
    _, unread = downloads.join(file)
    _, begun = downloads.join(file)
    await begun.begin(WHOLE)
    await downloads.ended()
    await begun.aclose()
    await begun.aclose()
    await unread.aclose()  # the spools fixture sees that nothing stays open


async def test_readers_outlive_the_download_and_its_threads(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    before = open_files()
    async with disk(tmp_path / "spool") as spools:
        downloads = Downloads(upstream, spools)
        _, reader = downloads.join(file_of(upstream, content(LARGE)))
        await reader.begin(WHOLE)
        await downloads.ended()
        downloads.fills.close()
        await reader.aclose()
    assert open_files() == before


async def test_p2_a_download_that_is_cut_short_at_shutdown_leaves_nothing(
    downloads: Downloads, upstream: ScriptedUpstream
) -> None:
    file = file_of(upstream, content(LARGE))
    upstream.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(downloads.whole(file)) for _ in range(3)]
    await joined(downloads, 2)
    await asked(upstream, 1)
    assert await downloads.tasks.drain(0) == 1
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(o) for o in outcomes] == [ShuttingDown] * 3
    assert downloads.stored == {}


@pytest.mark.parametrize("steps", range(6))
async def test_a_download_that_is_cancelled_early_leaves_nothing(
    downloads: Downloads, upstream: ScriptedUpstream, steps: int
) -> None:
    _, reader = downloads.join(file_of(upstream, content(LARGE)))
    for _ in range(steps):
        await asyncio.sleep(0)
    await downloads.tasks.drain(0)
    await reader.aclose()


async def test_p6_a_reader_that_stands_still_delays_nobody(downloads: Downloads, upstream: ScriptedUpstream) -> None:
    body = content(4 * LARGE)
    file = file_of(upstream, body)
    _, still = downloads.join(file)
    await still.begin(WHOLE)
    piece = await anext(still)
    assert await downloads.whole(file) == body
    await downloads.ended()
    assert downloads.stored == {file.filename: body}
    assert piece + await rest(still) == body


async def test_p7_memory_does_not_grow_with_file_and_readers(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    body = content(50_000_000)
    file = file_of(upstream, body)
    async with disk(tmp_path / "spool") as spools:
        downloads = Downloads(upstream, spools)

        async def keep(*_: object) -> None:
            """What is stored is of no interest here."""

        async def count() -> int:
            reader = FillReader(downloads.fills.join(file, keep))
            await reader.begin(WHOLE)
            return sum([len(piece) async for piece in reader])

        gc.collect()
        tracemalloc.start()
        try:
            sizes = await asyncio.gather(*(count() for _ in range(64)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sizes == [len(body)] * 64
        assert peak < 40_000_000
        assert len(upstream.spans) == 1
        await downloads.ended()
        downloads.fills.close()
