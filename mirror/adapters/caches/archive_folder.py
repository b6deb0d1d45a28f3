"""Archives in a plain folder, bounded in bytes and shared by processes: the blocking half of the archive cache."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections import deque
from io import FileIO
from pathlib import Path
from typing import Final

from mirror.adapters.caches.archive_files import NOT_THERE, copy, facts_of, folder_of, link_or_create, remove
from mirror.adapters.caches.archive_owed import Owed, Spoilt
from mirror.adapters.caches.archive_room import (
    ARCHIVES,
    Ledger,
    NoRoom,
    charge,
    ledger_of,
    look_through,
    make_room,
    release,
    rename,
)
from mirror.adapters.caches.archive_root import ArchiveRoot
from mirror.adapters.directory.files import READ_ONLY, open_regular
from mirror.adapters.directory.leftovers import sweep
from mirror.model import LocalFile, Origin, Span
from mirror.ports import Clock

_TOUCH_AFTER: Final = 3600.0
"""Seconds after which a further use is noted, in the file's time of modification."""


class Claim:
    """Settles whether a file was taken or given up, when the one who takes it is late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decided = False
        self.progress = 0
        """Changes while there is any."""

    def decide(self) -> bool:
        """True for the first that asks: from here on it is taken, or given up."""
        with self._lock:
            first, self._decided = not self._decided, True
            return first

    def moved(self) -> None:
        self.progress += 1


class ArchiveFolder:
    """`root/archives` holds copies by key, `root/owed` second names of those that the store lacks still.

    Every method may block and may run in any thread. Raises `OSError`, and `StartError` where the folder is refused.
    """

    def __init__(self, root: Path, *, size: int, free_space: int, clock: Clock, mounts: Path) -> None:
        self._root = ArchiveRoot(root, mounts)
        self._size, self._free_space, self._clock = size, free_space, clock
        self._was_known = False
        self._owed = Owed(self._root)
        self.begun_anew: deque[str] = deque()
        """Why what was held is gone, each time; whoever counts that takes it out."""
        self.evicted: deque[str] = deque()
        """Keys of what had to go; likewise."""

    def prepare(self, stop: threading.Event) -> None:
        """Removes what dead processes left unfinished, and finds out how much is held."""
        root = self._root.open()
        _, errors = sweep(root, stop)
        with ledger_of(root) as ledger:
            # The limit of whoever started last holds for all who share the folder: two limits would evict each other.
            self._count(root, ledger)
            with contextlib.suppress(NoRoom):
                self.evicted.extend(make_room(root, ledger, 0, self._free_space))
        if errors:
            raise errors[0]

    def open(self, key: str, span: Span) -> LocalFile | None:
        try:
            with folder_of(self._root.open(), f"{ARCHIVES}/{key}") as (folder, name):
                handle = open_regular(folder, name)
        except NOT_THERE:
            return None
        if handle is None:
            return None
        try:
            facts = os.fstat(handle.fileno())
            start, stop = span.resolve(facts.st_size)
            now = self._clock.now()
            # What is owed keeps its time: it tells what is owed longest, and is not evicted anyway.
            if facts.st_nlink == 1 and not 0 <= now - facts.st_mtime < _TOUCH_AFTER:
                with contextlib.suppress(OSError):  # a disk that is read-only: it will do without
                    os.utime(handle.fileno(), (now, now))
        except BaseException:  # the handle has no other owner yet, whatever went wrong
            handle.close()
            raise
        return LocalFile(handle, facts.st_size, start, stop, Origin.CACHE)

    def adopt(self, key: str, path: Path, owed: bool, claim: Claim) -> bool:
        """False if the file is larger than all that may be held, or was given up by another `claim.decide`.

        After an `OSError` the file is untouched, but for its mode and times.
        """
        with FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as source:
            facts = os.fstat(source.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise OSError(errno.EINVAL, "what was to be taken over is not a regular file")
            taken = charge(facts.st_size)
            root = self._root.open()
            temporary = self._reserve(root, key, path, facts)
            if temporary is None:
                return False
            target, name = temporary
            placed = is_owed = False
            try:
                self._fill(source, target, facts.st_size, key if owed else None, claim)
                if owed:
                    is_owed = True
                    self._owed.add(root, key, name)
                placed = self._place(root, key, name, claim, taken if target else 0)
            finally:
                if not placed:
                    self._give_back(root, key, name, is_owed, 0 if target else taken, taken if target else 0)
        if placed:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return placed

    def owed(self) -> list[str]:
        return self._owed.keys()

    def lend(self, key: str, claim: Claim) -> Path | None:
        """What is `Spoilt` is not kept either."""
        try:
            return self._owed.lend(key, claim.moved)
        except Spoilt:
            self.forget(key)
            self.settled(key)
            raise

    def settled(self, key: str) -> None:
        self._owed.remove(self._root.open(), key)

    def forget(self, key: str) -> None:
        root = self._root.open()
        with ledger_of(root) as ledger:
            release(root, f"{ARCHIVES}/{key}", ledger)

    def held(self) -> int:
        """Bytes that all files take."""
        with ledger_of(self._root.open()) as ledger:
            return ledger.held

    def close(self) -> None:
        """Nothing may be under way."""
        self._root.close()

    def _reserve(self, root: int, key: str, path: Path, facts: os.stat_result) -> tuple[FileIO | None, str] | None:
        """A temporary file beside the place of `key`, the room for it accounted for; None if it is too large."""
        taken = charge(facts.st_size)
        with ledger_of(root) as ledger:
            if not (ledger.known and self._was_known):
                if self._was_known and facts_of(root, ARCHIVES) is None:
                    self.begun_anew.append("its files were removed")
                    self._root.begin_anew()
                self._count(root, ledger)
            name = self._root.temporary_name()
            if taken > ledger.limit:
                return None
            # A file on the same disk takes none of the free room: it has it already.
            free = self._free_space + (facts.st_size if facts.st_dev != os.fstat(root).st_dev else 0)
            self.evicted.extend(make_room(root, ledger, taken, free))
            with folder_of(root, f"{ARCHIVES}/{key}", make=True) as (folder, _):
                target = link_or_create(str(path), folder, name)
                if target is None:
                    ledger.add(taken)
                else:
                    ledger.expect(taken)
        return target, name

    def _count(self, root: int, ledger: Ledger) -> None:
        ledger.begin(look_through(root).held, self._size)
        self._was_known = True

    def _fill(self, source: FileIO, target: FileIO | None, size: int, owed: str | None, claim: Claim) -> None:
        """`owed`: the key, where the store lacks it."""
        now = self._clock.now()
        if target is None:
            if owed:
                self._owed.seal(owed, source, source, claim.moved)
            # Volumes without modes (CIFS, some FUSE) refuse this; the mode is a guard rail, no more.
            with contextlib.suppress(PermissionError):
                os.fchmod(source.fileno(), READ_ONLY)
                if not 0 <= now - os.fstat(source.fileno()).st_mtime < _TOUCH_AFTER:
                    os.utime(source.fileno(), (now, now))  # else whoever has verified it knows it again by its time
            if owed:
                os.fsync(source.fileno())
            return
        with target:
            copy(source, target, size, claim.moved)
            if owed:
                self._owed.seal(owed, source, target, claim.moved)
            os.utime(target.fileno(), (now, now))
            if owed:
                os.fsync(target.fileno())

    @staticmethod
    def _place(root: int, key: str, temporary: str, claim: Claim, copied: int) -> bool:
        with ledger_of(root) as ledger, folder_of(root, f"{ARCHIVES}/{key}") as (folder, name):
            if not claim.decide():
                return False
            ledger.add(copied)
            ledger.expect(-copied)
            rename(folder, temporary, name, ledger)
            return True

    def _give_back(self, root: int, key: str, temporary: str, is_owed: bool, linked: int, copied: int) -> None:
        with contextlib.suppress(OSError):  # the next walk through the folder, or the next start, finds it
            if is_owed:
                self._owed.remove(root, key)
            with ledger_of(root) as ledger:
                remove(root, "/".join((f"{ARCHIVES}/{key}".rpartition("/")[0], temporary)))
                ledger.add(-linked)
                ledger.expect(-copied)
