"""The pages that are held here: parsed in memory, else as documents in the store."""

from __future__ import annotations

from typing import Final

import structlog

from mirror.counters import Counters
from mirror.errors import UpstreamMisbehaved
from mirror.flight import Flights, Tasks
from mirror.lru import LRU
from mirror.model import Origin, PageDocument
from mirror.names import ProjectName
from mirror.ports import Clock, Store
from mirror.repositories.entries import Entry, is_older, parsed, says_the_same
from mirror.repositories.stored_pages import StoredPages
from mirror.simple.links import SourcePaths

log = structlog.get_logger()


class Shelf:
    """The pages of one upstream, shared with every replica on the same store."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        tasks: Tasks,
        counters: Counters,
        paths: SourcePaths,
        *,
        memory: int,
        only_copy: bool,
    ) -> None:
        """`memory`: bytes of parsed pages. `only_copy`: nobody else can be asked, so a store that fails is a failure."""
        self.stored: Final = StoredPages(paths.name, store, tasks, counters)
        self._clock, self._counters, self._paths, self._only_copy = clock, counters, paths, only_copy
        self._memory: LRU[ProjectName, Entry] = LRU(memory)
        self._loads: Flights[ProjectName, Entry | None] = Flights(tasks, "load page")

    async def recall(self, project: ProjectName) -> tuple[Entry | None, Origin]:
        """The page held, however old, and where it was. Raises `StoreFailure` only if that is the only copy."""
        entry = self._memory.get(project)
        if entry is not None:
            return entry, Origin.MEMORY
        return await self._loads.run(project, lambda: self._load(project)), Origin.STORE

    def in_memory(self, project: ProjectName) -> Entry | None:
        """The page, if it need not be read."""
        return self._memory.get(project)

    def remember(self, project: ProjectName, entry: Entry) -> Entry:
        """From now on `entry` is the page; returns it."""
        self._memory.put(project, entry, entry.weight)
        return entry

    async def parsed(self, project: ProjectName, document: PageDocument, known: Entry | None) -> tuple[Entry, int]:
        """As `entries.parsed`, held to what `known` promised."""
        return await parsed(document, project, self._paths, known.page if known else None)

    def taught(self, project: ProjectName, known: Entry) -> Entry:
        """`known` as it stands in memory now: while upstream was asked, something may have been learnt of its files."""
        now = self._memory.get(project)
        return now if now is not None and now.fingerprint == known.fingerprint else known

    async def shared(self, project: ProjectName, known: Entry) -> Entry:
        """`known`, or what another replica has stored since: then upstream need not be asked for it again."""
        news = await self.stored.news(project)
        known = self.taught(project, known)
        known.checked_at = self._clock.now()
        if news is None:
            return known
        if is_older(news.serial, known.page.serial):
            self.stored.distrust(project)
            return known
        if news.fetched_at < known.confirmed_at and not await says_the_same(news, known):
            return known  # upstream was asked later here than there, and where it gives no serial, later is newer
        try:
            entry, changed = await self.parsed(project, news, known)
        except UpstreamMisbehaved as e:
            log.warning("stored page not understood", project=project, reason=str(e))
            return known
        if is_older(entry.page.serial, known.page.serial):
            self.stored.distrust(project)
            return known
        self.report(project, entry, changed)
        entry.confirmed_at = max(news.fetched_at, known.confirmed_at)
        entry.checked_at = known.checked_at
        return self.remember(project, entry)

    def report(self, project: ProjectName, entry: Entry, changed: int) -> None:
        """Counts and logs what is wrong with a page that is new here; `changed` is what `parsed` said."""
        if changed:
            self._counters.count("upstream_files_changed", changed)
            log.error("files changed their digest upstream", project=project, count=changed)
        if entry.page.dropped:
            self._counters.count("upstream_entries_dropped", entry.page.dropped)
            log.warning("entries of an upstream page dropped", project=project, count=entry.page.dropped)

    async def _load(self, project: ProjectName) -> Entry | None:
        document = await self.stored.read(project, only_copy=self._only_copy)
        if document is None:
            return None
        try:
            entry, _ = await self.parsed(project, document, None)
        except UpstreamMisbehaved as e:
            # Stored by a version that understood it. Upstream is asked again.
            log.warning("stored page not understood", project=project, reason=str(e))
            return None
        entry.checked_at = self._clock.now()
        # a refresh may have been quicker, and what it brought is newer
        return self._memory.get(project) or self.remember(project, entry)
