"""What every `mirror.ports.RecordCache` and every `mirror.ports.ArchiveCache` must do, over those that there are."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mirror.adapters.caches.archives import DiskArchiveCache
from mirror.adapters.caches.records import DiskRecordCache
from mirror.counters import Counters
from mirror.errors import UnsatisfiableSpan
from mirror.model import Origin, Span
from mirror.ports import ArchiveCache, RecordCache
from mirror.testing import MovableClock
from tests.contracts.store_contract import UNSAFE_KEYS
from tests.support.objects import body_of, is_whole, version

PAGE = "meta/one/ac/f3/requests.json"
KEY = "files/one/ac/f3/requests/requests-2.32.3-py3-none-any.whl"
OTHER = "files/one/ac/f3/requests/requests-2.32.3.tar.gz"


class RecordCacheContract:
    """Subclasses override the fixture that raises."""

    @pytest.fixture
    async def cache(self) -> Any:
        """An empty, started cache of a few MiB, closed after the test."""
        raise NotImplementedError

    @pytest.mark.parametrize("body", [b"", b"page", bytes(range(256)) * 1000])
    async def test_a_record_is_recalled_as_it_was_remembered(self, cache: RecordCache, body: bytes) -> None:
        assert await cache.recall(PAGE) is None
        await cache.remember(PAGE, body)
        assert await cache.recall(PAGE) == body

    async def test_the_last_that_was_remembered_counts(self, cache: RecordCache) -> None:
        for number in range(5):
            await cache.remember(PAGE, version(number))
        assert await cache.recall(PAGE) == version(4)

    async def test_what_was_forgotten_is_gone(self, cache: RecordCache) -> None:
        await cache.remember(PAGE, b"page")
        await cache.remember(f"{PAGE}x", b"other")
        await cache.forget(PAGE)
        await cache.forget(PAGE)
        assert await cache.recall(PAGE) is None
        assert await cache.recall(f"{PAGE}x") == b"other"

    async def test_a_record_too_large_to_keep_takes_an_older_one_with_it(self, cache: RecordCache) -> None:
        await cache.remember(PAGE, b"old")
        await cache.remember(PAGE, bytes(40_000_000))
        assert await cache.recall(PAGE) is None

    async def test_keys_are_any_text(self, cache: RecordCache) -> None:
        for key in ("a", "a/" + "x" * 1000, "é", "a'; DROP TABLE Cache; --", "../../etc/passwd", "$HOME", "~"):
            await cache.remember(key, key.encode())
            assert await cache.recall(key) == key.encode()

    async def test_many_at_once(self, cache: RecordCache) -> None:
        async def use(number: int) -> None:
            body = version(number, 10_000)
            for _ in range(3):
                await cache.remember(f"meta/{number}", body)
                assert await cache.recall(f"meta/{number}") in (body, None)

        await asyncio.gather(*(use(number) for number in range(40)))
        for number in range(40):
            assert await cache.recall(f"meta/{number}") in (version(number, 10_000), None)

    async def test_readers_see_whole_versions_only(self, cache: RecordCache) -> None:
        done = asyncio.Event()

        async def write() -> None:
            for number in range(100):
                await cache.remember(PAGE, version(number, 60_000))
            done.set()

        async def read() -> int:
            seen = 0
            while not done.is_set():
                body = await cache.recall(PAGE)
                assert body is None or is_whole(body)
                seen += body is not None
                await asyncio.sleep(0)  # a recall need not wait for anything
            return seen

        await asyncio.gather(write(), read(), read())
        assert await cache.recall(PAGE) == version(99, 60_000)

    async def test_a_caller_that_leaves_breaks_nothing(self, cache: RecordCache) -> None:
        task = asyncio.ensure_future(cache.remember(PAGE, b"page"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cache.remember(PAGE, b"page")
        assert await cache.recall(PAGE) == b"page"


class ArchiveCacheContract:
    """Subclasses override the two fixtures that raise."""

    @pytest.fixture
    async def cache(self) -> Any:
        """An empty, started cache of at least a MiB, closed after the test."""
        raise NotImplementedError

    @pytest.fixture
    def reopen(self) -> Any:
        """Gives what opens the cache again after a restart of the machine: another one over what `cache` holds."""
        raise NotImplementedError

    @pytest.fixture
    def file(self, tmp_path: Path) -> Callable[[bytes], Path]:
        """Makes a complete file at each call."""
        numbers = itertools.count()
        (tmp_path / "spool").mkdir()

        def make(body: bytes) -> Path:
            path = tmp_path / "spool" / str(next(numbers))
            path.write_bytes(body)
            return path

        return make

    @pytest.mark.parametrize("owed", [False, True])
    async def test_an_adopted_file_is_moved_in(
        self, cache: ArchiveCache, file: Callable[[bytes], Path], owed: bool
    ) -> None:
        assert await cache.open(KEY) is None
        path = file(b"wheel")
        assert await cache.adopt(KEY, path, owed=owed)
        assert not path.exists()
        content = await cache.open(KEY)
        assert content is not None
        assert (content.size, content.start, content.stop, content.origin) == (5, 0, 5, Origin.CACHE)
        assert await body_of(content) == b"wheel"

    async def test_spans(self, cache: ArchiveCache, file: Callable[[bytes], Path]) -> None:
        assert await cache.adopt(KEY, file(b"0123456789"))
        for span, expected in ((Span(3, 5), b"345"), (Span(9), b"9"), (Span(suffix=2), b"89")):
            assert await body_of(await cache.open(KEY, span)) == expected
        for span in (Span(10), Span(suffix=0)):
            with pytest.raises(UnsatisfiableSpan) as failure:
                await cache.open(KEY, span)
            assert failure.value.size == 10

    async def test_adopt_replaces_and_an_open_file_stays_what_it_was(
        self, cache: ArchiveCache, file: Callable[[bytes], Path]
    ) -> None:
        assert await cache.adopt(KEY, file(b"first"))
        before = await cache.open(KEY)
        assert await cache.adopt(KEY, file(b"second"))
        assert await body_of(before) == b"first"
        assert await body_of(await cache.open(KEY)) == b"second"

    async def test_a_file_that_is_gone_is_not_adopted(self, cache: ArchiveCache, tmp_path: Path) -> None:
        assert not await cache.adopt(KEY, tmp_path / "gone")
        assert not await cache.adopt(KEY, tmp_path / "gone", owed=True)
        assert await cache.open(KEY) is None
        assert await cache.owed() == []

    async def test_what_was_forgotten_is_gone_but_for_open_handles(
        self, cache: ArchiveCache, file: Callable[[bytes], Path]
    ) -> None:
        assert await cache.adopt(KEY, file(b"wheel"))
        assert await cache.adopt(OTHER, file(b"other"))
        opened = await cache.open(KEY)
        await cache.forget(KEY)
        await cache.forget(KEY)
        assert await cache.open(KEY) is None
        assert await body_of(opened) == b"wheel"
        assert await body_of(await cache.open(OTHER)) == b"other"

    async def test_a_file_larger_than_the_cache_is_left_alone(
        self, cache: ArchiveCache, file: Callable[[bytes], Path]
    ) -> None:
        path = file(b"")
        with path.open("r+b") as large:
            large.truncate(1 << 40)  # no byte of it is on disk
        assert await cache.adopt(OTHER, file(b"other"))
        assert not await cache.adopt(KEY, path)
        assert not await cache.adopt(KEY, path, owed=True)
        assert path.stat().st_size == 1 << 40
        assert await cache.open(KEY) is None
        assert await cache.owed() == []
        assert await body_of(await cache.open(OTHER)) == b"other"

    async def test_what_is_owed_is_told_oldest_first_and_lent_until_settled(
        self, cache: ArchiveCache, file: Callable[[bytes], Path], clock: MovableClock
    ) -> None:
        assert await cache.lend(KEY) is None
        assert await cache.adopt(OTHER, file(b"other"), owed=True)
        clock.advance(7200)
        assert await cache.adopt(KEY, file(b"wheel"), owed=True)
        assert await cache.adopt("files/copy", file(b"copy"))
        await body_of(await cache.open(OTHER))  # is used last, and owed longest
        assert await cache.owed() == [OTHER, KEY]
        lent = await cache.lend(KEY)
        assert lent is not None
        assert lent.read_bytes() == b"wheel"
        lent.unlink()  # by the store that adopted it
        assert await cache.owed() == [OTHER, KEY]
        await cache.settled(KEY)
        await cache.settled(KEY)
        assert await cache.owed() == [OTHER]
        assert await cache.lend(KEY) is None
        assert await body_of(await cache.open(KEY)) == b"wheel"

    async def test_a_lent_file_may_be_borrowed_again(self, cache: ArchiveCache, file: Callable[[bytes], Path]) -> None:
        assert await cache.adopt(KEY, file(b"wheel"), owed=True)
        for _ in range(3):
            lent = await cache.lend(KEY)
            assert lent is not None
            assert lent.read_bytes() == b"wheel"

    async def test_what_is_owed_outlives_being_forgotten_and_a_restart(
        self, cache: ArchiveCache, file: Callable[[bytes], Path], reopen: Any
    ) -> None:
        assert await cache.adopt(KEY, file(b"wheel"), owed=True)
        await cache.forget(KEY)
        assert await cache.open(KEY) is None
        assert await cache.owed() == [KEY]
        async with reopen() as again:
            assert await again.owed() == [KEY]
            lent = await again.lend(KEY)
            assert lent is not None
            assert lent.read_bytes() == b"wheel"
            await again.settled(KEY)
            assert await again.owed() == []

    async def test_a_file_owed_twice_is_owed_once(self, cache: ArchiveCache, file: Callable[[bytes], Path]) -> None:
        for body in (b"first", b"second"):
            assert await cache.adopt(KEY, file(body), owed=True)
        assert await cache.owed() == [KEY]
        lent = await cache.lend(KEY)
        assert lent is not None
        assert lent.read_bytes() == b"second"

    @pytest.mark.parametrize("key", UNSAFE_KEYS)
    async def test_unsafe_keys_are_programming_errors(
        self, cache: ArchiveCache, file: Callable[[bytes], Path], key: str
    ) -> None:
        path = file(b"body")
        for call in (
            lambda: cache.open(key),
            lambda: cache.adopt(key, path),
            lambda: cache.lend(key),
            lambda: cache.settled(key),
            lambda: cache.forget(key),
        ):
            with pytest.raises(ValueError, match="key"):
                await call()
        assert path.read_bytes() == b"body"

    async def test_many_at_once(self, cache: ArchiveCache, file: Callable[[bytes], Path]) -> None:
        async def use(number: int) -> None:
            key = f"files/one/{number % 4}/a.whl"
            assert await cache.adopt(key, file(version(number, 4_000)), owed=number % 2 == 0)
            assert is_whole(await body_of(await cache.open(key)))

        await asyncio.gather(*(use(number) for number in range(40)))


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


class TestDiskRecordCache(RecordCacheContract):
    @pytest.fixture
    async def cache(self, tmp_path: Path, clock: MovableClock) -> AsyncIterator[DiskRecordCache]:
        counters = Counters()
        cache = DiskRecordCache(
            tmp_path / "cache", size=16 << 20, free_space=0, counters=counters, clock=clock, patience=60
        )
        await cache.start()
        yield cache
        await cache.aclose()
        assert counters["cache_damaged"] == counters["cache_rebuilt"] == 0


class TestDiskArchiveCache(ArchiveCacheContract):
    @pytest.fixture
    async def cache(self, tmp_path: Path, clock: MovableClock) -> AsyncIterator[DiskArchiveCache]:
        cache = DiskArchiveCache(
            tmp_path / "cache", size=4 << 20, free_space=0, counters=Counters(), clock=clock, patience=60
        )
        await cache.start()
        yield cache
        await cache.aclose()
        assert list((tmp_path / "cache").glob(".*")) == []
        assert list((tmp_path / "cache" / "archives").rglob(".*")) == []

    @pytest.fixture
    def reopen(self, tmp_path: Path, clock: MovableClock) -> Any:
        class Reopened(DiskArchiveCache):
            async def __aenter__(self) -> DiskArchiveCache:
                await self.start()
                return self

            async def __aexit__(self, *_: object) -> None:
                await self.aclose()

        return lambda: Reopened(
            tmp_path / "cache", size=4 << 20, free_space=0, counters=Counters(), clock=clock, patience=60
        )
