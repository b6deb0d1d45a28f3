"""Finished bodies of project pages, kept in memory: rendered and compressed once per change of a page."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import xxhash

from mirror.flight import Flights, Tasks
from mirror.lru import LRU
from mirror.model import ProjectPage
from mirror.names import ProjectName
from mirror.simple.compress import compress
from mirror.simple.negotiate import Coding, Format
from mirror.simple.render import render_page

ROOT: Final = "../../"
"""Leads from a project page to the root of its mount, so that a page is the same bytes below both mounts."""

LARGE: Final = 200
"""Files of a page from which on it is rendered in a thread: about 100 KB, a millisecond."""

OVERHEAD: Final = 512
"""Bytes that an entry weighs beside its body."""


@dataclass(frozen=True, slots=True)
class ReadyBody:
    """A body fit to be sent, and its strong entity tag."""

    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class _Entry:
    revision: str
    ready: ReadyBody


class ReadyPages:
    """Bodies of pages by format and coding, at most `limit` bytes of them, the last used ones."""

    def __init__(self, limit: int, tasks: Tasks) -> None:
        self._kept: LRU[tuple[ProjectName, Format, Coding], _Entry] = LRU(limit)
        self._builds: Flights[tuple[ProjectName, str, Format, Coding], ReadyBody] = Flights(tasks, "render page")

    async def body(self, page: ProjectPage, form: Format, coding: Coding) -> ReadyBody:
        """The finished body of `page`; concurrent callers share one rendering."""
        key = (page.name, form, coding)
        kept = self._kept.get(key)
        if kept is not None and kept.revision == page.revision:
            return kept.ready
        if len(page.files) < LARGE:
            ready = build(page, form, coding)
        else:
            ready = await self._builds.run(
                (page.name, page.revision, form, coding), lambda: asyncio.to_thread(build, page, form, coding)
            )
        # One entry per name and form: a new revision takes the place of the old one at once.
        self._kept.put(key, _Entry(page.revision, ready), len(ready.body) + OVERHEAD)
        return ready


def build(page: ProjectPage, form: Format, coding: Coding) -> ReadyBody:
    """Renders and compresses `page`."""
    plain = render_page(page, form, ROOT)
    return ReadyBody(compress(plain, coding), entity_tag(plain, form, coding))


def entity_tag(plain: bytes, form: Format, coding: Coding) -> str:
    """A strong tag: by content, so that it is equal on every replica, and different for each representation.

    It tells a client's copy from ours and vouches for nothing, so speed counts (xxh3_128).
    """
    return f'"{xxhash.xxh3_128_hexdigest(plain)}-{form.name.lower()}-{coding.value}"'
