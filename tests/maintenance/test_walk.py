from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.adapters.memory_store import MemoryStore
from mirror.errors import StoreFailure
from mirror.maintenance.walk import Holding, walk
from mirror.names import archive_key, page_key, project_name
from mirror.ports import StoredKey
from tests.maintenance.stocked import SOURCE, directory

NAMES = st.from_regex(r"[a-b0](-?[a-b0]){0,3}", fullmatch=True)


class Listed(MemoryStore):
    """A store that lists what the test says."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__(1 << 20)
        self._keys = keys

    async def list(self, prefix: str) -> AsyncIterator[StoredKey]:
        for key in self._keys:
            if key.startswith(prefix):
                yield StoredKey(key, 1, 0.0)


@settings(deadline=None, max_examples=200)
@given(
    pages=st.sets(st.tuples(st.sampled_from(["a", "a-b", "a0"]), NAMES)),
    files=st.sets(st.tuples(st.sampled_from(["a", "a-b", "a0"]), NAMES)),
)
async def test_every_project_is_met_once_with_all_that_it_has(
    pages: set[tuple[str, str]], files: set[tuple[str, str]]
) -> None:
    keys = [page_key(source, project_name(p), kind) for source, p in pages for kind in ("", ".legacy", ".legacy-1.0")]
    keys += [
        archive_key(source, project_name(p), f"{p}-1.tar.gz", end) for source, p in files for end in ("", ".metadata")
    ]
    met = [each async for each in walk(Listed(sorted(keys)))]
    assert all(isinstance(each, Holding) for each in met)
    holdings = [each for each in met if isinstance(each, Holding)]
    assert [h.order for h in holdings] == sorted({h.order for h in holdings})
    assert {(h.source, h.project) for h in holdings if h.records} == pages
    assert {(h.source, h.project) for h in holdings if h.files} == files
    assert sorted(s.key for h in holdings for s in [*h.records, *h.files]) == sorted(keys)
    assert len(holdings) == len(pages | files)


async def test_keys_of_no_project_are_handed_out_by_themselves() -> None:
    strays = [
        "files/pypi/README",
        "files/pypi/00/00/requests/requests-1.tar.gz",  # another shard than its name has
        "files/pypi/ac/f3/Requests/requests-1.tar.gz",
        "meta/pypi/ac/f3/requests.txt",
        "meta/pypi/projects.txt",
        "meta/pypi/upstream.json",
    ]
    key = page_key("pypi", project_name("requests"))
    met = [each async for each in walk(Listed(sorted([*strays, key])))]
    assert sorted(each.key for each in met if isinstance(each, StoredKey)) == sorted(strays)
    assert [each.page_key for each in met if isinstance(each, Holding)] == [key]


async def test_a_listing_out_of_order_is_refused() -> None:
    keys = sorted(archive_key(SOURCE, project_name("p"), f"p-{n}.tar.gz") for n in range(3))
    random.Random(1).shuffle(keys)
    assert keys != sorted(keys)
    with pytest.raises(StoreFailure, match="order"):
        [each async for each in walk(Listed(keys))]


async def test_no_listing_is_read_further_than_it_must() -> None:
    """Millions of keys are walked in little memory."""
    told: Counter[str] = Counter()

    class Endless(MemoryStore):
        async def list(self, prefix: str) -> AsyncIterator[StoredKey]:
            for number in itertools.count(10_000):
                # In the order of keys whatever the shards of the names are: each source has one project.
                make = page_key if prefix == "meta/" else archive_key
                key = make(f"s{number}", project_name("p"), ".legacy" if make is page_key else "p-1.tar.gz")
                told[prefix] += 1
                yield StoredKey(key, 1, 0.0)

    walked = walk(Endless(1))
    for number in range(1, 100):
        holding = await anext(walked)
        assert isinstance(holding, Holding)
        assert len(holding.records) == len(holding.files) == 1
        assert max(told.values()) <= number + 2
    await walked.aclose()


async def test_a_real_folder_comes_in_the_same_order(tmp_path: Path) -> None:
    names = ["a", "a-b", "a0", "a-b-c", "ab", "0a", "b"]
    async with directory(tmp_path) as store:
        for name in names:
            await store.put(page_key(SOURCE, project_name(name)), b"x")
            await store.put(archive_key(SOURCE, project_name(name), f"{name}-1.tar.gz"), b"x")
        met = [each async for each in walk(store)]
    assert sorted(each.project for each in met if isinstance(each, Holding)) == sorted(names)
    assert all(isinstance(each, Holding) and each.files and each.records for each in met)
