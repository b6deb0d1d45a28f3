"""What a store holds, counted in one pass: objects and bytes by class and source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mirror.maintenance.last_use import ACCESS, day_name, day_of_key
from mirror.maintenance.walk import is_of_source, project_of
from mirror.ports import Store, StoredKey
from mirror.stores.keys import SIDECARS

CLASSES: Final = (
    "archives",
    "metadata",
    "provenance",
    "pages",
    "legacy",
    "lists",
    "hosted archives",
    "hosted metadata",
    "hosted records",
    "access",
    "leases",
    "pins",
    "other",
)
"""Every kind of object that is told apart; `lists` are those of a whole upstream, `other` what has no known form."""

_PREFIXES: Final = {"access/": "access", "leases/": "leases", "pins/": "pins", "local-projects/": "hosted records"}


@dataclass(slots=True)
class Amount:
    """A number of objects."""

    objects: int = 0
    bytes: int = 0
    oldest: float | None = None
    """When the one that was not written for longest was written; seconds since the epoch."""
    newest: float | None = None

    def add(self, stored: StoredKey) -> None:
        self.objects += 1
        self.bytes += stored.size
        self.oldest = stored.modified if self.oldest is None else min(self.oldest, stored.modified)
        self.newest = stored.modified if self.newest is None else max(self.newest, stored.modified)


@dataclass(slots=True)
class Statistics:
    """What a store holds."""

    total: Amount = field(default_factory=Amount)
    classes: dict[tuple[str, str], Amount] = field(default_factory=dict)
    """By class and source; the source is empty where objects are of none."""
    projects: dict[str, int] = field(default_factory=dict)
    """Projects with a page, by source."""
    hosted_projects: int = 0
    access_days: list[str] = field(default_factory=list)
    """Days of which there is a record of use."""


async def statistics(store: Store, progress: Callable[[Statistics], None] = lambda _: None) -> Statistics:
    """Counts the store. Raises `StoreFailure`."""
    found = Statistics()
    hosted_project = None
    async for stored in store.list(""):
        kind, source = class_of(stored.key)
        found.total.add(stored)
        found.classes.setdefault((kind, source), Amount()).add(stored)
        if kind == "pages":
            found.projects[source] = found.projects.get(source, 0) + 1
        elif kind == "hosted archives" and (project := project_of(stored.key)) != hosted_project:
            hosted_project = project
            found.hosted_projects += 1
        elif kind == "access" and (day := day_of_key(stored.key)) is not None:
            name = day_name(day)
            if found.access_days[-1:] != [name]:
                found.access_days.append(name)
        progress(found)
    return found


def class_of(key: str) -> tuple[str, str]:
    """The class of a key, as in `CLASSES`, and its source."""
    prefix = key.partition("/")[0] + "/"
    if prefix in _PREFIXES:
        known = prefix != ACCESS or day_of_key(key) is not None
        return (_PREFIXES[prefix] if known else "other"), ""
    if is_of_source(key):
        return "lists", key.split("/")[1]
    place = project_of(key)
    if place is None:
        return "other", ""
    source, project = place
    if prefix == "meta/":
        return ("pages" if key.endswith(f"/{project}.json") else "legacy"), source
    hosted = "hosted " if prefix == "local/" else ""
    for suffix in SIDECARS:
        if key.endswith(suffix):
            return (f"{hosted}metadata" if hosted else suffix[1:]), "" if hosted else source
    if hosted and key.endswith(".json"):
        return "hosted records", ""
    return (f"{hosted}archives"), "" if hosted else source
