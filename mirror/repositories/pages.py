"""Project pages of one upstream: memory, then the store, then upstream, by freshness."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from mirror.counters import Counters
from mirror.errors import NoSuchProject, NotHeld, UpstreamFailure, UpstreamMisbehaved
from mirror.flight import Flights, Tasks, landed
from mirror.freshness import Freshness, Lifetime
from mirror.lru import LRU
from mirror.model import (
    NO_VALIDATOR,
    Learned,
    Origin,
    PageAnswer,
    PageDocument,
)
from mirror.names import ProjectName
from mirror.ports import Clock, Store, Upstream
from mirror.repositories.entries import Entry, KnownFiles, is_older, merged, parsed, says_the_same
from mirror.repositories.stored_pages import StoredPages
from mirror.simple.links import SourcePaths

SOFT_TIMEOUT: Final = 3.0
"""Seconds that a client waits for upstream while an old copy lies ready."""
REMEMBERED_MISSING: Final = 10_000
"""Names of which it is remembered that upstream does not know them."""
TOUCH_EVERY: Final = 3600.0
"""Seconds after which a confirmation by upstream is written to the store, too."""

log = structlog.get_logger()


class Pages:
    """Answers project pages; the one place that turns conditional answers into certain ones."""

    def __init__(
        self,
        upstream: Upstream,
        store: Store,
        clock: Clock,
        tasks: Tasks,
        counters: Counters,
        lifetime: Lifetime,
        paths: SourcePaths,
        *,
        offline: bool,
        missing_ttl: float,
        memory: int,
    ) -> None:
        self._upstream, self._clock, self._counters = upstream, clock, counters
        self._stored = StoredPages(paths.name, store, tasks, counters)
        self._lifetime, self._paths, self._offline, self._missing_ttl = lifetime, paths, offline, missing_ttl
        self._memory: LRU[ProjectName, Entry] = LRU(memory)
        self._missing: LRU[ProjectName, float] = LRU(REMEMBERED_MISSING)
        self._loads: Flights[ProjectName, Entry | None] = Flights(tasks, "load page")
        self._refreshes: Flights[ProjectName, Entry] = Flights(tasks, "refresh page")
        self._lessons: Flights[ProjectName, None] = Flights(tasks, "learn")
        self._unlearned: dict[ProjectName, dict[str, Learned]] = {}

    async def answer(self, project: ProjectName, *, newest: bool = False) -> PageAnswer:
        """As `Repository.project_page`."""
        self._check_missing(project)
        entry, origin = await self._recall(project)
        if entry is None:
            return self._answer(await self._first(project), Origin.UPSTREAM)
        if self._offline:
            return self._answer(entry, origin)
        return await self._revalidated(project, entry, origin, newest=newest)

    async def held(self, project: ProjectName) -> KnownFiles | None:
        """The copy held here, however old: what a file is does not change with the age of its page."""
        entry, _ = await self._recall(project)
        return entry.files if entry else None

    async def confirmed(self, project: ProjectName) -> KnownFiles:
        """As upstream has it, or had it a moment ago, or as it is held if there is nobody to ask.

        What is not on it does not exist. Raises `NoSuchProject`, `NotHeld`, and `UpstreamFailure` if upstream
        cannot confirm it.
        """
        self._check_missing(project)
        entry, _ = await self._recall(project)
        if entry is None:
            entry = await self._first(project)
        elif not self._offline and self._judge(entry, newest=True) is Freshness.EXPIRED:
            entry = await self._refreshes.run(project, lambda: self._refresh(project, entry))
        return entry.files

    def _check_missing(self, project: ProjectName) -> None:
        until = self._missing.get(project)
        if until is not None:
            if self._clock.monotonic() < until:
                raise NoSuchProject(project)
            self._missing.drop(project)

    async def _recall(self, project: ProjectName) -> tuple[Entry | None, Origin]:
        entry = self._memory.get(project)
        if entry is not None:
            return entry, Origin.MEMORY
        return await self._loads.run(project, lambda: self._load(project)), Origin.STORE

    async def _first(self, project: ProjectName) -> Entry:
        if self._offline:
            raise NotHeld(project)
        return await self._refreshes.run(project, lambda: self._refresh(project, None))

    async def _revalidated(self, project: ProjectName, entry: Entry, origin: Origin, *, newest: bool) -> PageAnswer:
        freshness = self._judge(entry, newest=newest)
        if freshness is Freshness.FRESH:
            return self._answer(entry, origin)
        refresh = self._refreshes.launch(project, lambda: self._refresh(project, entry))
        if freshness is Freshness.STALE:
            return self._answer(entry, origin)
        try:
            async with asyncio.timeout(None if freshness is Freshness.DEAD else SOFT_TIMEOUT):
                return self._answer(await landed(refresh), Origin.UPSTREAM)
        except (UpstreamFailure, TimeoutError) as e:
            if freshness is Freshness.DEAD:
                raise
            log.warning("page not confirmed, serving the copy held", project=project, reason=str(e) or "too slow")
            return self._answer(entry, origin)

    def _judge(self, entry: Entry, *, newest: bool = False) -> Freshness:
        return self._lifetime.judge(self._clock.now() - entry.confirmed_at, entry.max_age, newest=newest)

    def _answer(self, entry: Entry, origin: Origin) -> PageAnswer:
        # A page that upstream has just confirmed is not stale, even where it has no lifetime at all (max-age=0).
        confirmed = self._offline or origin is Origin.UPSTREAM
        stale = not confirmed and self._judge(entry) is not Freshness.FRESH
        remaining = self._lifetime.remaining(self._clock.now() - entry.confirmed_at, entry.max_age)
        self._counters.count("pages_stale" if stale else f"pages_{origin.value}")
        return PageAnswer(entry.page, origin, remaining, stale)

    # --- store ---------------------------------------------------------------------------------

    async def _load(self, project: ProjectName) -> Entry | None:
        document = await self._stored.read(project, only_copy=self._offline)
        if document is None:
            return None
        try:
            entry, _ = await self._parsed(project, document, None)
        except UpstreamMisbehaved as e:
            # Stored by a version that understood it. Upstream is asked again.
            log.warning("stored page not understood", project=project, reason=str(e))
            return None
        # a refresh may have been quicker, and what it brought is newer
        return self._memory.get(project) or self._remember(project, entry)

    # --- upstream ------------------------------------------------------------------------------

    async def _refresh(self, project: ProjectName, known: Entry | None) -> Entry:
        validator = NO_VALIDATOR if known is None or self._stored.refused(project) else known.facts.validator
        try:
            got = await self._upstream.fetch_page(project, validator)
        except NoSuchProject:
            self._missing.put(project, self._clock.monotonic() + self._missing_ttl)
            raise
        if isinstance(got, PageDocument):
            return await self._replace(project, known, got)
        if known is None:
            raise UpstreamMisbehaved(self._upstream.name, "it answered 304 although nothing is held here")
        return self._confirm(project, self._taught(project, known), got.max_age)

    def _taught(self, project: ProjectName, known: Entry) -> Entry:
        """`known` as it stands in memory now: while upstream was asked, something may have been learnt of its files."""
        now = self._memory.get(project)
        return now if now is not None and now.fingerprint == known.fingerprint else known

    async def _replace(self, project: ProjectName, known: Entry | None, got: PageDocument) -> Entry:
        if known is not None and is_older(got.serial, known.page.serial):
            return self._refuse_older(project, known, got)
        if known is not None and not self._stored.refused(project) and await says_the_same(got, known):
            known = self._taught(project, known)
            known.facts = msgspec.structs.replace(known.facts, validator=got.validator, serial=got.serial)
            return self._confirm(project, known, got.max_age)
        while True:
            before = None if known is None else self._taught(project, known)
            if before is not None:
                got = msgspec.structs.replace(got, learned=before.facts.learned, withdrawn=before.facts.withdrawn)
            try:
                entry, changed = await self._parsed(project, got, before)
            except UpstreamMisbehaved:
                self._counters.count("upstream_pages_unusable")
                raise
            if known is None or self._taught(project, known) is before:
                break  # nothing was learnt while the page was parsed
        if before is not None and is_older(entry.page.serial, before.page.serial):
            return self._refuse_older(project, before, got)
        if changed:
            self._counters.count("upstream_files_changed", changed)
            log.error("files changed their digest upstream", project=project, count=changed)
        if entry.page.dropped:
            self._counters.count("upstream_entries_dropped", entry.page.dropped)
            log.warning("entries of an upstream page dropped", project=project, count=entry.page.dropped)
        self._stored.write(project, msgspec.structs.replace(entry.facts, body=got.body))
        return self._remember(project, entry)

    def _refuse_older(self, project: ProjectName, known: Entry, got: PageDocument) -> Entry:
        self._counters.count("upstream_older_serial")
        log.warning("upstream page is older than the copy held", project=project, serial=got.serial)
        return self._confirm(project, self._taught(project, known), got.max_age)

    async def _parsed(self, project: ProjectName, document: PageDocument, known: Entry | None) -> tuple[Entry, int]:
        return await parsed(document, project, self._paths, known.page if known else None)

    def _confirm(self, project: ProjectName, entry: Entry, max_age: int | None) -> Entry:
        entry.confirmed_at = self._clock.now()
        entry.max_age = max_age
        if entry.confirmed_at - entry.written_at > TOUCH_EVERY:
            self._learn_all(project, {})
        return self._remember(project, entry)

    def _remember(self, project: ProjectName, entry: Entry) -> Entry:
        self._memory.put(project, entry, entry.weight)
        return entry

    async def settle(self, project: ProjectName) -> None:
        """Waits until the page is in the store as it is in memory, unless the store refuses it."""
        await self._stored.settle(project)

    # --- what this mirror finds out by itself ----------------------------------------------------

    def learn(self, project: ProjectName, filename: str, lesson: Learned) -> None:
        """Adds a fact to a page, in memory and in the store, behind; many at once cost one new page."""
        self._learn_all(project, {filename: lesson})

    def _learn_all(self, project: ProjectName, lessons: dict[str, Learned]) -> None:
        pending = self._unlearned.setdefault(project, {})
        for filename, lesson in lessons.items():
            pending[filename] = merged(pending.get(filename), lesson)
        self._lessons.launch(project, lambda: self._apply(project))

    async def _apply(self, project: ProjectName) -> None:
        while (lessons := self._unlearned.pop(project, None)) is not None:
            before, _ = await self._recall(project)
            document = await self._stored.read(project)
            if before is None or document is None:
                continue  # the page could not be kept; it is learnt again when somebody asks again
            learned = dict(before.facts.learned)
            for filename, lesson in lessons.items():
                learned[filename] = merged(learned.get(filename), lesson)
            if learned == document.learned and before.confirmed_at - document.fetched_at <= TOUCH_EVERY:
                continue
            document = msgspec.structs.replace(
                document,
                learned=learned,
                fetched_at=before.confirmed_at,
                max_age=before.max_age,
                validator=before.facts.validator,
            )
            entry, _ = await self._parsed(project, document, None)
            now = self._memory.get(project)
            if now is not None and now is not before:
                # the page was replaced meanwhile: once more, on the new one, and what came later on top
                later = self._unlearned.pop(project, {})
                self._learn_all(project, lessons)
                self._learn_all(project, later)
            elif entry.fingerprint == before.fingerprint:  # else the store refused the page that is in force
                entry.confirmed_at, entry.max_age = before.confirmed_at, before.max_age
                self._stored.write(project, document)
                self._remember(project, entry)

    async def lesson(self, project: ProjectName, filename: str) -> Learned | None:
        """What this mirror found out about a file by itself."""
        entry, _ = await self._recall(project)
        return entry.facts.learned.get(filename) if entry else None
