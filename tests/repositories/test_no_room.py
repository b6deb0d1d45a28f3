"""Archives for which there is no room here: streamed, verified, and given to the store on their way."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from mirror.adapters.memory_store import MemoryStore
from mirror.errors import IntegrityError, StoreFailure, UpstreamDown
from mirror.fill.tee import QUEUE, Tees
from mirror.model import WHOLE, ByteSource, ByteStream, File, FileRef, Origin, Span, UpstreamStream
from mirror.verify import HOLD_BACK
from tests.repositories.remote import NoRoom, RemoteWorld, ScriptedStore, remote_world, taken
from tests.support.objects import body_of
from tests.support.packages import sdist

ONE = sdist("p", "1.0", blob=300_000)
BIG = sdist("p", "2.0", blob=3 * QUEUE)


@pytest.fixture
async def w() -> AsyncIterator[RemoteWorld]:
    async with remote_world(spools=NoRoom(HOLD_BACK)) as made:
        yield made


def impatient(w: RemoteWorld) -> None:
    """From now on no client waits for the store at all."""
    w.repository._fills._tools.tees = Tees(w.tasks, w.counters, patience=0)


# --- what the store has --------------------------------------------------------------------------


async def test_c31_each_reader_streams_from_the_store(w: RemoteWorld) -> None:
    file = await w.only_stored(BIG)
    content = await w.repository.open_file(FileRef(file.path))
    assert content.origin is Origin.STORE
    assert await body_of(content) == BIG.content
    assert w.s3.opened == [WHOLE], "the stream that was opened is the one that is read"
    assert set(await asyncio.gather(*(w.get(file) for _ in range(5)))) == {BIG.content}
    await w.settle()
    assert w.upstream_calls("file:") == 0
    assert w.s3.poured == []


async def test_s6_it_goes_on_by_range_and_then_from_upstream(w: RemoteWorld) -> None:
    file = await w.only_stored(BIG)
    w.s3.breaks = [500_000, 100_000]
    assert await w.get(file) == BIG.content
    assert w.s3.opened == [WHOLE, Span(first=500_000)]
    assert w.upstream_calls("file:") == 1


async def test_s6_damage_is_found_and_the_next_request_heals(w: RemoteWorld) -> None:
    file = await w.only_stored(BIG)
    await w.damage(file)
    content = await w.repository.open_file(FileRef(file.path))
    received, failure = await taken(content)
    assert isinstance(failure, IntegrityError)
    assert len(received) <= len(BIG.content) - HOLD_BACK
    assert w.counters["store_quarantined"] == 1
    assert await w.get(file) == BIG.content
    await w.settle()
    assert await w.stored(file) == BIG.content


async def test_content_dropped_unread_leaves_nothing_open(w: RemoteWorld) -> None:
    file = await w.only_stored(BIG)
    content = await w.repository.open_file(FileRef(file.path))
    assert isinstance(content, ByteStream)
    await content.aclose()
    await w.settle()
    assert w.s3.unclosed == 0


async def test_small_files_are_still_fetched_once_for_all(w: RemoteWorld) -> None:
    file = await w.only_stored(sdist("p", "0.1", blob=20_000))
    await asyncio.gather(*(w.get(file) for _ in range(20)))
    assert w.s3.opened == [WHOLE]


# --- what the store lacks ------------------------------------------------------------------------


async def test_c20_a_cold_file_is_stored_on_its_way(w: RemoteWorld) -> None:
    file = await w.published(BIG)
    assert await w.get(file) == BIG.content
    await w.settle()
    assert w.s3.poured == [w.key(file)]
    assert await w.stored(file) == BIG.content
    assert w.upstream_calls("file:") == 1
    await w.restart()
    with w.upstream.failing():
        assert await w.get(file) == BIG.content


async def test_c20_only_one_of_several_readers_uploads(w: RemoteWorld) -> None:
    file = await w.published(BIG)
    parts = await asyncio.gather(*(w.get(file) for _ in range(5)))
    assert set(parts) == {BIG.content}
    await w.settle()
    assert await w.stored(file) == BIG.content
    assert w.counters["store_uploads_dropped"] == 0


async def test_s2_a_store_that_takes_nothing_holds_no_client_up(w: RemoteWorld) -> None:
    impatient(w)
    file = await w.published(BIG)
    w.s3.pour_gate = asyncio.Event()
    assert await w.get(file) == BIG.content
    assert w.counters["store_uploads_dropped"] == 1
    w.s3.pour_gate.set()
    await w.settle()
    assert await w.stored(file) is None
    assert [type(e) for e in w.s3.spoilt] == [StoreFailure]
    await w.restart()
    assert await w.get(file) == BIG.content
    await w.settle()
    assert await w.stored(file) == BIG.content


async def test_s2_what_fits_into_the_queue_may_be_late(w: RemoteWorld) -> None:
    file = await w.published(ONE)
    w.s3.pour_gate = asyncio.Event()
    assert await w.get(file) == ONE.content
    assert await w.stored(file) is None
    w.s3.pour_gate.set()
    await w.settle()
    assert await w.stored(file) == ONE.content


async def test_f04_a_store_that_refuses_does_not_hurt_the_client(w: RemoteWorld) -> None:
    file = await w.published(BIG)
    w.s3.refuses_writes = True
    assert await w.get(file) == BIG.content
    await w.settle()
    assert w.counters["store_uploads_dropped"] == 1


async def test_p3_a_client_that_leaves_leaves_nothing_behind(w: RemoteWorld) -> None:
    file = await w.published(BIG)
    content = await w.repository.open_file(FileRef(file.path))
    assert isinstance(content, ByteStream)
    assert await anext(aiter(content.body))
    await content.aclose()
    await w.settle()
    assert await w.stored(file) is None
    assert len(w.s3.spoilt) == 1
    assert w.counters["store_uploads_dropped"] == 1


async def test_u12_wrong_bytes_are_not_stored(w: RemoteWorld) -> None:
    file = await w.published(BIG)
    w.upstream.files[file.url] = BIG.content[:-1] + bytes([BIG.content[-1] ^ 1])
    _, failure = await taken(await w.repository.open_file(FileRef(file.path)))
    assert isinstance(failure, IntegrityError)
    await w.settle()
    assert await w.stored(file) is None
    assert len(w.s3.spoilt) == 1


async def test_u9_a_body_that_breaks_off_is_not_stored(w: RemoteWorld) -> None:
    file = await w.published(BIG)
    w.upstream.cut_after = 1_000_000
    _, failure = await taken(await w.repository.open_file(FileRef(file.path)))
    assert isinstance(failure, UpstreamDown)
    await w.settle()
    assert await w.stored(file) is None


async def test_a_file_without_digest_is_not_stored(w: RemoteWorld) -> None:
    file = await w.published(BIG, hashes={})
    assert await w.get(file) == BIG.content
    await w.settle()
    assert not w.s3.poured
    assert not w.s3.spoilt


async def test_a_part_is_not_stored(w: RemoteWorld) -> None:
    file = await w.published(ONE)
    assert await w.get(file, Span(10, 19)) == ONE.content[10:20]
    await w.settle()
    assert not w.s3.poured
    assert not w.s3.spoilt


class _Endless(ScriptedStore):
    """Takes bodies on their way and keeps only their digest."""

    def __init__(self) -> None:
        super().__init__()
        self.digests: dict[str, str] = {}

    async def pour(self, key: str, size: int, body: ByteSource) -> None:
        digest = hashlib.sha256()
        try:
            async for piece in body:
                digest.update(piece)
                await asyncio.sleep(0)
            self.digests[key] = digest.hexdigest()
        finally:
            await body.aclose()


async def test_p9_memory_does_not_grow_with_the_files() -> None:
    size, count = 64 << 20, 8
    block = bytes(range(256)) * 1024
    digest = hashlib.sha256(block * (size // len(block))).hexdigest()
    store = _Endless()
    async with remote_world(spools=NoRoom(HOLD_BACK)) as w:
        w.s3 = store
        w._start()

        async def blocks() -> AsyncGenerator[bytes, None]:
            for _ in range(size // len(block)):
                yield bytes(block)
                await asyncio.sleep(0)

        async def fetch_file(file: File, span: Span = WHOLE, *, bypass_caches: bool = False) -> UpstreamStream:
            assert span.is_whole
            return UpstreamStream(blocks(), size, 0, size)

        w.upstream.fetch_file = fetch_file  # type: ignore[method-assign]
        files = [
            w.upstream.publish("p", f"p-{n}.tar.gz", b"", size=size, hashes={"sha256": digest}) for n in range(count)
        ]
        files = [(await w.entry(file.filename)) for file in files]

        async def read(file: File) -> int:
            content = await w.repository.open_file(FileRef(file.path))
            assert isinstance(content, ByteStream)
            return sum([len(piece) async for piece in content.body])

        gc.collect()
        tracemalloc.start()
        try:
            assert await asyncio.gather(*(read(f) for f in files)) == [size] * count
            await w.settle()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert set(store.digests.values()) == {digest}
        assert len(store.digests) == count
        assert peak < count * QUEUE + 24 * 1024 * 1024


# --- leases --------------------------------------------------------------------------------------


async def test_s13_a_download_is_led_and_given_back_when_it_is_stored() -> None:
    async with remote_world() as w:
        file, tiny = await w.published(ONE), await w.published(sdist("p", "0.1", blob=20_000))
        await asyncio.gather(*(w.get(file) for _ in range(20)), w.get(tiny))
        await w.settle()
        assert w.leases.asked == [w.key(file)], "what is small is not worth a question"
        assert w.leases.released == [True]


async def test_s13_what_another_replica_has_delivered_is_read_from_the_store() -> None:
    async with remote_world() as w:
        file = await w.published(BIG)

        async def deliver(key: str) -> None:
            await MemoryStore.put(w.s3, key, BIG.content)

        w.leases.delivered = deliver
        contents = await asyncio.gather(*(w.repository.open_file(FileRef(file.path)) for _ in range(10)))
        assert {content.origin for content in contents} == {Origin.STORE}
        assert set(await asyncio.gather(*(body_of(content) for content in contents))) == {BIG.content}
        assert w.upstream_calls("file:") == 0
        assert w.s3.opened == [WHOLE, WHOLE]


@pytest.mark.parametrize("delivery", ["nothing", "damaged"])
async def test_s13_a_delivery_that_is_none(delivery: str) -> None:
    async with remote_world() as w:
        archive = sdist("p", "1.0", blob=HOLD_BACK)
        file = await w.published(archive)

        async def deliver(key: str) -> None:
            if delivery == "damaged":
                await MemoryStore.put(w.s3, key, b"x" * len(archive.content))

        w.leases.delivered = deliver
        received, failure = await taken(await w.repository.open_file(FileRef(file.path)))
        if delivery == "nothing":
            assert received == archive.content
        else:
            assert isinstance(failure, IntegrityError)
            assert "store" in str(failure)
            w.leases.delivered = None
            assert await w.get(file) == archive.content
        await w.settle()
        assert await w.stored(file) == archive.content


async def test_s13_a_download_that_fails_gives_its_lease_back() -> None:
    async with remote_world() as w:
        file = await w.published(ONE)
        w.upstream.cut_after = 100_000
        _, failure = await taken(await w.repository.open_file(FileRef(file.path)))
        assert isinstance(failure, UpstreamDown)
        await w.settle()
        assert w.leases.released == [False]


async def test_s13_without_room_nobody_is_held_back(w: RemoteWorld) -> None:
    file = await w.published(BIG)
    w.leases.gate = asyncio.Event()
    assert await w.get(file) == BIG.content
    assert w.leases.asked == []


async def test_s13_a_file_that_the_store_has_needs_no_lease() -> None:
    async with remote_world() as w:
        file = await w.only_stored(BIG)
        await w.get(file)
        assert w.leases.asked == []
