"""Everything that a store holds of each project, in one pass over its listings and in little memory."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from mirror.errors import StoreFailure
from mirror.names import ProjectName, archive_key, page_key, shard
from mirror.ports import Store, StoredKey
from mirror.stores.keys import SIDECARS

_PLACE = r"([a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?)/([0-9a-f]{2}/[0-9a-f]{2})/([a-z0-9]+(?:-[a-z0-9]+)*)"
_ARCHIVE = re.compile(rf"files/{_PLACE}/[^/]+", re.ASCII)
_RECORD = re.compile(rf"meta/{_PLACE}(?:\.legacy[^/]*)?\.json", re.ASCII)
_OF_SOURCE = re.compile(r"meta/[a-z0-9-]+/(?:upstream\.json|projects\.txt)", re.ASCII)
_HOSTED = re.compile(r"local/([0-9a-f]{2}/[0-9a-f]{2})/([a-z0-9]+(?:-[a-z0-9]+)*)/[^/]+", re.ASCII)


@dataclass(slots=True)
class Holding:
    """What the store holds of one project of one upstream."""

    source: str
    project: ProjectName
    records: list[StoredKey] = field(default_factory=list)
    """The page and the legacy documents, in key order."""
    files: list[StoredKey] = field(default_factory=list)
    """Archives and their sidecars, in key order."""

    @property
    def page_key(self) -> str:
        return page_key(self.source, self.project)

    def file_key(self, name: str) -> str:
        return archive_key(self.source, self.project, name)

    @property
    def order(self) -> str:
        """Holdings of one store come in the order of this."""
        return f"{self.source}/{shard(self.project)}/{self.project}/"


async def walk(store: Store) -> AsyncGenerator[Holding | StoredKey, None]:
    """The holdings of the store, in order; between them, as they come, keys in `files/` and `meta/` of no project.

    The two listings are sorted alike (`-` sorts before `.` and `/`, and everything else that a project's name may hold
    after them), so they are merged and one project is in memory at a time. Raises `StoreFailure`, also for
    a store whose listings are not sorted.
    """
    listings = [_places(store, "meta/", _RECORD), _places(store, "files/", _ARCHIVE)]
    heads = [await anext(listing, None) for listing in listings]
    while any(heads):
        for side in (0, 1):
            while (head := heads[side]) is not None and not isinstance(head, Holding):
                yield head
                heads[side] = await anext(listings[side], None)
        holdings = [head for head in heads if isinstance(head, Holding)]
        if not holdings:
            break
        first = min(holding.order for holding in holdings)
        merged: Holding | None = None
        for side in (0, 1):
            head = heads[side]
            if isinstance(head, Holding) and head.order == first:
                if merged is None:
                    merged = head
                else:
                    merged.files = head.files
                heads[side] = await anext(listings[side], None)
        if merged is not None:
            yield merged


def is_of_source(key: str) -> bool:
    """Whether `key` is of a whole upstream: the record of where it is, or its list of projects."""
    return _OF_SOURCE.fullmatch(key) is not None


def archive_of(name: str) -> str:
    """The archive that a file of this name (or key) belongs to: itself, or the one that it is a sidecar of."""
    for suffix in SIDECARS:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def project_of(key: str) -> tuple[str, ProjectName] | None:
    """Source (`local` for hosted ones) and project of a key, None if it is none of a project."""
    if match := _ARCHIVE.fullmatch(key) or _RECORD.fullmatch(key):
        source, place, name = match.groups()
    elif match := _HOSTED.fullmatch(key):
        source, (place, name) = "local", match.groups()
    else:
        return None
    project = ProjectName(name)
    return (source, project) if shard(project) == place else None


async def in_order(listing: AsyncIterator[StoredKey], prefix: str) -> AsyncGenerator[StoredKey, None]:
    """The listing of `prefix`; `StoreFailure` if it is not in key order, for whatever is merged would be wrong."""
    before = ""
    async for found in listing:
        if found.key <= before:
            raise StoreFailure("list", prefix, "its keys do not come in order")
        before = found.key
        yield found


async def _places(store: Store, prefix: str, pattern: re.Pattern[str]) -> AsyncGenerator[Holding | StoredKey, None]:
    """One side of a walk: holdings with files or with records alone, and what belongs to no project."""
    holding: Holding | None = None
    async for found in in_order(store.list(prefix), prefix):
        place = project_of(found.key) if pattern.fullmatch(found.key) else None
        if place is None:
            yield found
            continue
        if holding is None or (holding.source, holding.project) != place:
            if holding is not None:
                yield holding
            holding = Holding(*place)
        (holding.records if prefix == "meta/" else holding.files).append(found)
    if holding is not None:
        yield holding
