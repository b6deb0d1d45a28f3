"""One store copied into another: to move, to back up, to restore; whatever interrupts it, it can be run again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

from mirror.errors import MirrorError, StoreFailure
from mirror.flight import Tasks
from mirror.maintenance.object_copy import Copied, ObjectCopy, Rule, Transfer
from mirror.maintenance.promises import Promises, read_promises
from mirror.maintenance.walk import Holding, in_order, project_of, walk
from mirror.maintenance.work import each, one_by_one
from mirror.model import File
from mirror.names import origin_key
from mirror.ports import Store, StoredKey
from mirror.repositories.envelope import DamagedDocument
from mirror.spool import Spools
from mirror.stores.keys import SIDECARS

PROJECTS_AT_ONCE: Final = 8
FILES_AT_ONCE: Final = 4
"""Of one project."""
GROUP: Final = 100
"""Objects that are of no project and are copied by one worker."""

_OTHERS: Final = {
    "local/": Rule.EQUAL,
    "local-projects/": Rule.EQUAL,
    "pins/": Rule.EQUAL,
    "access/": Rule.ABSENT,
}
"""What is copied after the projects of upstreams, in this order. Leases are not: they are of the store they lie in."""
_MAX_ORIGIN: Final = 64 * 1024

Pair = tuple[Holding | StoredKey, dict[str, int]]
"""What the source has of one project, and the sizes by key of what the target has of it."""
Phases = list[list[Transfer]]
"""Objects to be copied: all of one list before any of the next."""


class OtherIndex(MirrorError):
    """The two stores hold different indexes under one name; in one store they would answer for each other."""


class Copying:
    """One run. Nothing is ever deleted in the target.

    Archives go before the page that names them, hosted archives before their records: a copy that was cut short serves
    what it has. What is damaged in the source is not copied.
    """

    def __init__(
        self,
        source: Store,
        target: Store,
        spools: Spools,
        tasks: Tasks,
        *,
        checksum: bool = False,
        failed: Callable[[str, str], None] = lambda key, why: None,
        progress: Callable[[Copied], None] = lambda _: None,
    ) -> None:
        """`spools`: where large objects rest on their way, best on the target's own disk. `checksum`: compare
        bytes where equal sizes would do, and read back what was written. `failed` is told key and reason of each
        object that could not be copied."""
        self.result = Copied()
        self._source, self._target, self._tasks = source, target, tasks
        self._progress = progress
        self._objects = ObjectCopy(source, target, spools, self.result, checksum=checksum, failed=failed)

    async def run(self) -> Copied:
        """Raises `StoreFailure` if a store cannot be listed or the target not be written, and `OtherIndex`."""
        async with aclosing(self._pairs()) as pairs:
            await each(self._tasks, pairs, self._pair, at_once=PROJECTS_AT_ONCE)
        for prefix, rule in _OTHERS.items():
            async with aclosing(self._other_phases(prefix, rule)) as groups:
                await each(self._tasks, groups, self._copy, at_once=PROJECTS_AT_ONCE)
        return self.result

    async def _pairs(self) -> AsyncGenerator[Pair, None]:
        """The source's walk beside the target's; both are in the same order, so little of either is in memory."""
        confirmed: set[str] = set()
        async with aclosing(walk(self._source)) as ours, aclosing(walk(self._target)) as theirs:
            there = await _next_holding(theirs)
            async for item in ours:
                if not isinstance(item, Holding):
                    yield item, {}
                    continue
                if item.source not in confirmed:
                    await self._confirm(item.source)
                    confirmed.add(item.source)
                while there is not None and there.order < item.order:
                    there = await _next_holding(theirs)
                same = there is not None and there.order == item.order
                held = [*there.files, *there.records] if there is not None and same else []
                yield item, {stored.key: stored.size for stored in held}

    async def _confirm(self, source: str) -> None:
        """Copies the record of where an upstream is, before anything of it."""
        key = origin_key(source)
        ours, theirs = await self._source.read(key, _MAX_ORIGIN), await self._target.read(key, _MAX_ORIGIN)
        if ours is None or ours == theirs:
            return
        if theirs is not None:
            raise OtherIndex(
                f"The stores hold different indexes under the name {source} ({key} differs): copy one of them to a "
                "store of its own."
            )
        await self._target.put(key, ours)

    async def _pair(self, pair: Pair) -> None:
        item, there = pair
        if isinstance(item, Holding):
            await self._copy(await self._phases(item, there))
        elif item.key != origin_key(item.key.split("/")[1]):  # that one was copied first
            await self._copy([[Transfer(item, None, Rule.EQUAL)]])

    async def _phases(self, holding: Holding, there: dict[str, int]) -> Phases:
        try:
            key = holding.page_key
            page = await read_promises(self._source, key, holding.source, holding.project)
        except (DamagedDocument, StoreFailure):
            page = None  # told when the page itself is to be copied
        archives: list[Transfer] = []
        sidecars: list[Transfer] = []
        records: list[Transfer] = []
        for stored in holding.files:
            transfer = Transfer(stored, there.get(stored.key), Rule.IMMUTABLE, _promised(page, stored.key))
            (sidecars if stored.key.endswith(SIDECARS) and not transfer.files else archives).append(transfer)
        for stored in holding.records:
            rule = Rule.NEWER if stored.key == holding.page_key else Rule.EQUAL
            records.append(Transfer(stored, there.get(stored.key), rule))
        return [archives, sidecars, records]

    async def _other_phases(self, prefix: str, rule: Rule) -> AsyncGenerator[Phases, None]:
        """What is not of an upstream; of hosted projects the archives come before the records that commit them."""
        group: Phases = [[], []]
        project = None
        async for stored, there in _matched(self._source, self._target, prefix):
            # Never between an archive and its record: two groups are copied at the same time.
            full = project_of(stored.key) != project if prefix == "local/" else len(group[1]) >= GROUP
            if full:
                yield group
                group, project = [[], []], project_of(stored.key)
            is_record = prefix != "local/" or stored.key.endswith(".json")
            transfer = Transfer(stored, there, rule if is_record else Rule.IMMUTABLE)
            group[1 if is_record else 0].append(transfer)
        yield group

    async def _copy(self, phases: Phases) -> None:
        for transfers in phases:
            if transfers:
                await each(self._tasks, one_by_one(transfers), self._objects.copy, at_once=FILES_AT_ONCE)
        self._progress(self.result)


def _promised(page: Promises | None, key: str) -> list[File]:
    return [] if page is None else page.of(key.rpartition("/")[2])


async def _next_holding(items: AsyncIterator[Holding | StoredKey]) -> Holding | None:
    async for item in items:
        if isinstance(item, Holding):
            return item
    return None


async def _matched(source: Store, target: Store, prefix: str) -> AsyncGenerator[tuple[StoredKey, int | None], None]:
    """The source's objects below `prefix`, each with the size of the target's."""
    theirs = in_order(target.list(prefix), prefix)
    there = await anext(theirs, None)
    async for stored in in_order(source.list(prefix), prefix):
        while there is not None and there.key < stored.key:
            there = await anext(theirs, None)
        yield stored, there.size if there is not None and there.key == stored.key else None
