"""Temporary files of a directory store: names that tell who is writing them, and the sweep of those that died."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
import threading
from typing import Final

from mirror.adapters.directory.files import close_quietly

_TEMPORARY = re.compile(r"\.tmp-([0-9a-f]{16})-[0-9a-f]{16}", re.ASCII)
_LOCK = re.compile(r"\.lock-([0-9a-f]{16})", re.ASCII)
_FOREIGN: Final = ("spool", "tmp", "lost+found")
"""Folders in the root whose files are not ours to sweep."""


class Owner:
    """One running store, as the names of its temporary files tell it.

    It holds a lock on `.lock-<id>` in the root for as long as its process lives, so that any other process
    that shares the folder can tell a file being written from one whose writer died. Locks vanish with their
    process, however it ends; process ids would not do, for containers number them alike.
    """

    def __init__(self, root: int) -> None:
        """Raises `OSError` if the lock cannot be taken."""
        self._root = root
        self._lock, self._id = _claim(root)

    def temporary_name(self) -> str:
        """A new name, which no key can have."""
        return f".tmp-{self._id}-{secrets.token_hex(8)}"

    def release(self) -> None:
        with contextlib.suppress(OSError):  # gone, or on a disk that cannot be written: a later sweep takes it
            os.unlink(_lock_name(self._id), dir_fd=self._root)
        close_quietly(self._lock)


def is_bookkeeping(name: str) -> bool:
    """Whether `name`, in the root of a store, is a lock or a temporary file."""
    return bool(_TEMPORARY.fullmatch(name) or _LOCK.fullmatch(name))


def sweep(root: int, stop: threading.Event) -> tuple[int, list[OSError]]:
    """Removes the temporary files and locks of dead owners; ends early once `stop` is set.

    Returns how many temporary files went, and what could not be looked at or removed.
    """
    removed = 0
    errors: list[OSError] = []
    dead: set[str] = set()
    try:
        for path, folders, names, folder in os.fwalk(".", dir_fd=root, onerror=errors.append):
            if stop.is_set():
                return removed, errors
            if path == ".":
                folders[:] = [f for f in folders if f not in _FOREIGN]
            for name in names:
                if (found := _TEMPORARY.fullmatch(name)) and (found[1] in dead or not _is_alive(root, found[1])):
                    dead.add(found[1])
                    _remove_file(folder, name)
                    removed += 1
        # Locks go last: one that is missing says the same as one that nobody holds.
        for name in os.listdir(root):
            if found := _LOCK.fullmatch(name):
                _is_alive(root, found[1], bury=True)
    except OSError as error:
        errors.append(error)
    return removed, errors


def _remove_file(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process sweeps too
        if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=folder)


def _lock_name(owner: str) -> str:
    return f".lock-{owner}"


def _claim(root: int) -> tuple[int, str]:
    while True:
        owner = secrets.token_hex(8)
        descriptor = os.open(_lock_name(owner), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=root)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A sweep may have found the file before the lock was on it, and removed it.
            if os.fstat(descriptor).st_nlink:
                return descriptor, owner
        except BlockingIOError:
            pass  # a sweep holds it this instant and will remove it
        except BaseException:  # whatever it is, the lock must not outlive its owner
            os.unlink(_lock_name(owner), dir_fd=root)
            close_quietly(descriptor)
            raise
        close_quietly(descriptor)


def _is_alive(root: int, owner: str, *, bury: bool = False) -> bool:
    """Whether a process holds the owner's lock; with `bury`, the lock file of a dead one is removed."""
    try:
        descriptor = os.open(_lock_name(owner), os.O_RDWR | os.O_NOFOLLOW, dir_fd=root)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if bury:  # while the lock is held: else its owner could take it in between and lose it
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_lock_name(owner), dir_fd=root)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        close_quietly(descriptor)
