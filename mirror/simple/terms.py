"""The words of the Simple API: media types, its version, and the keys that the specifications name."""

from __future__ import annotations

from typing import Final

JSON_TYPE: Final = "application/vnd.pypi.simple.v1+json"
HTML_TYPE: Final = "application/vnd.pypi.simple.v1+html"
TEXT_TYPE: Final = "text/html"

API_VERSION: Final = "1.4"
"""Version of our pages (PEP 629); HTML is frozen at it for good (PEP 833)."""
OLDEST_API_VERSION: Final = "1.0"
"""What a JSON page declares when some file's size is unknown: `size` is mandatory from 1.1 on (PEP 700)."""

FILE_KEYS: Final = frozenset(
    {
        "filename",
        "url",
        "hashes",
        "size",
        "upload-time",
        "requires-python",
        "core-metadata",
        "yanked",
        "gpg-sig",
        "provenance",
        # Never passed on: pip 23.0 crashes on the first in JSON (PEP 714); the second is a misnomer for it.
        "dist-info-metadata",
        "data-dist-info-metadata",
    }
)
"""Keys of a JSON file entry that are understood here, so that none of them is ever an extra one."""

# `tracks` and `alternate-locations` belong to PEP 708, which was rejected.
PAGE_KEYS: Final = frozenset({"meta", "name", "files", "versions", "project-status", "alternate-locations"})
META_KEYS: Final = frozenset({"api-version", "_last-serial", "tracks", "project-status"})
SIDECARS: Final = (".metadata", ".provenance", ".asc")
"""Suffixes of what belongs to an archive and is no entry of its own."""
