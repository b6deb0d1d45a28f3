"""A project page in memory: how it is made of a document, and what two of them have to say to each other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import msgspec
import xxhash

from mirror.model import Learned, PageDocument, ProjectPage
from mirror.names import ProjectName
from mirror.simple.links import SourcePaths
from mirror.simple.parse import parse_page
from mirror.simple.reconcile import reconcile

LARGE: Final = 64 * 1024
"""Bytes of a page from which on it is parsed in a thread."""
PARSED_WEIGHT: Final = 3
"""Memory of a parsed page, as a multiple of its text (measured: 2.2 for JSON, 2.9 for HTML)."""
WITHDRAWN_WEIGHT: Final = 512
"""Memory of a file that is remembered although the page does not name it any more."""


@dataclass(frozen=True, slots=True)
class KnownFiles:
    """What is known of a project's files, however old."""

    page: ProjectPage
    withdrawn: dict[str, dict[str, str]]
    """Hashes, by public path, of files that only earlier pages named."""


@dataclass(slots=True)
class Entry:
    """A page in memory."""

    page: ProjectPage
    facts: PageDocument
    """The document without its body."""
    fingerprint: bytes
    """Tells bodies apart: an upstream without validators confirms a page by sending it again."""
    weight: int
    confirmed_at: float
    max_age: int | None
    written_at: float
    checked_at: float = 0.0
    """When the store was last asked whether another replica has a newer one."""

    @property
    def files(self) -> KnownFiles:
        return KnownFiles(self.page, self.facts.withdrawn)


async def parsed(
    document: PageDocument, project: ProjectName, paths: SourcePaths, before: ProjectPage | None
) -> tuple[Entry, int]:
    """The entry of `document`, held to what the page `before` it promised, and how many files break that promise.

    Raises `UpstreamMisbehaved` if the document is no page.
    """
    if len(document.body) < LARGE:
        return _parse(document, project, paths, before)
    return await asyncio.to_thread(_parse, document, project, paths, before)


def _parse(
    document: PageDocument, project: ProjectName, paths: SourcePaths, before: ProjectPage | None
) -> tuple[Entry, int]:
    page = parse_page(document, project, paths)
    outcome = reconcile(before or page, page, document.withdrawn)
    entry = Entry(
        page=outcome.page,
        facts=msgspec.structs.replace(document, body=b"", withdrawn=outcome.withdrawn),
        fingerprint=_fingerprint(document.body),
        weight=PARSED_WEIGHT * len(document.body) + WITHDRAWN_WEIGHT * len(outcome.withdrawn),
        confirmed_at=document.fetched_at,
        max_age=document.max_age,
        written_at=document.fetched_at,
    )
    return entry, outcome.changed


async def says_the_same(document: PageDocument, entry: Entry) -> bool:
    """Whether upstream has sent again what `entry` was made of."""
    if (document.url, document.content_type) != (entry.facts.url, entry.facts.content_type):
        return False
    if len(document.body) < LARGE:
        return _fingerprint(document.body) == entry.fingerprint
    return await asyncio.to_thread(_fingerprint, document.body) == entry.fingerprint


def _fingerprint(body: bytes) -> bytes:
    """Speed counts: it vouches for nothing. A body that was made to have the same can only be that upstream's own, and
    leaves its own old page in force."""
    return xxhash.xxh3_128_digest(body)


def is_older(new: int | None, held: int | None) -> bool:
    """Whether a serial says that a page is older than the one held."""
    return new is not None and held is not None and new < held


def merged(old: Learned | None, new: Learned) -> Learned:
    """What is known of a file once `new` has been learnt, too."""
    if old is None:
        return new
    return Learned(
        size=new.size if new.size is not None else old.size,
        metadata_sha256=new.metadata_sha256 or (None if new.metadata_refused else old.metadata_sha256),
        metadata_refused=new.metadata_refused or old.metadata_refused,
    )
