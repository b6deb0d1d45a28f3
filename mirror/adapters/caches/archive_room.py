"""How much an archive cache holds: one number that its processes share, and the walk that finds it anew."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from mirror.adapters.caches.archive_files import facts_of, is_freed_with, remove
from mirror.adapters.caches.folder import locked, spare_room
from mirror.adapters.directory.files import close_quietly
from mirror.adapters.store_keys import is_key_segment

ARCHIVES: Final = "archives"
OWED: Final = "owed"
LENT: Final = "lent"
_LEDGER: Final = "room"
_LINE: Final = re.compile(rb"(\d{20}) (\d{20}) (\d{20})\n")
_LENGTH: Final = 63
_BLOCK: Final = 4096
_SLACK: Final = 20
"""Room is made for this part of the limit at once, so that the folder is seldom looked through."""


class NoRoom(OSError):
    """The disk is as full as it may be, or all that is held must be kept."""


def charge(size: int) -> int:
    """What a file of `size` bytes takes: whole blocks, and at least one, so that empty files are not free."""
    return max(1, -(-size // _BLOCK)) * _BLOCK


class Ledger:
    """The bytes held, those on their way, and the limit in force, in `root/room`; for as long as the folder is locked.

    A file is added before it comes and taken off after it has gone, so that a crash leaves the sum too high, not too
    low.
    """

    def __init__(self, root: int) -> None:
        """Raises `OSError`."""
        self._file = os.open(_LEDGER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=root)
        line = _LINE.fullmatch(os.pread(self._file, _LENGTH, 0))
        self.known = line is not None
        """False: nobody knows what is held; `begin` with what was found."""
        self.held, self.coming, self.limit = map(int, line.groups()) if line else (0, 0, 0)

    def begin(self, held: int, limit: int) -> None:
        self.held, self.coming, self.limit, self.known = held, 0, limit, True
        self._write()

    def add(self, amount: int) -> None:
        """More is held, or less."""
        self.held = max(0, self.held + amount)
        self._write()

    def expect(self, amount: int) -> None:
        """So much is being copied, or, if negative, is so no longer."""
        self.coming = max(0, self.coming + amount)
        self._write()

    def correct(self, held: int) -> None:
        """What a walk has found to be held."""
        self.held = held
        self._write()

    def _write(self) -> None:
        if self.known:
            line = b"%020d %020d %020d\n" % (self.held, self.coming, self.limit)
            if os.pwrite(self._file, line, 0) != len(line):
                raise OSError(errno.EIO, "a write made no progress")

    def close(self) -> None:
        close_quietly(self._file)


@contextlib.contextmanager
def ledger_of(root: int) -> Iterator[Ledger]:
    """The folder's ledger; no other thread or process has it meanwhile."""
    with locked(root):
        ledger = Ledger(root)
        try:
            yield ledger
        finally:
            ledger.close()


@dataclass(slots=True)
class Found:
    """What a walk has found."""

    held: int = 0
    """Bytes that all files take, those with several names once."""
    evictable: list[tuple[float, int, str]] = field(default_factory=list)
    """Time of last use, bytes and key of each archive that nothing else holds on to."""


def look_through(root: int) -> Found:
    """Walks through the folder, following no link."""
    found = Found()
    several: set[tuple[int, int]] = set()
    for top in (ARCHIVES, OWED, LENT):
        if facts_of(root, top) is None:
            continue
        for path, _, names, folder in os.fwalk(top, dir_fd=root, onerror=_unless_gone):
            above = path[len(top) + 1 :]
            for name in names:
                try:
                    facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:  # a temporary file
                    continue
                if not stat.S_ISREG(facts.st_mode) or (facts.st_dev, facts.st_ino) in several:
                    continue
                if facts.st_nlink > 1:
                    several.add((facts.st_dev, facts.st_ino))
                found.held += charge(facts.st_size)
                if top == ARCHIVES and facts.st_nlink == 1 and is_key_segment(name):
                    key = f"{above}/{name}" if above else name
                    found.evictable.append((facts.st_mtime, charge(facts.st_size), key))
    return found


def make_room(root: int, ledger: Ledger, incoming: int, free_space: int) -> list[str]:
    """Removes what was used longest ago until the limit holds with `incoming` bytes more; the keys that went.

    `free_space`: bytes that must be free on the disk then. Raises `NoRoom`, and then nothing was removed.
    """

    def lacking() -> int:
        return max(ledger.held + ledger.coming + incoming - ledger.limit, -spare_room(root, free_space))

    if lacking() <= 0:
        return []
    found = look_through(root)
    ledger.correct(found.held)
    wanted = lacking()
    if wanted <= 0:
        return []
    if wanted > sum(size for _, size, _ in found.evictable):
        raise NoRoom(errno.ENOSPC, "what may be removed would not make room enough")
    wanted += ledger.limit // _SLACK
    evicted = []
    for _, size, key in sorted(found.evictable):
        if wanted <= 0:
            break
        facts = remove(root, f"{ARCHIVES}/{key}")
        if facts is not None and is_freed_with(facts):
            wanted -= size
            ledger.add(-size)
            evicted.append(key)
    return evicted


def rename(folder: int, temporary: str, name: str, ledger: Ledger) -> None:
    """Puts `temporary` in the place of `name`."""
    before, new = facts_of(folder, name), facts_of(folder, temporary)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    if before is not None and new is not None and os.path.samestat(before, new):
        # rename does nothing where both names are links to one file: a file taken over twice. The ledger has it twice
        # now, which the next walk through the folder puts right.
        os.unlink(temporary, dir_fd=folder)
    elif before is not None and is_freed_with(before):
        ledger.add(-charge(before.st_size))


def release(root: int, path: str, ledger: Ledger) -> None:
    """Removes a name, and takes its file off the ledger if that was the last one."""
    facts = remove(root, path)
    if facts is not None and is_freed_with(facts):
        ledger.add(-charge(facts.st_size))


def _unless_gone(error: OSError) -> None:
    """What cannot be looked at would be missing in the sum."""
    if not isinstance(error, FileNotFoundError):
        raise error
