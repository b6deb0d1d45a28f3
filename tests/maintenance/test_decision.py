"""What a garbage collection deletes, over any store and any use."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.maintenance.decision import Judge, Line, Unit, line_for, units_of
from mirror.maintenance.last_use import (
    DAY,
    DamagedRecord,
    LastUse,
    day_name,
    day_of_key,
    pack_record,
    unpack_record,
)
from mirror.maintenance.walk import Holding
from mirror.names import project_name
from mirror.ports import StoredKey
from mirror.stores.keys import access_hash

P = project_name("p")
TODAY = 1000
DAYS = st.integers(TODAY - 20, TODAY)

Facts = tuple[list[tuple[str, int, int]], dict[str, int], set[str]]


@st.composite
def projects(draw: st.DrawFn) -> Facts:
    """Objects (name, size, day written), when each was read, and which are pinned."""
    names = draw(st.lists(st.sampled_from([f"p-{n}.tar.gz" for n in range(6)]), unique=True))
    keys = [f"files/s/00/00/p/{n}" for n in names]
    keys += [f"{key}{suffix}" for key in keys for suffix in (".metadata", ".provenance") if draw(st.booleans())]
    page = Holding("s", P).page_key
    keys += [page.replace(".json", f"{kind}.json") for kind in ("", ".legacy", ".legacy-1.0") if draw(st.booleans())]
    objects = [(key, draw(st.integers(0, 50)), draw(DAYS)) for key in keys]
    some = st.sets(st.sampled_from(keys)) if keys else st.just(set())
    read = {key: draw(DAYS) for key in draw(some)}
    return objects, read, draw(some)


def units(facts: Facts) -> list[Unit]:
    objects, read, pins = facts
    stored = [StoredKey(key, size, day * DAY + 5.0) for key, size, day in sorted(objects)]
    holding = Holding("s", P)
    holding.records = [each for each in stored if each.key.startswith("meta/")]
    holding.files = [each for each in stored if each.key.startswith("files/")]
    hashes: dict[int, int] = {}
    for key, day in read.items():
        hashes[access_hash(key)] = max(day, hashes.get(access_hash(key), 0))
    return units_of(holding, lambda key_hash: hashes.get(key_hash, 0), frozenset(map(access_hash, pins)))


@settings(deadline=None, max_examples=300)
@given(projects(), DAYS, st.integers(0, 200))
def test_nothing_goes_that_was_used_or_pinned_and_no_page_before_its_archives(
    facts: Facts, day: int, budget: int
) -> None:
    objects, read, pins = facts
    made = units(facts)
    assert sorted(s.key for unit in made for s in unit.objects) == sorted(key for key, _, _ in objects)
    judge = Judge(Line(day, budget))
    judged = [(unit, judge.doomed(unit)) for unit in made]
    gone = {stored.key for unit, doomed in judged if doomed for stored in unit.objects}
    for key, _, written in objects:
        if written > day or read.get(key, 0) > day or key in pins:
            assert key not in gone
    if any(key.startswith("meta/") for key in gone):
        assert {key for key, _, _ in objects} == gone, "a page is the last to go"
    for unit in made:
        first = unit.objects[0].key
        if unit.is_page:
            assert unit is made[-1]
            assert unit.objects[-1].key == Holding("s", P).page_key or Holding("s", P).page_key not in {
                s.key for s in unit.objects
            }
        elif any(not s.key.endswith((".metadata", ".provenance")) for s in unit.objects):
            assert not first.endswith((".metadata", ".provenance")), "an archive goes before its sidecars"


@settings(deadline=None, max_examples=300)
@given(st.lists(projects(), max_size=4), st.integers(0, 600), DAYS)
def test_the_line_leaves_what_fits_and_takes_no_more_than_it_must(stock: list[Facts], limit: int, cutoff: int) -> None:
    every = [unit for facts in stock for unit in units(facts)]
    total = sum(unit.size for unit in every)
    used: dict[int, int] = {}
    for unit in every:
        if not unit.pinned:
            used[unit.last_use] = used.get(unit.last_use, 0) + unit.size
    kept_from = TODAY - 1
    line = line_for(used, total=total, limit=limit, unused_before=cutoff, always_kept_from=kept_from)
    judge = Judge(line)
    gone = [unit for unit in every if judge.doomed(unit)]
    stay = [unit for unit in every if unit not in gone]
    assert not [unit for unit in stay if not unit.pinned and unit.last_use < cutoff]
    left = total - sum(unit.size for unit in gone)
    beyond = [unit for unit in gone if unit.last_use >= cutoff]
    assert all(unit.last_use < kept_from for unit in beyond)
    if left > limit:
        assert not [unit for unit in stay if not unit.pinned and unit.last_use < kept_from and unit.size]
    if beyond:
        newest = max(unit.last_use for unit in beyond)
        assert not [unit for unit in stay if not unit.pinned and unit.last_use < newest], "longest unused first"
        last = [unit for unit in beyond if unit.last_use == newest and unit.size]
        assert not last or left + last[-1].size > limit, "without the last one it would not have fitted"


@given(st.dictionaries(st.integers(1, 40), st.lists(st.sets(st.integers(0, 2**64 - 1) | st.integers(0, 9)))))
def test_last_use_is_the_newest_day_of_any_record(days: dict[int, list[set[int]]]) -> None:
    records = {day: [unpack_record(pack_record(hashes)) for hashes in sets] for day, sets in days.items()}
    last_use = LastUse(records)
    expected: dict[int, int] = {}
    for day in sorted(days):
        for hashes in days[day]:
            expected.update(dict.fromkeys(hashes, day))
    assert len(last_use) == len(expected)
    for key_hash in [*expected, 0, 5, 2**64 - 1]:
        assert last_use.day(key_hash) == expected.get(key_hash, 0)


@given(st.sets(st.integers(0, 2**64 - 1)))
def test_a_record_comes_back_sorted(hashes: set[int]) -> None:
    assert unpack_record(pack_record(list(hashes))) == array("Q", sorted(hashes))


@pytest.mark.parametrize("blob", [b"1234567", bytes(16), pack_record([1, 2])[::-1], pack_record([1, 2]) + b"\0"])
def test_a_damaged_record_is_known_as_such(blob: bytes) -> None:
    with pytest.raises(DamagedRecord):
        unpack_record(blob)


def test_days_have_names() -> None:
    assert day_name(0) == "1970-01-01"
    assert day_of_key(f"access/{day_name(20_000)}/replica-1.bin") == 20_000
    for key in ("access/2026-02-30/a.bin", "access/2026-01-01/a.txt", "access/2026-01-01/b/a.bin", "files/a"):
        assert day_of_key(key) is None
