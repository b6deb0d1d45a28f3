"""The garbage collection: what nobody has used for long goes, while the mirror runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from mirror.flight import Tasks
from mirror.maintenance.decision import Judge, Line, Unit, line_for, units_of
from mirror.maintenance.evidence import Evidence, days_to_fold, fold, forget, read_evidence
from mirror.maintenance.last_use import day_name, day_of
from mirror.maintenance.lease import Lease, Refused
from mirror.maintenance.pins import pinned
from mirror.maintenance.walk import Holding, walk
from mirror.maintenance.work import each, one_by_one
from mirror.ports import Clock, Store, StoredKey

PROJECTS_AT_ONCE: Final = 8
DELETIONS_AT_ONCE: Final = 4
"""Of one project."""
RECORDS_KEPT: Final = 400
"""Days for which records of use are kept, so that a later run may look further back than this one."""
FRESH: Final = 2
"""Days of use, today's included, that no limit of size touches."""


@dataclass(slots=True)
class Collected:
    """What a run has deleted and kept; of a dry run what it would have."""

    deleted: int = 0
    deleted_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    pinned: int = 0
    """Objects that were kept although unused, because of a pin."""
    hosted: int = 0
    hosted_bytes: int = 0
    doubtful_days: list[str] = field(default_factory=list)
    """Days within the time of which the records of use are missing or damaged."""
    folded_days: list[str] = field(default_factory=list)

    @property
    def bytes_left(self) -> int:
        return self.kept_bytes + self.hosted_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is to be deleted."""

    unused_for: float
    """Seconds; at least a day."""
    max_size: int | None = None
    """Bytes that the store may hold; beyond that goes what was used longest ago."""
    dry_run: bool = False
    force: bool = False
    """Also where the records of use have gaps."""


class Collection:
    """One run. `deleted` is told of each object that goes, or in a dry run would go; in no particular order."""

    def __init__(
        self,
        store: Store,
        tasks: Tasks,
        clock: Clock,
        wishes: Wishes,
        *,
        deleted: Callable[[StoredKey], None] = lambda _: None,
        progress: Callable[[Collected], None] = lambda _: None,
    ) -> None:
        self.result = Collected()
        self._store, self._tasks, self._clock, self._wishes = store, tasks, clock, wishes
        self._deleted, self._progress = deleted, progress
        self._today = day_of(clock.now())
        self._cutoff = day_of(clock.now() - wishes.unused_for)
        self._lease: Lease | None = None

    async def run(self) -> Collected:
        """Raises `Refused`, `DamagedPin`, `StoreFailure`; what was deleted until then is gone."""
        async with AsyncExitStack() as stack:
            if not self._wishes.dry_run:
                self._lease = await stack.enter_async_context(Lease(self._store, self._clock))
            pins = await pinned(self._store)
            evidence = await read_evidence(self._store, self._cutoff, self._today)
            self.result.doubtful_days = [day_name(day) for day in evidence.doubtful]
            line = Line(self._cutoff)
            for prefix in ("local/", "local-projects/"):
                async for found in self._store.list(prefix):
                    self.result.hosted += 1
                    self.result.hosted_bytes += found.size
            if self._wishes.max_size is not None:
                line = await self._line(self._wishes.max_size, evidence, pins)
            doomed = self._doomed(Judge(line), evidence, pins)
            await each(self._tasks, doomed, self._delete, at_once=PROJECTS_AT_ONCE)
            await self._tidy()
        return self.result

    async def _units(self, evidence: Evidence, pins: frozenset[int]) -> AsyncGenerator[list[Unit], None]:
        async for item in walk(self._store):
            if self._lease is not None:
                await self._lease.keep()
            if isinstance(item, Holding):
                yield await asyncio.to_thread(units_of, item, evidence.last_use.day, pins)
            else:
                # Not of a project, or of no known form: nothing is deleted that is not understood.
                yield [Unit((item,), self._today, pinned=False)]

    async def _line(self, limit: int, evidence: Evidence, pins: frozenset[int]) -> Line:
        used: dict[int, int] = {}
        total = self.result.hosted_bytes
        async for units in self._units(evidence, pins):
            for unit in units:
                total += unit.size
                if not unit.pinned:
                    used[unit.last_use] = used.get(unit.last_use, 0) + unit.size
        line = line_for(
            used, total=total, limit=limit, unused_before=self._cutoff, always_kept_from=self._today - FRESH + 1
        )
        # Before anything is deleted, and not when the first doubtful one is met.
        going = [day for day in used if day < line.day or (day == line.day and line.size)]
        if going and evidence.doubts(min(going)) and not self._wishes.force:
            raise Refused(_doubt(evidence))
        return line

    async def _doomed(self, judge: Judge, evidence: Evidence, pins: frozenset[int]) -> AsyncGenerator[list[Unit], None]:
        """What is to be deleted, by project. The judge is asked here, in order, whatever the workers do."""
        result = self.result
        async for units in self._units(evidence, pins):
            doomed = []
            for unit in units:
                if judge.doomed(unit):
                    if evidence.doubts(unit.last_use) and not self._wishes.force:
                        raise Refused(_doubt(evidence))
                    doomed.append(unit)
                    result.deleted += len(unit.objects)
                    result.deleted_bytes += unit.size
                else:
                    result.kept += len(unit.objects)
                    result.kept_bytes += unit.size
                    result.pinned += len(unit.objects) if unit.pinned and unit.last_use < self._cutoff else 0
            self._progress(result)
            if doomed:
                yield doomed

    async def _delete(self, units: list[Unit]) -> None:
        archives = [unit for unit in units if not unit.is_page]
        await each(self._tasks, one_by_one(archives), self._delete_unit, at_once=DELETIONS_AT_ONCE)
        for page in units[len(archives) :]:
            await self._delete_unit(page)

    async def _delete_unit(self, unit: Unit) -> None:
        if self._lease is not None:
            await self._lease.keep()
        for stored in unit.objects:
            if not self._wishes.dry_run:
                await self._store.delete(stored.key)
            self._deleted(stored)

    async def _tidy(self) -> None:
        days = await days_to_fold(self._store, self._today)
        self.result.folded_days = [day_name(day) for day in days]
        if self._lease is None:
            return
        for day in days:
            await self._lease.keep()
            await fold(self._store, day)
        await forget(self._store, min(self._today - RECORDS_KEPT, self._cutoff))


def _doubt(evidence: Evidence) -> str:
    days = [day_name(day) for day in evidence.doubtful]
    shown = ", ".join(days[:5]) + (f" and {len(days) - 5} more" if len(days) > 5 else "")
    return (
        f"The records of use are missing or damaged for {len(days)} of the days that count ({shown}), so what looks "
        "unused may have been used. Nothing was deleted. If the mirror did not run on those days, or did not record "
        "use yet, --force goes on without them."
    )
