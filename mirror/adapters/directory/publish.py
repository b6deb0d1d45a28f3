"""How a file gets its name in a directory store: temporary file, to disk, renamed, folder to disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Final

from mirror.adapters.directory.files import Folders, close_quietly, read_pieces, sync_folder, write_new
from mirror.adapters.directory.leftovers import Owner
from mirror.adapters.directory.root import open_root, unusable
from mirror.adapters.store_layout import LAYOUT_FILE, new_layout
from mirror.errors import StartError

Create = Callable[[int, str], None]
"""Makes a file, complete and on disk, in an open folder under a name."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_CANNOT_LINK: Final = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
_PROBE: Final = bytes(4096)
"""One block, so that a full disk is noticed."""


class Publisher:
    """The open root of a store and the one way in which files appear below it. Raises `OSError`.

    The root is opened once and everything is reached from that descriptor, so a folder that is moved or
    mounted over while the mirror runs does not change what it reads and writes.
    """

    def __init__(self, root: Path) -> None:
        """Opens or creates the root and proves that it can be written; a full disk may still be read from.

        Raises `StartError`.
        """
        self._path = root
        self._guard = threading.Lock()
        self._owner: Owner | None = None
        self._retired: list[int] = []
        descriptor, has_layout = open_root(root)
        self.folders = Folders(descriptor)
        try:
            if not has_layout:
                self.publish(LAYOUT_FILE, from_body(new_layout()))
            self._write_probe()
        except OSError as error:
            if not (has_layout and error.errno in _FULL):
                self.close()
                raise unusable(root, error) from error

    def close(self) -> None:
        """Closes the root; nothing may be under way."""
        if self._owner is not None:
            self._owner.release()
        for descriptor in (self.folders.root, *self._retired):
            close_quietly(descriptor)

    def publish(self, key: str, create: Create) -> None:
        """Creates or replaces the file `key`: whole or not at all, and on disk when this returns."""
        folder, _, name = key.rpartition("/")
        with self.folders.made(folder) as descriptor:
            temporary = self._temporary_name()
            try:
                create(descriptor, temporary)
                replaces = _exists(descriptor, name)
                os.rename(temporary, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
                if replaces:
                    # rename does nothing where both names are links to one file: a file taken over twice.
                    _unlink_if_there(descriptor, temporary)
            except BaseException:  # nothing unfinished may stay, whatever went wrong
                with contextlib.suppress(OSError):  # the first error counts; the next sweep takes the rest
                    os.unlink(temporary, dir_fd=descriptor)
                raise
            try:
                sync_folder(descriptor)
            except OSError:
                # The name may not last, so it is taken back. Not so a new version: the old one is gone already.
                if not replaces:
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=descriptor)
                raise

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other thread or process that asks for this works on the store meanwhile."""
        self.make_ready()
        # An open of its own: a lock belongs to it, and threads that shared one would not exclude each other.
        descriptor = os.open(LAYOUT_FILE, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.folders.root)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def probe(self) -> None:
        """Writes a block to disk and removes it."""
        self.make_ready()
        self._write_probe()

    def make_ready(self) -> None:
        """Begins anew where somebody deleted the folder, or all that it held, under the running mirror."""
        root = self.folders.root
        if _exists(root, LAYOUT_FILE):
            return
        with self._guard:
            if self.folders.root == root:
                if os.fstat(root).st_nlink == 0:
                    try:
                        fresh, _ = open_root(self._path)
                    except StartError as error:
                        raise OSError(errno.ENOENT, "its folder was deleted and cannot be made again") from error
                    self._retired.append(root)  # other threads may be using it still
                    root = fresh
                if self._owner is not None:
                    self._owner.release()
                self.folders, self._owner = Folders(root), None
        self.publish(LAYOUT_FILE, from_body(new_layout()))

    def _write_probe(self) -> None:
        root, name = self.folders.root, self._temporary_name()
        try:
            write_new(root, name, (_PROBE,), len(_PROBE))
        finally:
            _unlink_if_there(root, name)

    def _temporary_name(self) -> str:
        with self._guard:
            if self._owner is None:
                self._owner = Owner(self.folders.root)
            return self._owner.temporary_name()


def from_body(body: bytes) -> Create:
    """Creates a file that holds `body`."""
    return lambda folder, name: write_new(folder, name, (body,), len(body))


def from_copy(source: FileIO) -> Create:
    """Creates a copy of an open file."""
    size = os.fstat(source.fileno()).st_size
    return lambda folder, name: write_new(folder, name, read_pieces(source), size)


def from_file(path: Path, source: FileIO) -> Create:
    """Creates a link to the file `path`, open as `source` and on disk; a copy where a link cannot be made."""

    def create(folder: int, name: str) -> None:
        try:
            os.link(path, name, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            from_copy(source)(folder, name)

    return create


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _unlink_if_there(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
