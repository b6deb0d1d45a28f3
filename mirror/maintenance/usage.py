"""Which projects, or which objects below a prefix, take the most room."""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from mirror.maintenance.walk import Holding, in_order, project_of, walk
from mirror.ports import Store, StoredKey


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """What one project, or one object, takes."""

    bytes: int
    objects: int
    name: str
    """`<source>/<project>`, or a key."""


@dataclass(slots=True)
class Usage:
    """The largest shares, and the sum of all."""

    largest: list[Share]
    bytes: int = 0
    objects: int = 0
    shares: int = 0


async def usage(
    store: Store, prefix: str = "", *, largest: int | None = None, progress: Callable[[Usage], None] = lambda _: None
) -> Usage:
    """The largest `largest` shares (all without it), largest first. Raises `StoreFailure`.

    Without a prefix a share is a project with its pages and archives. With one it is a project too, or, where the
    prefix is within one or of no project, an object. Memory grows with `largest`, not with the store.
    """
    found = Usage([])
    heap: list[Share] = []
    shares = _by_project(store) if not prefix else _below(store, prefix)
    async with aclosing(shares):
        async for share in shares:
            found.bytes += share.bytes
            found.objects += share.objects
            found.shares += 1
            if largest is None or len(heap) < largest:
                heapq.heappush(heap, share)
            elif heap:
                heapq.heappushpop(heap, share)
            progress(found)
    found.largest = sorted(heap, key=lambda share: (-share.bytes, share.name))
    return found


async def _by_project(store: Store) -> AsyncGenerator[Share, None]:
    async with aclosing(walk(store)) as items:
        async for item in items:
            if isinstance(item, Holding):
                stored = [*item.records, *item.files]
                yield Share(sum(s.size for s in stored), len(stored), f"{item.source}/{item.project}")
            else:
                yield Share(item.size, 1, item.key)
    async with aclosing(_below(store, "local/")) as hosted:
        async for share in hosted:
            yield share


async def _below(store: Store, prefix: str) -> AsyncGenerator[Share, None]:
    name, group = "", [0, 0]
    async for stored in in_order(store.list(prefix), prefix):
        now = _share_of(stored, prefix)
        if now != name:
            if group[1]:
                yield Share(group[0], group[1], name)
            name, group = now, [0, 0]
        group[0] += stored.size
        group[1] += 1
    if group[1]:
        yield Share(group[0], group[1], name)


def _share_of(stored: StoredKey, prefix: str) -> str:
    place = project_of(stored.key)
    if place is None:
        return stored.key
    # `files/<source>/<ab>/<cd>/<project>/`, `local/<ab>/<cd>/<project>/`: a prefix that goes on is within a project.
    within = prefix.count("/") >= (4 if stored.key.startswith("local/") else 5)
    return stored.key if within else "/".join(place)
