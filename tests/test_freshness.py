"""Fresh, stale, expired, dead: the arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.freshness import Freshness, Lifetime

LIFE = Lifetime(ttl=600, stale=300, max_stale=3600, floor=30)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0, Freshness.FRESH),
        (599, Freshness.FRESH),
        (600, Freshness.STALE),
        (899, Freshness.STALE),
        (900, Freshness.EXPIRED),
        (4199, Freshness.EXPIRED),
        (4200, Freshness.DEAD),
    ],
)
def test_a_page_ages(age: float, expected: Freshness) -> None:
    assert LIFE.judge(age, None) is expected


def test_upstreams_max_age_shortens_but_never_lengthens() -> None:
    assert LIFE.judge(100, 60) is Freshness.STALE
    assert LIFE.judge(700, 86400) is Freshness.STALE


def test_without_a_limit_nothing_is_dead() -> None:
    assert Lifetime(600, 300).judge(1e9, None) is Freshness.EXPIRED


def test_c078_a_reload_is_honoured_beyond_the_floor_only() -> None:
    assert LIFE.judge(29, None, newest=True) is Freshness.FRESH
    assert LIFE.judge(31, None, newest=True) is Freshness.EXPIRED


def test_p10_a_clock_set_back_makes_a_page_stale_not_dead() -> None:
    assert LIFE.judge(-86400, None) is Freshness.STALE
    assert LIFE.remaining(-86400, None) == 0


def test_c074_the_remaining_freshness_counts_down() -> None:
    assert [LIFE.remaining(age, None) for age in (0, 0.5, 599.5, 600, 700)] == [600, 599, 0, 0, 0]


@given(st.floats(-1e9, 1e9), st.none() | st.integers(0, 10**9))
def test_what_is_not_fresh_is_never_given_a_lifetime(age: float, max_age: int | None) -> None:
    if LIFE.judge(age, max_age) is not Freshness.FRESH:
        assert LIFE.remaining(age, max_age) == 0
