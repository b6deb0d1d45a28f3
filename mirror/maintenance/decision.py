"""What a garbage collection deletes: arithmetic over days and bytes, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mirror.maintenance.last_use import day_of
from mirror.maintenance.walk import Holding, archive_of
from mirror.ports import StoredKey
from mirror.stores.keys import access_hash


@dataclass(frozen=True, slots=True)
class Unit:
    """Objects that are kept or deleted together, in the order in which they are deleted."""

    objects: tuple[StoredKey, ...]
    last_use: int
    """The day on which one of them was last read or written."""
    pinned: bool
    is_page: bool = False

    @property
    def size(self) -> int:
        return sum(stored.size for stored in self.objects)


@dataclass(frozen=True, slots=True)
class Line:
    """Where a collection stops: units last used before `day` go, and of those of `day` itself the first `size` bytes."""

    day: int
    size: int = 0


def units_of(holding: Holding, last_read: Callable[[int], int], pins: frozenset[int]) -> list[Unit]:
    """The units of a project: each archive with its sidecars, and at the end its page with all other records.

    The page was last used when any of its project was, and is pinned if any of it is: so it goes with the last archive or
    later, and no archive is left that no page names. It comes after them, so that what is interrupted leaves
    a page that names archives which are not held, as pages do. An archive goes before its sidecars, for a page may
    promise those of archives that are held.
    """
    groups: dict[str, list[StoredKey]] = {}
    for stored in holding.files:
        groups.setdefault(archive_of(stored.key), []).append(stored)
    units = [_unit(sorted(group, key=lambda stored: stored.key), last_read, pins) for group in groups.values()]
    if holding.records:
        records = sorted(holding.records, key=lambda stored: stored.key == holding.page_key)
        page = _unit(records, last_read, pins, is_page=True)
        last_use = max([page.last_use, *(unit.last_use for unit in units)])
        kept = page.pinned or any(unit.pinned for unit in units)
        units.append(Unit(page.objects, last_use, kept, is_page=True))
    return units


def _unit(
    objects: list[StoredKey], last_read: Callable[[int], int], pins: frozenset[int], *, is_page: bool = False
) -> Unit:
    hashes = {access_hash(stored.key) for stored in objects}
    days = [day_of(stored.modified) for stored in objects] + [last_read(key_hash) for key_hash in hashes]
    return Unit(tuple(objects), max(days), not hashes.isdisjoint(pins), is_page)


def line_for(used: Mapping[int, int], *, total: int, limit: int, unused_before: int, always_kept_from: int) -> Line:
    """The line that leaves at most `limit` of `total` bytes, deleting what was used longest ago.

    `used`: bytes of units that may go, by day of last use. All those last used before `unused_before` go in any case;
    those used on `always_kept_from` or later never do, so it may be that no line suffices.
    """
    surplus = total - limit
    day = unused_before
    for each in sorted(used):
        if each < unused_before:
            surplus -= used[each]
        elif surplus > 0 and each < always_kept_from:
            if surplus < used[each]:
                return Line(each, surplus)
            surplus -= used[each]
            day = each + 1
    return Line(day)


class Judge:
    """Applies a line to the units of a store, in the order of its listing."""

    def __init__(self, line: Line) -> None:
        self._day, self._left = line.day, line.size

    def doomed(self, unit: Unit) -> bool:
        """Whether the unit is to be deleted; asked once for each, projects and units in order."""
        if unit.pinned or unit.last_use > self._day:
            return False
        if unit.last_use < self._day:
            return True
        if self._left <= 0:
            return False
        self._left -= unit.size
        return True
