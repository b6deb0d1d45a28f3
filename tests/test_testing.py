"""The test kit itself."""

from __future__ import annotations

import asyncio
import json

import pytest

from mirror.errors import NoSuchFile, NoSuchProject, UpstreamBusy, UpstreamDown, UpstreamMisbehaved
from mirror.model import NO_VALIDATOR, NotModified, PageDocument, Span, UpstreamStream, Validator
from mirror.names import project_name
from mirror.ports import Clock, Upstream
from mirror.testing import MemoryUpstream, MovableClock

NAME = project_name("sample")


async def read(stream: UpstreamStream) -> bytes:
    return b"".join([piece async for piece in stream.body])


def test_the_clock_stands_still_until_it_is_moved() -> None:
    clock = MovableClock(1000.0)
    kept: Clock = clock
    before = kept.monotonic()
    clock.advance(5)
    assert (kept.now(), kept.monotonic() - before) == (1005.0, 5)
    clock.set_wall_clock(10.0)
    assert (kept.now(), kept.monotonic() - before) == (10.0, 5)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


async def test_pages_are_answered_conditionally_and_counted() -> None:
    clock = MovableClock(1000.0)
    upstream = MemoryUpstream(clock)
    asked: Upstream = upstream
    with pytest.raises(NoSuchProject):
        await asked.fetch_page(NAME, NO_VALIDATOR)
    upstream.publish("Sample", "sample-1.0.tar.gz", b"one", requires_python=">=3.8")
    clock.advance(7)
    page = await asked.fetch_page(NAME, NO_VALIDATOR)
    assert isinstance(page, PageDocument)
    assert page.fetched_at == 1007.0
    [entry] = json.loads(page.body)["files"]
    assert (entry["filename"], entry["requires-python"], entry["size"]) == ("sample-1.0.tar.gz", ">=3.8", 3)
    upstream.max_age = 30
    assert await asked.fetch_page(NAME, page.validator) == NotModified(max_age=30)
    upstream.publish("sample", "sample-1.1.tar.gz", b"two")
    changed = await asked.fetch_page(NAME, page.validator)
    assert isinstance(changed, PageDocument)
    upstream.withdraw("sample", "sample-1.1.tar.gz")
    again = await asked.fetch_page(NAME, Validator(etag='"another"'))
    assert isinstance(again, PageDocument)
    assert again.body == page.body
    assert upstream.calls["page:sample"] == 5


async def test_files_are_answered_by_span_in_pieces() -> None:
    upstream = MemoryUpstream(MovableClock(), piece=4)
    file = upstream.publish("sample", "sample-1.0.tar.gz", b"0123456789")
    stream = await upstream.fetch_file(file)
    assert (stream.size, stream.start, stream.stop) == (10, 0, 10)
    assert [piece async for piece in stream.body] == [b"0123", b"4567", b"89"]
    assert await read(await upstream.fetch_file(file, Span(2, 5))) == b"2345"
    assert await upstream.fetch_size(file) == 10
    upstream.has_ranges = upstream.has_sizes = False
    whole = await upstream.fetch_file(file, Span(2, 5))
    assert (whole.size, whole.start, whole.stop, await read(whole)) == (None, 0, None, b"0123456789")
    assert await upstream.fetch_size(file) is None
    assert await upstream.fetch_small(file.url, accept="*/*", limit=10) == b"0123456789"
    with pytest.raises(UpstreamMisbehaved):
        await upstream.fetch_small(file.url, accept="*/*", limit=9)
    del upstream.files[file.url]
    with pytest.raises(NoSuchFile):
        await upstream.fetch_file(file)
    assert upstream.calls[f"file:{file.url}"] == 4


async def test_it_fails_as_told() -> None:
    upstream = MemoryUpstream(MovableClock(), piece=4)
    file = upstream.publish("sample", "sample-1.0.tar.gz", b"0123456789")
    with upstream.failing(), pytest.raises(UpstreamDown):
        await upstream.fetch_page(NAME, NO_VALIDATOR)
    with upstream.failing(UpstreamBusy("memory", "status 429", retry_after=3)), pytest.raises(UpstreamBusy):
        await upstream.fetch_project_list()
    upstream.cut_after = 6
    pieces = aiter((await upstream.fetch_file(file)).body)
    assert await anext(pieces) + await anext(pieces) == b"012345"
    with pytest.raises(UpstreamDown):
        await anext(pieces)


async def test_the_gate_holds_a_body_after_its_first_piece() -> None:
    upstream = MemoryUpstream(MovableClock(), piece=4)
    file = upstream.publish("sample", "sample-1.0.tar.gz", b"0123456789")
    upstream.gate = asyncio.Event()
    pieces = aiter((await upstream.fetch_file(file)).body)
    assert await anext(pieces) == b"0123"
    rest = asyncio.ensure_future(anext(pieces))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not rest.done()
    upstream.gate.set()
    assert await rest == b"4567"


async def test_lists_and_legacy_documents() -> None:
    upstream = MemoryUpstream(MovableClock())
    upstream.publish("b", "b-1.0.tar.gz", b"")
    upstream.publish("a", "a-1.0.tar.gz", b"")
    media_type, body = await upstream.fetch_project_list()
    assert media_type == "application/vnd.pypi.simple.v1+json"
    names = json.loads(b"".join([piece async for piece in body]))["projects"]
    assert names == [{"name": "a"}, {"name": "b"}]
    upstream.legacy[NAME, "1.0"] = b"{}"
    assert await upstream.fetch_legacy_json(NAME, "1.0") == b"{}"
    with pytest.raises(NoSuchProject):
        await upstream.fetch_legacy_json(NAME, None)
