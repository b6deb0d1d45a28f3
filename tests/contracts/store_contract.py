"""What every `mirror.ports.Store` must do; a subclass gives the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mirror.errors import StoreFailure, UnsatisfiableSpan
from mirror.model import Blob, Origin, Span, Unchanged
from mirror.ports import Store
from tests.support.objects import body_of, is_whole, keys_of, version

KEY = "files/one/ac/f3/requests/requests-2.32.3-py3-none-any.whl"

UNSAFE_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "a/../b",
    "a/./b",
    "a//b",
    "a/",
    "a/.hidden",
    "a\0b",
    "a\\b",
    "a/" + "x" * 256,
    "a/" + "é" * 128,
    "/".join(["x" * 200] * 6),
    "a/\udc80",
    "layout.json",
    "quarantine/a",
    "spool/a",
    "tmp/a",
]


class StoreContract:
    """Subclasses override the three fixtures that raise."""

    examples: ClassVar[int] = 15
    """How many runs of twenty steps the store is compared with a dict in."""

    @pytest.fixture
    def make_store(self) -> Callable[[], Awaitable[Store]]:
        """Makes an empty, started store at each call."""
        raise NotImplementedError

    @pytest.fixture
    async def store(self) -> Any:
        """One store, closed after the test."""
        raise NotImplementedError

    @pytest.fixture
    def quarantined(self) -> Callable[[], list[bytes]]:
        """The bodies of what `store` has in quarantine."""
        raise NotImplementedError

    async def test_what_was_put_can_be_opened_and_read(self, store: Store) -> None:
        await store.put(KEY, b"wheel")
        content = await store.open(KEY)
        assert content is not None
        assert (content.size, content.start, content.stop, content.origin) == (5, 0, 5, Origin.STORE)
        assert await body_of(content) == b"wheel"
        assert await store.read(KEY, 5) == b"wheel"

    async def test_put_replaces(self, store: Store) -> None:
        await store.put(KEY, b"first, and longer")
        await store.put(KEY, b"second")
        assert await store.read(KEY, 100) == b"second"
        assert await keys_of(store) == [KEY]

    async def test_an_empty_object_is_an_object(self, store: Store) -> None:
        await store.put("local-projects/requests", b"")
        assert await store.read("local-projects/requests", 0) == b""
        assert await body_of(await store.open("local-projects/requests")) == b""
        assert await keys_of(store) == ["local-projects/requests"]

    async def test_a_large_object_comes_back_whole(self, store: Store) -> None:
        body = version(1, 3_000_000)
        await store.put(KEY, body)
        assert await body_of(await store.open(KEY)) == body

    async def test_what_is_not_there_is_none(self, store: Store) -> None:
        assert await store.open(KEY) is None
        assert await store.read(KEY, 100) is None

    async def test_a_folder_is_no_object(self, store: Store) -> None:
        await store.put("files/one/a.whl", b"wheel")
        assert await store.open("files/one") is None
        assert await store.read("files/one", 100) is None
        await store.delete("files/one")
        await store.quarantine("files/one")
        assert await keys_of(store) == ["files/one/a.whl"]

    async def test_nothing_lies_below_an_object(self, store: Store) -> None:
        await store.put("files/one", b"wheel")
        assert await store.open("files/one/a.whl") is None
        assert await store.read("files/one/a.whl", 100) is None
        await store.delete("files/one/a.whl")
        assert await keys_of(store, "files/one/") == []

    @pytest.mark.parametrize(
        ("span", "expected"),
        [
            (Span(), b"0123456789"),
            (Span(0, 0), b"0"),
            (Span(3, 5), b"345"),
            (Span(3), b"3456789"),
            (Span(9, 9), b"9"),
            (Span(5, 1000), b"56789"),
            (Span(suffix=1), b"9"),
            (Span(suffix=1000), b"0123456789"),
        ],
    )
    async def test_open_gives_the_span_that_was_asked_for(self, store: Store, span: Span, expected: bytes) -> None:
        await store.put(KEY, b"0123456789")
        content = await store.open(KEY, span)
        assert content is not None
        assert content.size == 10
        assert content.stop - content.start == len(expected)
        assert await body_of(content) == expected

    @pytest.mark.parametrize("span", [Span(10), Span(11, 20), Span(suffix=0)])
    async def test_a_span_past_the_end_is_refused(self, store: Store, span: Span) -> None:
        await store.put(KEY, b"0123456789")
        with pytest.raises(UnsatisfiableSpan) as failure:
            await store.open(KEY, span)
        assert failure.value.size == 10

    async def test_read_refuses_what_is_larger_than_its_limit(self, store: Store) -> None:
        await store.put(KEY, b"0123456789")
        assert await store.read(KEY, 10) == b"0123456789"
        with pytest.raises(StoreFailure):
            await store.read(KEY, 9)

    async def test_reread_tells_whether_the_object_has_been_replaced(self, store: Store) -> None:
        assert await store.reread(KEY, 100, "") is None
        await store.put(KEY, b"first")
        first = await store.reread(KEY, 100, "")
        assert isinstance(first, Blob)
        assert first.body == b"first"
        assert await store.reread(KEY, 100, first.version) is Unchanged.UNCHANGED
        await store.put(KEY, b"other")
        other = await store.reread(KEY, 100, first.version)
        assert isinstance(other, Blob)
        assert other.body == b"other"
        assert await store.reread(KEY, 100, other.version) is Unchanged.UNCHANGED
        with pytest.raises(StoreFailure):
            await store.reread(KEY, 4, first.version)
        await store.delete(KEY)
        assert await store.reread(KEY, 100, other.version) is None

    async def test_create_succeeds_once(self, store: Store) -> None:
        assert await store.create(KEY, b"first")
        if store.exact:
            assert not await store.create(KEY, b"second")
            assert await store.read(KEY, 100) == b"first"
            await store.delete(KEY)
            assert await store.create(KEY, b"third")
            assert await store.read(KEY, 100) == b"third"

    async def test_replace_succeeds_on_the_version_that_was_read(self, store: Store) -> None:
        await store.put(KEY, b"first")
        first = await store.reread(KEY, 100, "")
        assert isinstance(first, Blob)
        assert await store.replace(KEY, b"second", first.version)
        assert await store.read(KEY, 100) == b"second"
        if store.exact:
            assert not await store.replace(KEY, b"third", first.version)
            assert await store.read(KEY, 100) == b"second"
            await store.delete(KEY)
            assert not await store.replace(KEY, b"fourth", first.version)
            assert await store.read(KEY, 100) is None

    async def test_of_eight_that_create_at_once_exactly_one_succeeds(self, store: Store) -> None:
        if not store.exact:
            pytest.skip("this service does not promise it, and says so")
        for number in range(5):
            key = f"leases/{number}"
            won = await asyncio.gather(*(store.create(key, b"%d" % n) for n in range(8)))
            assert won.count(True) == 1
            assert await store.read(key, 10) == b"%d" % won.index(True)

    async def test_eight_that_replace_at_once_lose_no_update(self, store: Store) -> None:
        if not store.exact:
            pytest.skip("this service does not promise it, and says so")
        await store.put(KEY, b"0")
        successes = 0

        async def increment() -> None:
            nonlocal successes
            for _ in range(4):
                found = await store.reread(KEY, 100, "")
                assert isinstance(found, Blob)
                if await store.replace(KEY, b"%d" % (int(found.body) + 1), found.version):
                    successes += 1

        await asyncio.gather(*(increment() for _ in range(8)))
        assert successes
        assert await store.read(KEY, 100) == b"%d" % successes

    async def test_admit_leaves_the_file_unless_it_says_so(self, store: Store, tmp_path: Path) -> None:
        await store.put(KEY, b"wheel")
        source = tmp_path / "source"
        source.write_bytes(b"wheel")
        assert await store.admit(KEY, source) != source.exists()
        assert await store.read(KEY, 100) == b"wheel"

    async def test_adopt_takes_a_file_over(self, store: Store, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"wheel")
        await store.adopt(KEY, source)
        assert await store.read(KEY, 100) == b"wheel"
        assert not source.exists()

    async def test_adopt_replaces(self, store: Store, tmp_path: Path) -> None:
        await store.put(KEY, b"first")
        source = tmp_path / "source"
        source.write_bytes(b"second")
        await store.adopt(KEY, source)
        assert await store.read(KEY, 100) == b"second"
        assert await keys_of(store) == [KEY]

    async def test_adopt_of_a_file_that_is_gone_is_a_store_failure(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(StoreFailure):
            await store.adopt(KEY, tmp_path / "gone")
        assert await store.open(KEY) is None

    async def test_delete_removes_and_may_be_repeated(self, store: Store) -> None:
        await store.put(KEY, b"wheel")
        await store.put(KEY + ".metadata", b"metadata")
        await store.delete(KEY)
        await store.delete(KEY)
        assert await store.open(KEY) is None
        assert await keys_of(store) == [KEY + ".metadata"]

    async def test_l07_quarantine_takes_out_of_service_and_keeps_the_bytes(
        self, store: Store, quarantined: Callable[[], list[bytes]]
    ) -> None:
        await store.put(KEY, b"damaged")
        await store.quarantine(KEY)
        assert await store.open(KEY) is None
        assert await store.read(KEY, 100) is None
        assert await keys_of(store) == []
        assert quarantined() == [b"damaged"]

    async def test_l07_quarantine_overwrites_nothing(
        self, store: Store, quarantined: Callable[[], list[bytes]]
    ) -> None:
        for body in (b"damaged 1", b"damaged 2"):
            await store.put(KEY, body)
            await store.quarantine(KEY)
        await store.put(KEY, b"good")
        assert sorted(quarantined()) == [b"damaged 1", b"damaged 2"]
        assert await store.read(KEY, 100) == b"good"

    async def test_quarantine_of_what_is_not_there_is_no_error(
        self, store: Store, quarantined: Callable[[], list[bytes]]
    ) -> None:
        await store.quarantine(KEY)
        assert quarantined() == []

    async def test_list_is_in_key_order_and_by_prefix(self, store: Store) -> None:
        keys = [
            "meta/a/z.json",
            "meta/a-b/c.json",
            "meta/a.json",
            "meta/a0.json",
            "files/x/1",
            "files/x/10",
            "files/x/2",
        ]
        for key in keys:
            await store.put(key, key.encode())
        assert await keys_of(store) == sorted(keys)
        assert await keys_of(store, "meta/") == ["meta/a-b/c.json", "meta/a.json", "meta/a/z.json", "meta/a0.json"]
        assert await keys_of(store, "meta/a") == ["meta/a-b/c.json", "meta/a.json", "meta/a/z.json", "meta/a0.json"]
        assert await keys_of(store, "meta/a/") == ["meta/a/z.json"]
        assert await keys_of(store, "files/x/1") == ["files/x/1", "files/x/10"]
        assert await keys_of(store, "met") == [k for k in sorted(keys) if k.startswith("meta")]
        assert await keys_of(store, "meta/a/z.json") == ["meta/a/z.json"]
        assert await keys_of(store, "absent/") == []

    async def test_list_tells_size_and_time(self, store: Store) -> None:
        await store.put(KEY, b"wheel")
        [found] = [found async for found in store.list("files/")]
        assert found.size == 5
        assert abs(found.modified - time.time()) < 86_400

    async def test_a_listing_may_be_left_early(self, store: Store) -> None:
        for name in "abc":
            await store.put(f"files/{name}", b"")
        async for found in store.list(""):
            assert found.key == "files/a"
            break

    async def test_list_refuses_an_unsafe_prefix(self, store: Store) -> None:
        for prefix in ("../", "/", "files/../", "a//", "quarantine/"):
            with pytest.raises(ValueError, match="key"):
                await keys_of(store, prefix)

    @pytest.mark.parametrize("key", UNSAFE_KEYS)
    async def test_unsafe_keys_are_programming_errors(self, store: Store, tmp_path: Path, key: str) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"body")
        for call in (
            lambda: store.open(key),
            lambda: store.read(key, 1),
            lambda: store.reread(key, 1, ""),
            lambda: store.put(key, b"body"),
            lambda: store.create(key, b"body"),
            lambda: store.replace(key, b"body", "1"),
            lambda: store.admit(key, source),
            lambda: store.adopt(key, source),
            lambda: store.delete(key),
            lambda: store.quarantine(key),
        ):
            with pytest.raises(ValueError, match="key"):
                await call()
        assert source.read_bytes() == b"body"
        assert await keys_of(store) == []

    @pytest.mark.parametrize("key", ["a/" + "x" * 255, "/".join(["x" * 204] * 5), "a/x+1.0~rc=1,2@3!-_é.whl"])
    async def test_the_longest_and_oddest_keys(self, store: Store, key: str) -> None:
        await store.put(key, b"body")
        assert await store.read(key, 4) == b"body"
        assert await keys_of(store) == [key]
        await store.quarantine(key)
        assert await store.open(key) is None

    async def test_an_open_object_stays_what_it_was(self, store: Store) -> None:
        old, new = version(1), version(2)
        await store.put(KEY, old)
        first, second = await store.open(KEY), await store.open(KEY)
        await store.put(KEY, new)
        assert await body_of(first) == old
        await store.delete(KEY)
        assert await body_of(second) == old

    async def test_check_passes(self, store: Store) -> None:
        await store.check()
        assert await keys_of(store) == []

    async def test_twenty_writers_of_one_key_and_readers_see_whole_versions_only(
        self, store: Store, tmp_path: Path
    ) -> None:
        writing = 20

        async def write(number: int) -> None:
            nonlocal writing
            if number % 2:
                await store.put(KEY, version(number))
            else:
                source = tmp_path / str(number)
                source.write_bytes(version(number))
                await store.adopt(KEY, source)
            writing -= 1

        async def read() -> int:
            seen = 0
            while writing:
                content = await store.open(KEY)
                if content is not None:
                    assert is_whole(await body_of(content))
                    seen += 1
                await asyncio.sleep(0)
            return seen

        await store.put(KEY, version(0))
        *_, first, second = await asyncio.gather(*(write(n) for n in range(20)), read(), read())
        assert first
        assert second
        assert is_whole(await body_of(await store.open(KEY)))
        assert await keys_of(store) == [KEY]

    def test_it_behaves_as_a_dict(self, make_store: Callable[[], Awaitable[Store]], tmp_path: Path) -> None:
        run_state_machine_as_test(
            lambda: _DictModel(make_store, tmp_path),  # type: ignore[arg-type] # any callable that makes one will do
            settings=settings(
                max_examples=self.examples,
                stateful_step_count=20,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


_KEYS = st.sampled_from(
    ["files/a/1.whl", "files/a/1.whl.metadata", "files/a-b/1.whl", "meta/a.json", "local/a/1.whl.json"]
)
_BODIES = st.binary(max_size=200)


class _DictModel(RuleBasedStateMachine):
    """Puts, deletes, opens and lists in the store and in a dict."""

    def __init__(self, make_store: Callable[[], Awaitable[Store]], folder: Path) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = folder
        self.model: dict[str, bytes] = {}

        async def make() -> Store:
            return await make_store()

        self.store = self.runner.run(make())

    @rule(key=_KEYS, body=_BODIES)
    def put(self, key: str, body: bytes) -> None:
        self.runner.run(self.store.put(key, body))
        self.model[key] = body

    @rule(key=_KEYS, body=_BODIES)
    def adopt(self, key: str, body: bytes) -> None:
        source = self.folder / "adopted"
        source.write_bytes(body)
        self.runner.run(self.store.adopt(key, source))
        assert not source.exists()
        self.model[key] = body

    @rule(key=_KEYS)
    def delete(self, key: str) -> None:
        self.runner.run(self.store.delete(key))
        self.model.pop(key, None)

    @rule(key=_KEYS)
    def quarantine(self, key: str) -> None:
        self.runner.run(self.store.quarantine(key))
        self.model.pop(key, None)

    @rule(key=_KEYS, first=st.integers(0, 250), length=st.integers(1, 250))
    def open(self, key: str, first: int, length: int) -> None:
        async def part() -> bytes | None:
            content = await self.store.open(key, Span(first, first + length - 1))
            return None if content is None else await body_of(content)

        expected = self.model.get(key)
        if expected is not None and first >= len(expected):
            with pytest.raises(UnsatisfiableSpan):
                self.runner.run(part())
        else:
            assert self.runner.run(part()) == (None if expected is None else expected[first : first + length])

    @rule(prefix=st.sampled_from(["", "f", "files/", "files/a", "files/a/", "files/a-b/", "meta/a.json", "x"]))
    def list(self, prefix: str) -> None:
        async def listed() -> dict[str, int]:
            found = [f async for f in self.store.list(prefix)]
            assert [f.key for f in found] == sorted(f.key for f in found)
            return {f.key: f.size for f in found}

        assert self.runner.run(listed()) == {k: len(b) for k, b in self.model.items() if k.startswith(prefix)}

    @invariant()
    def holds_the_same(self) -> None:
        for key, body in self.model.items():
            assert self.runner.run(self.store.read(key, 1000)) == body

    def teardown(self) -> None:
        self.runner.run(self.store.aclose())
        self.runner.close()
