"""The bound holds, and what was used last stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirror.lru import LRU


def test_what_was_not_asked_for_longest_goes_first() -> None:
    lru: LRU[str, int] = LRU(3)
    for key in "abc":
        lru.put(key, ord(key))
    assert lru.get("a") == ord("a")
    lru.put("d", 4)
    assert [lru.get(k) for k in "abcd"] == [97, None, 99, 4]


def test_a_value_heavier_than_the_limit_is_not_kept_and_its_old_one_is_gone() -> None:
    lru: LRU[str, int] = LRU(10)
    lru.put("a", 1, 5)
    lru.put("a", 2, 11)
    assert lru.get("a") is None
    assert (len(lru), lru.weight) == (0, 0)


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 12), st.sampled_from(["put", "get", "drop"]))),
)
def test_it_is_bounded_and_never_lies(steps: list[tuple[str, int, str]]) -> None:
    lru: LRU[str, int] = LRU(20)
    last: dict[str, tuple[int, int]] = {}
    for n, (key, weight, step) in enumerate(steps):
        match step:
            case "put":
                lru.put(key, n, weight)
                last[key] = n, weight
                assert lru.get(key) == n
            case "get":
                assert lru.get(key) in (None, last.get(key, (None, 0))[0])
            case _:
                lru.drop(key)
                assert lru.get(key) is None
        assert lru.weight <= 20
        assert lru.weight == sum(last[k][1] for k in "abcdef" if lru.get(k) is not None)
