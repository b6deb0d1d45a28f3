"""Which keys a store accepts, the same for every kind of store."""

from __future__ import annotations

from typing import Final

RESERVED: Final = frozenset({"layout.json", "lost+found", "quarantine", "spool", "tmp"})
"""Names in a store's root that are not objects: the layout, damaged objects, and folders of unfinished files."""

MAX_KEY = 1024
"""Bytes; what object stores allow."""
MAX_SEGMENT = 255
"""Bytes; what file systems allow."""


def checked_key(key: str) -> str:
    """`key` if it is a relative path of safe segments.

    A segment is not empty, begins with no dot (so it is neither `.` nor `..`, and no temporary file's name
    is ever a key), holds no NUL and no backslash, and has at most `MAX_SEGMENT` bytes. Raises `ValueError`:
    names that come from outside are checked by `mirror.names` first, so a bad key is a programming error.
    """
    segments = key.split("/")
    if not all(is_key_segment(s) for s in segments):
        raise ValueError(f"unsafe segment in the key {key!r}")
    if segments[0] in RESERVED:
        raise ValueError(f"the key {key!r} lies in a reserved place")
    if len(key.encode()) > MAX_KEY:
        raise ValueError(f"the key {key[:80]!r}… is longer than {MAX_KEY} bytes")
    return key


def checked_prefix(prefix: str) -> str:
    """`prefix` if keys can start with it: empty, or whole safe segments and perhaps the start of one more."""
    folder, slash, _ = prefix.rpartition("/")
    if slash:
        checked_key(folder)
    return prefix


def is_key_segment(name: str) -> bool:
    """Whether `name` may stand between the slashes of a key."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # a file name on disk that is not UTF-8
        return False
    return 0 < length <= MAX_SEGMENT and not name.startswith(".") and not set(name) & {"/", "\0", "\\"}
