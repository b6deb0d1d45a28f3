"""Records in one SQLite database through diskcache: the blocking half of the record cache."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sqlite3
import stat
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diskcache
from diskcache.core import DBNAME, DEFAULT_SETTINGS, METADATA

from mirror.adapters.caches.folder import locked, open_folder, open_own, spare_room
from mirror.adapters.caches.record_disk import SafeDisk, sealed, unsealed
from mirror.adapters.directory.files import close_quietly
from mirror.errors import StartError

_FOLDER: Final = "records"
_RETIRED: Final = re.compile("old-[0-9a-f]{16}")
_BUSY: Final = 0.2
"""Seconds that a write waits for another process's."""
_LOCKED: Final = 2.0
"""The same when the database is opened, where one that stays locked is given up for a new one."""
_PAGE: Final = 4096
_LARGEST: Final = 16 << 20
_MARGIN: Final = 64 << 20

_FAILURES: Final = (sqlite3.Error, OSError, ValueError, TypeError, diskcache.Timeout)
"""TypeError: what a changed database gives for numbers."""


_DAMAGED: Final = frozenset(
    {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_NOTADB}
)
"""SQLITE_ERROR is "no such table": somebody emptied the file."""


class Vanished(OSError):
    """The database is not where it was: somebody removed it, or began anew."""


class NoRoom(OSError):
    """The disk is as full as it may be."""


@dataclass(frozen=True, slots=True)
class _Opened:
    cache: Any
    file: tuple[int, int]
    """Device and number of the database."""


