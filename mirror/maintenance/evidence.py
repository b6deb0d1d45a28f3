"""The records of use in a store: read for a garbage collection, and folded when they are old."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass
from typing import Final

from mirror.maintenance.last_use import (
    ACCESS,
    FOLDED,
    MAX_RECORD,
    DamagedRecord,
    LastUse,
    day_name,
    day_of_key,
    pack_record,
    unpack_record,
)
from mirror.ports import Store

OPEN_DAYS: Final = 2
"""Days during which a replica may still write its record: its clock may be wrong, its flush late."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the use of a store in the days from `since` on."""

    last_use: LastUse
    doubtful: tuple[int, ...]
    """Days that are over and of which no record is there, or a damaged one; ascending."""

    def doubts(self, last_use: int) -> bool:
        """Whether something last seen on that day may have been used since, on a day of which too little is known."""
        return bool(self.doubtful) and last_use < self.doubtful[-1]


async def read_evidence(store: Store, since: int, today: int) -> Evidence:
    """The records from the day `since` on. Raises `StoreFailure`."""
    records: dict[int, list[array[int]]] = {}
    damaged: set[int] = set()
    async for found in store.list(ACCESS):
        day = day_of_key(found.key)
        if day is None or day < since:
            continue
        blob = await store.read(found.key, MAX_RECORD)
        if blob is None:
            continue  # folded since it was listed, by a run that lost its lease
        try:
            # A clock that runs ahead keeps things no longer than one that is right.
            records.setdefault(min(day, today), []).append(await asyncio.to_thread(unpack_record, blob))
        except DamagedRecord:
            damaged.add(day)
    doubtful = {day for day in range(since, today) if day not in records} | damaged
    return Evidence(await asyncio.to_thread(LastUse, records), tuple(sorted(doubtful)))


async def days_to_fold(store: Store, today: int) -> list[int]:
    """The days that are over for good and have more than one record."""
    days: dict[int, int] = {}
    async for found in store.list(ACCESS):
        day = day_of_key(found.key)
        if day is not None and day < today - OPEN_DAYS:
            days[day] = days.get(day, 0) + (2 if not found.key.endswith(f"/{FOLDED}") else 1)
    return [day for day in sorted(days) if days[day] > 1]


async def fold(store: Store, day: int) -> None:
    """Makes one record of those of a day. A damaged one stays as it is, so that it goes on to raise doubts.

    Whatever interrupts it, no key is lost: what was taken in is removed last.
    """
    folded = f"{ACCESS}{day_name(day)}/{FOLDED}"
    taken_in: list[str] = []
    hashes: set[int] = set()
    async for found in store.list(f"{ACCESS}{day_name(day)}/"):
        blob = await store.read(found.key, MAX_RECORD) if day_of_key(found.key) == day else None
        if blob is None:
            continue
        try:
            hashes.update(await asyncio.to_thread(unpack_record, blob))
        except DamagedRecord:
            if found.key == folded:
                return  # it would be overwritten
            continue
        taken_in.append(found.key)
    if not [key for key in taken_in if key != folded]:
        return
    await store.put(folded, await asyncio.to_thread(pack_record, hashes))
    for key in taken_in:
        if key != folded:
            await store.delete(key)


async def forget(store: Store, before: int) -> int:
    """Deletes the records of the days before `before`; how many they were."""
    keys = [found.key async for found in store.list(ACCESS) if (day_of_key(found.key) or before) < before]
    for key in keys:
        await store.delete(key)
    return len(keys)
