"""What this mirror finds out of files by itself, added to their pages."""

from __future__ import annotations

from typing import Final

import msgspec

from mirror.flight import Flights, Tasks
from mirror.model import Learned
from mirror.names import ProjectName
from mirror.repositories.entries import merged
from mirror.repositories.shelf import Shelf

TOUCH_EVERY: Final = 3600.0
"""Seconds after which a confirmation by upstream is written to the store, too."""


class Lessons:
    """Adds facts to pages, in memory and in the store, behind; many at once cost one new page."""

    def __init__(self, shelf: Shelf, tasks: Tasks) -> None:
        self._shelf = shelf
        self._applying: Flights[ProjectName, None] = Flights(tasks, "learn")
        self._pending: dict[ProjectName, dict[str, Learned]] = {}

    def learn(self, project: ProjectName, lessons: dict[str, Learned]) -> None:
        """`lessons` are by file name; with none, only what upstream last confirmed is written."""
        pending = self._pending.setdefault(project, {})
        for filename, lesson in lessons.items():
            pending[filename] = merged(pending.get(filename), lesson)
        self._applying.launch(project, lambda: self._apply(project))

    async def _apply(self, project: ProjectName) -> None:
        shelf = self._shelf
        while (lessons := self._pending.pop(project, None)) is not None:
            before, _ = await shelf.recall(project)
            document = await shelf.stored.current(project)
            if before is None or document is None:
                continue  # the page could not be kept; it is learnt again when somebody asks again
            learned = dict(document.learned)  # another replica may have learnt something, too
            for filename, lesson in (*before.facts.learned.items(), *lessons.items()):
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
            entry, _ = await shelf.parsed(project, document, None)
            now = shelf.in_memory(project)
            if now is not None and now is not before:
                # the page was replaced meanwhile: once more, on the new one, and what came later on top
                later = self._pending.pop(project, {})
                self.learn(project, lessons)
                self.learn(project, later)
            elif entry.fingerprint == before.fingerprint:  # else the store has not the page that is in force here
                entry.confirmed_at, entry.max_age = before.confirmed_at, before.max_age
                entry.checked_at = before.checked_at
                shelf.stored.write(project, document)
                shelf.remember(project, entry)