class RecordDatabase:
    """One database in `root/records`, shared by the processes of one host. Every method may block.

    Reads may run in several threads at once, writes in one thread only. Raises what SQLite, diskcache and the
    system raise, `Damaged`, `Vanished` and `NoRoom`; `StartError` where the folder is refused.
    """

    def __init__(self, root: Path, *, size: int, free_space: int, mounts: Path) -> None:
        self.largest = min(size // 8, _LARGEST)
        """The largest body that is taken, in bytes."""
        self._root, self._mounts = root, mounts
        self._path = root.absolute() / _FOLDER
        self._free_space = free_space
        # What is not the database's: the write-ahead log, and the record that is one too many for an instant.
        self._size = size - min(size // 2, _MARGIN)
        self._log_pages = max(16, min(1000, size // 16 // _PAGE))
        self._opened: _Opened | None = None
        self.begun_anew: deque[str] = deque()
        """Why the database was emptied, each time; whoever counts that takes it out."""
        self._local = threading.local()

    @property
    def is_open(self) -> bool:
        return self._opened is not None

    def open(self, *, afresh: str = "") -> None:
        """Opens the database, or makes it; `afresh`, a reason: after removing the one that is there.

        What another process has made anew meanwhile is not removed.
        """
        if os.path.expandvars(self._path) != str(self._path):  # diskcache would go elsewhere
            raise StartError(f"The cache folder {self._root} has a variable in its name: choose another.")
        root = open_folder(self._root, self._mounts)
        try:
            with locked(root):
                self._open_in(root, afresh)
        finally:
            close_quietly(root)

    def get(self, key: str) -> bytes | None:
        value = self._current().get(key)
        return None if value is None else unsealed(key, value)

    def put(self, key: str, body: bytes) -> int:
        """Returns how many records had to go."""
        cache = self._current()
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if spare_room(folder, self._free_space + len(body)) < 0:
                raise NoRoom(errno.ENOSPC, "its disk has less free room than is to be left to others")
        finally:
            close_quietly(folder)
        cache.set(key, sealed(key, body))
        removed: int = cache.cull() if cache.volume() > self._size else 0
        return removed

    def delete(self, key: str) -> int:
        self._current().delete(key)
        return 0

    def volume(self) -> int:
        """Bytes on disk, about."""
        size: int = self._current().volume()
        return size

    def leave(self) -> None:
        """Closes what the calling thread has open."""
        if (mine := getattr(self._local, "cache", None)) is not None:
            mine.close()
            self._local.cache = None

    def _current(self) -> Any:
        opened = self._opened
        if getattr(self._local, "cache", None) is not (opened and opened.cache):
            self.leave()  # an earlier one's connection
        if opened is None:
            raise OSError(errno.ENOENT, "it could not be opened")
        self._local.cache = opened.cache
        if self._file() != opened.file:
            raise Vanished(errno.ESTALE, "its folder was removed or replaced")
        return opened.cache

    def _file(self) -> tuple[int, int] | None:
        try:
            facts = os.stat(self._path / DBNAME, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return facts.st_dev, facts.st_ino

    def _open_in(self, root: int, afresh: str) -> None:
        before, self._opened = self._opened, None
        self.leave()
        for name in os.listdir(root):
            if _RETIRED.fullmatch(name):
                _remove(root, name)
        there = self._file()
        if before is not None and there is None:
            self.begun_anew.append("its folder was removed")
        elif afresh and (before is None or before.file == there):
            self._discard(root)
            self.begun_anew.append(afresh)
        try:
            cache = self._connect(root)
        except _FAILURES as error:
            self._discard(root)
            self.begun_anew.append(str(error) or "it could not be opened")
            cache = self._connect(root)
        file = self._file()
        if file is None:
            raise Vanished(errno.ESTALE, "its folder was removed while it was opened")
        self._local.cache = cache
        self._opened = _Opened(cache, file)

    def _connect(self, root: int) -> Any:
        descriptor, _ = open_own(root, _FOLDER, self._path)
        try:
            for name in os.listdir(descriptor):
                if not stat.S_ISREG(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                    raise ValueError("something else than files lies in its folder")
        finally:
            close_quietly(descriptor)
        self._inspect()
        return _Cache(
            str(self._path),
            timeout=_BUSY,
            disk=SafeDisk,
            # The lowest that `get` needs no transaction for; see `_Cache` for what evicts.
            eviction_policy="least-recently-stored",
            size_limit=self._size,
            cull_limit=0,
            statistics=0,
            tag_index=0,
            sqlite_auto_vacuum=1,
            sqlite_cache_size=256,
            sqlite_journal_mode="wal",
            sqlite_journal_size_limit=self._log_pages * _PAGE,
            # A file that is mapped and then cut short kills the process that reads it.
            sqlite_mmap_size=0,
            sqlite_synchronous=1,
            sqlite_wal_autocheckpoint=self._log_pages,
        )

    def _inspect(self) -> None:
        """Looks at a database before diskcache does, which makes attributes and pragmas of whatever it finds there.

        It also waits a minute for one that is locked.
        """
        known = {*DEFAULT_SETTINGS, *METADATA, "sqlite_journal_size_limit", "sqlite_wal_autocheckpoint"}
        with contextlib.closing(sqlite3.connect(self._path / DBNAME, timeout=_LOCKED, isolation_level=None)) as base:
            base.execute("BEGIN IMMEDIATE")
            base.execute("ROLLBACK")
            if base.execute("SELECT 1 FROM sqlite_master WHERE name = 'Settings'").fetchall():
                for key, value in base.execute("SELECT key, value FROM Settings"):
                    if key not in known or type(value) is not type({**DEFAULT_SETTINGS}.get(key, 0)):
                        raise ValueError("its database has settings that are not this mirror's")

    def _discard(self, root: int) -> None:
        retired = f"old-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(_FOLDER, retired, src_dir_fd=root, dst_dir_fd=root)
            _remove(root, retired)


def is_damage(error: BaseException) -> bool:
    """Whether the database itself is at fault, so that nothing but a new one helps."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF in _DAMAGED or code == sqlite3.SQLITE_IOERR_SHORT_READ


class _Cache(diskcache.Cache):  # type: ignore[misc] # diskcache ships no types
    """Leaves no connection open where it could not be made.

    `cull_limit` is 0, so `set` evicts nothing: it would not say how many, nor look whether that was enough. `cull`
    does both, ten records a transaction.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        try:
            super().__init__(*args, **settings)
        except BaseException:  # whatever went wrong
            self.close()
            raise


def _remove(folder: int, name: str) -> None:
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)
