"""What an archive cache holds for a store that lacks it still: second names, which neither eviction nor a restart removes."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Final

import xxhash

from mirror.adapters.caches.archive_files import NOT_THERE, facts_of, folder_of, remove, sync_folders
from mirror.adapters.caches.archive_room import ARCHIVES, LENT, OWED, ledger_of, release, rename
from mirror.adapters.caches.archive_root import ArchiveRoot
from mirror.adapters.directory.files import READ_ONLY, open_regular, read_pieces
from mirror.adapters.store_keys import is_key_segment

_CHECKSUM: Final = "user.mirror-xxh3"
"""The extended attribute in which a file's checksum outlives restarts, where the file system has such."""


class Spoilt(OSError):
    """What was kept for the store is not what it was any more."""


class Owed:
    """The folders `owed` and `lent`. Every method may block, and raises `OSError`."""

    def __init__(self, root: ArchiveRoot) -> None:
        self._root = root
        self._lent: dict[str, str] = {}
        self._checksums: dict[str, tuple[int, bytes]] = {}
        """By key: inode, and checksum of what this process keeps there."""

    def keys(self) -> list[str]:
        """Oldest first."""
        root = self._root.open()
        if facts_of(root, OWED) is None:
            return []
        found: list[tuple[float, str]] = []
        for path, _, names, folder in os.fwalk(OWED, dir_fd=root):
            for name in names:
                facts = facts_of(folder, name)
                if facts is not None and stat.S_ISREG(facts.st_mode) and is_key_segment(name):
                    found.append((facts.st_mtime, f"{path}/{name}"[len(OWED) + 1 :]))
        return [key for _, key in sorted(found)]

    def seal(self, key: str, verified: FileIO, file: FileIO, moved: Callable[[], None]) -> None:
        """Notes that `file` is to hold what `verified` does, so that nothing else is ever lent; it is read-only then."""
        checksum = _checksum(verified, moved)
        self._checksums[key] = os.fstat(file.fileno()).st_ino, checksum
        with contextlib.suppress(OSError):  # a file system without attributes or modes: this process remembers it
            os.fchmod(file.fileno(), 0o600)  # attributes of a read-only file cannot be set
            os.setxattr(file.fileno(), _CHECKSUM, checksum)
        with contextlib.suppress(PermissionError):
            os.fchmod(file.fileno(), READ_ONLY)

    def add(self, root: int, key: str, temporary: str) -> None:
        """Keeps the file `temporary`, which lies beside the place of `key`, for the store; on disk when this returns."""
        with (
            ledger_of(root) as ledger,
            folder_of(root, f"{ARCHIVES}/{key}") as (folder, _),
            folder_of(root, f"{OWED}/{key}", make=True) as (shelf, name),
        ):
            further = self._root.temporary_name()
            os.link(temporary, further, src_dir_fd=folder, dst_dir_fd=shelf, follow_symlinks=False)
            rename(shelf, further, name, ledger)
        sync_folders(root, f"{OWED}/{key}")

    def remove(self, root: int, key: str) -> None:
        """It need not be kept any more."""
        self._checksums.pop(key, None)
        if (lent := self._lent.pop(key, None)) is not None:
            remove(root, f"{LENT}/{lent}")
        with ledger_of(root) as ledger:
            release(root, f"{OWED}/{key}", ledger)

    def lend(self, key: str, moved: Callable[[], None]) -> Path | None:
        """A further name for what is kept, which goes with the next one of that key at the latest.

        Raises `Spoilt` if it is not as it was sealed; `moved` is called while that is found out.
        """
        root = self._root.open()
        name = self._root.temporary_name()
        try:
            with folder_of(root, f"{OWED}/{key}") as (source, owed), folder_of(root, f"{LENT}/x", make=True) as (to, _):
                facts = facts_of(source, owed)
                if facts is None or not stat.S_ISREG(facts.st_mode):
                    return None
                self._prove(key, source, owed, moved)
                os.link(owed, name, src_dir_fd=source, dst_dir_fd=to, follow_symlinks=False)
        except NOT_THERE:
            return None
        if (before := self._lent.get(key)) is not None:
            remove(root, f"{LENT}/{before}")
        self._lent[key] = name
        return self._root.path / LENT / name

    def _prove(self, key: str, folder: int, name: str, moved: Callable[[], None]) -> None:
        file = open_regular(folder, name)
        if file is None:
            return
        with file:
            inode, checksum = self._checksums.get(key, (0, b""))
            with contextlib.suppress(OSError):
                inode, checksum = os.fstat(file.fileno()).st_ino, os.getxattr(file.fileno(), _CHECKSUM)
            if inode == os.fstat(file.fileno()).st_ino and checksum != _checksum(file, moved):
                raise Spoilt("what is kept for the store has changed on its disk")


def _checksum(file: FileIO, moved: Callable[[], None]) -> bytes:
    """Not proof against forgers, who could write to the folder; it tells damage by the disk."""
    checksum = xxhash.xxh3_128()
    for piece in read_pieces(file):
        checksum.update(piece)
        moved()
    return checksum.digest()
