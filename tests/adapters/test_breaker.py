"""The breaker opens, probes and closes by the clock alone."""

from __future__ import annotations

from mirror.adapters.breaker import Breaker
from mirror.testing import MovableClock


def _breaker(clock: MovableClock, chance: float = 0.0) -> Breaker:
    return Breaker(clock, threshold=3, first_pause=5, longest_pause=12, chance=lambda: chance)


def _fail(breaker: Breaker, times: int = 1, clock: MovableClock | None = None) -> list[bool]:
    """With a clock the failures are half a second apart, so that three of them last long enough."""
    opened = []
    for n in range(times):
        if clock is not None and n:
            clock.advance(0.5)
        breaker.begin()
        opened.append(breaker.failed())
    return opened


def test_opens_after_failures_in_a_row() -> None:
    clock = MovableClock()
    breaker = _breaker(clock)
    assert _fail(breaker, 3, clock) == [False, False, True]
    assert breaker.refusal == 5
    assert breaker.is_open


def test_failures_at_once_are_a_hiccup_and_going_on_they_are_an_outage() -> None:
    clock = MovableClock()
    breaker = _breaker(clock)
    assert not any(_fail(breaker, 50))
    clock.advance(1)
    assert _fail(breaker) == [True]


def test_a_success_starts_the_count_anew() -> None:
    breaker = _breaker(MovableClock())
    _fail(breaker, 2)
    breaker.begin()
    breaker.succeeded()
    assert _fail(breaker, 2) == [False, False]
    assert breaker.refusal == 0


def test_lets_one_probe_through_and_closes_when_it_succeeds() -> None:
    clock = MovableClock()
    breaker = _breaker(clock)
    _fail(breaker, 3, clock)
    clock.advance(5)
    assert breaker.refusal == 0
    breaker.begin()
    assert breaker.refusal > 0
    breaker.succeeded()
    assert breaker.refusal == 0
    assert not breaker.is_open


def test_pauses_double_up_to_the_longest_and_start_anew_after_a_success() -> None:
    clock = MovableClock()
    breaker = _breaker(clock)
    _fail(breaker, 3, clock)
    pauses = []
    for _ in range(4):
        pauses.append(breaker.refusal)
        clock.advance(breaker.refusal)
        assert _fail(breaker) == [True]
    assert pauses == [5, 10, 12, 12]
    clock.advance(breaker.refusal)
    breaker.begin()
    breaker.succeeded()
    _fail(breaker, 3, clock)
    assert breaker.refusal == 5


def test_an_abandoned_probe_leaves_room_for_the_next() -> None:
    clock = MovableClock()
    breaker = _breaker(clock)
    _fail(breaker, 3, clock)
    clock.advance(5)
    breaker.begin()
    breaker.abandoned()
    assert breaker.refusal == 0


def test_late_failures_of_earlier_calls_do_not_lengthen_the_pause() -> None:
    clock = MovableClock()
    breaker = _breaker(clock)
    for _ in range(5):
        breaker.begin()
    clock.advance(1)
    assert [breaker.failed() for _ in range(5)] == [False, False, True, False, False]
    assert breaker.refusal == 5


def test_chance_shortens_pauses_by_at_most_a_fifth() -> None:
    clock = MovableClock()
    breaker = _breaker(clock, chance=1.0)
    _fail(breaker, 3, clock)
    assert breaker.refusal == 4
