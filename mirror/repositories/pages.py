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
from mirror.repositories.entries import Entry, KnownFiles, is_older, says_the_same
from mirror.repositories.lessons import TOUCH_EVERY, Lessons
from mirror.repositories.shelf import Shelf
from mirror.simple.links import SourcePaths

SOFT_TIMEOUT: Final = 3.0
"""Seconds that a client waits for upstream while an old copy lies ready."""
REMEMBERED_MISSING: Final = 10_000
"""Names of which it is remembered that upstream does not know them."""

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
        self._lifetime, self._offline, self._missing_ttl = lifetime, offline, missing_ttl
        self._shelf = Shelf(store, clock, tasks, counters, paths, memory=memory, only_copy=offline)
        self._lessons = Lessons(self._shelf, tasks)
        self._missing: LRU[ProjectName, float] = LRU(REMEMBERED_MISSING)
        self._refreshes: Flights[ProjectName, Entry] = Flights(tasks, "refresh page")

    async def answer(self, project: ProjectName, *, newest: bool = False) -> PageAnswer:
        """As `Repository.project_page`."""
        self._check_missing(project)
        entry, origin = await self._shelf.recall(project)
        if entry is None:
            return self._answer(await self._first(project), Origin.UPSTREAM)
        return await self._revalidated(project, entry, origin, newest=newest)

    async def held(self, project: ProjectName) -> KnownFiles | None:
        """The copy held here, however old: what a file is does not change with the age of its page."""
        entry, _ = await self._shelf.recall(project)
        return entry.files if entry else None

    async def confirmed(self, project: ProjectName) -> KnownFiles:
        """As upstream has it, or had it a moment ago, or as it is held if there is nobody to ask.

        What is not on it does not exist. Raises `NoSuchProject`, `NotHeld`, and `UpstreamFailure` if upstream
        cannot confirm it.
        """
        self._check_missing(project)
        entry, _ = await self._shelf.recall(project)
        if entry is None:
            entry = await self._first(project)
        elif not self._offline and self._judge(entry, newest=True) is Freshness.EXPIRED:
            entry = await self._refreshes.run(project, lambda: self._refresh(project, entry, newest=True))
        return entry.files

    def _check_missing(self, project: ProjectName) -> None:
        until = self._missing.get(project)
        if until is not None:
            if self._clock.monotonic() < until:
                raise NoSuchProject(project)
            self._missing.drop(project)

    async def _first(self, project: ProjectName) -> Entry:
        if self._offline:
            raise NotHeld(project)
        return await self._refreshes.run(project, lambda: self._refresh(project, None))

    async def _revalidated(self, project: ProjectName, entry: Entry, origin: Origin, *, newest: bool) -> PageAnswer:
        freshness = self._judge(entry, newest=newest)
        if freshness is Freshness.FRESH:
            return self._answer(entry, origin)
        refresh = self._refreshes.launch(project, lambda: self._refresh(project, entry, newest=newest))
        if freshness is Freshness.STALE:
            return self._answer(entry, origin)
        try:
            async with asyncio.timeout(None if freshness is Freshness.DEAD else SOFT_TIMEOUT):
                return self._answer(await landed(refresh), Origin.STORE if self._offline else Origin.UPSTREAM)
        except (UpstreamFailure, TimeoutError) as e:
            if freshness is Freshness.DEAD:
                raise
            log.warning("page not confirmed, serving the copy held", project=project, reason=str(e) or "too slow")
            return self._answer(self._shelf.in_memory(project) or entry, origin)  # another replica may have a newer one

    def _judge(self, entry: Entry, *, newest: bool = False) -> Freshness:
        """Offline the store is all that there is to ask, and other replicas may write to it."""
        if self._offline:
            return self._lifetime.judge(self._clock.now() - entry.checked_at, None, newest=newest)
        return self._lifetime.judge(self._clock.now() - entry.confirmed_at, entry.max_age, newest=newest)

    def _answer(self, entry: Entry, origin: Origin) -> PageAnswer:
        # A page that upstream has just confirmed is not stale, even where it has no lifetime at all (max-age=0).
        confirmed = self._offline or origin is Origin.UPSTREAM
        stale = not confirmed and self._judge(entry) is not Freshness.FRESH
        remaining = self._lifetime.remaining(self._clock.now() - entry.confirmed_at, entry.max_age)
        self._counters.count("pages_stale" if stale else f"pages_{origin.value}")
        return PageAnswer(entry.page, origin, remaining, stale)

    # --- upstream ------------------------------------------------------------------------------

    async def _refresh(self, project: ProjectName, known: Entry | None, *, newest: bool = False) -> Entry:
        if known is not None:
            confirmed_here = known.confirmed_at
            known = await self._shelf.shared(project, known)
            confirmed_there = known.confirmed_at > confirmed_here
            if self._offline or (confirmed_there and self._judge(known, newest=newest) is Freshness.FRESH):
                return known
        validator = NO_VALIDATOR if known is None or self._shelf.stored.refused(project) else known.facts.validator
        try:
            got = await self._upstream.fetch_page(project, validator)
        except NoSuchProject:
            self._missing.put(project, self._clock.monotonic() + self._missing_ttl)
            raise
        if isinstance(got, PageDocument):
            return await self._replace(project, known, got)
        if known is None:
            raise UpstreamMisbehaved(self._upstream.name, "it answered 304 although nothing is held here")
        return self._confirm(project, self._shelf.taught(project, known), got.max_age)

    async def _replace(self, project: ProjectName, known: Entry | None, got: PageDocument) -> Entry:
        if known is not None and is_older(got.serial, known.page.serial):
            return self._refuse_older(project, known, got)
        if known is not None and not self._shelf.stored.refused(project) and await says_the_same(got, known):
            known = self._shelf.taught(project, known)
            known.facts = msgspec.structs.replace(known.facts, validator=got.validator, serial=got.serial)
            return self._confirm(project, known, got.max_age)
        while True:
            before = None if known is None else self._shelf.taught(project, known)
            if before is not None:
                got = msgspec.structs.replace(got, learned=before.facts.learned, withdrawn=before.facts.withdrawn)
            try:
                entry, changed = await self._shelf.parsed(project, got, before)
            except UpstreamMisbehaved:
                self._counters.count("upstream_pages_unusable")
                raise
            if known is None or self._shelf.taught(project, known) is before:
                break  # nothing was learnt while the page was parsed
        if before is not None and is_older(entry.page.serial, before.page.serial):
            return self._refuse_older(project, before, got)
        self._shelf.report(project, entry, changed)
        self._shelf.stored.write(project, msgspec.structs.replace(entry.facts, body=got.body))
        return self._shelf.remember(project, entry)

    def _refuse_older(self, project: ProjectName, known: Entry, got: PageDocument) -> Entry:
        self._counters.count("upstream_older_serial")
        log.warning("upstream page is older than the copy held", project=project, serial=got.serial)
        return self._confirm(project, self._shelf.taught(project, known), got.max_age)

    def _confirm(self, project: ProjectName, entry: Entry, max_age: int | None) -> Entry:
        entry.confirmed_at = self._clock.now()
        entry.max_age = max_age
        if entry.confirmed_at - entry.written_at > TOUCH_EVERY:
            self._lessons.learn(project, {})
        return self._shelf.remember(project, entry)

    async def settle(self, project: ProjectName) -> None:
        """Waits until the page is in the store as it is in memory, unless the store refuses it."""
        await self._shelf.stored.settle(project)

    def learn(self, project: ProjectName, filename: str, lesson: Learned) -> None:
        """Adds a fact that this mirror found out by itself to a page, behind."""
        self._lessons.learn(project, {filename: lesson})

    async def lesson(self, project: ProjectName, filename: str) -> Learned | None:
        """What this mirror found out about a file by itself."""
        entry, _ = await self._shelf.recall(project)
        return entry.facts.learned.get(filename) if entry else None
