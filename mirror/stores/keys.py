"""What kind of object a key names, and under which key its use is recorded."""

from __future__ import annotations

import enum
from typing import Final

import xxhash

SIDECARS: Final = (".metadata", ".provenance")
"""What follows an archive's key in those of its sidecars."""


class Kind(enum.Enum):
    """How the stores in front of a remote one treat an object; see `kind_of`."""

    ARCHIVE = enum.auto()
    """Large, and never another under the same key: an archive of an upstream."""
    RECORD = enum.auto()
    """Small and read whole: a sidecar, a project's page, another document of a project."""
    LIST = enum.auto()
    """Large and replaced now and then: the list of all projects."""
    OTHER = enum.auto()
    """What is for the store alone: hosted packages, leases, records of use, the record of where an upstream is."""


def kind_of(key: str) -> Kind:
    """By the layout of the store; `meta/<source>/<ab>/<cd>/<project>.json` is a record, what lies higher is none."""
    if key.startswith("files/"):
        return Kind.RECORD if key.endswith(SIDECARS) else Kind.ARCHIVE
    if key.startswith("meta/"):
        if not key.endswith(".json"):
            return Kind.LIST
        return Kind.RECORD if key.count("/") == _SLASHES_OF_A_PAGE else Kind.OTHER
    return Kind.OTHER


def is_recorded(key: str) -> bool:
    """Whether the use of an object is recorded, and it may be collected as garbage if it is not used.

    The record of where an upstream is (`meta/<source>/upstream.json`) is neither: each start reads it, and a start
    is no use.
    """
    return key.startswith("files/") or (key.startswith("meta/") and kind_of(key) is not Kind.OTHER)


def access_key(key: str) -> str:
    """The key under which the use of the object at `key` is recorded: an archive and its sidecars have one in common.

    Who collects garbage asks for the `access_hash` of every object, so that neither the sidecar of an archive that is
    used nor the archive of a sidecar that is used is ever taken away.
    """
    if key.startswith("files/"):
        for suffix in SIDECARS:
            if key.endswith(suffix):
                return key[: -len(suffix)]
    return key


def page_of(key: str) -> str | None:
    """The key of the page that names the archive or sidecar at `key`; None for any other key.

    An archive's use counts as its page's: a page is seldom read from the store while it is in memory, and it is the
    only one that knows the digests of files that upstream names no longer.
    """
    segments = key.split("/")
    if segments[0] != "files" or len(segments) != _SLASHES_OF_A_PAGE + 2:
        return None
    _, source, first, second, project, _ = segments
    return f"meta/{source}/{first}/{second}/{project}.json"


def access_hash(key: str) -> int:
    """What the records of use hold for the object at `key`: 64 bits. A collision keeps one object too many."""
    return xxhash.xxh3_64_intdigest(access_key(key).encode())


_SLASHES_OF_A_PAGE: Final = 4
