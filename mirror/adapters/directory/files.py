"""Folders and files below one root, opened without following a symbolic link and written so that they last."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from io import FileIO
from typing import Final

PIECE: Final = 1 << 20
"""Bytes read or written at a time."""
READ_ONLY: Final = 0o444
"""Objects are never changed in place; the mode keeps people and tools from doing so by accident."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# O_NONBLOCK: opening a planted FIFO must not hang; it changes nothing for regular files.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_MAX_SETTLED: Final = 65_536
_CANNOT_SYNC_FOLDERS: Final = (errno.EINVAL, errno.ENOTSUP)


class Folders:
    """The folders below an open root.

    Each path is walked segment by segment with O_NOFOLLOW, so that a link planted anywhere in it is
    refused (`OSError` ELOOP) instead of leading outside the root.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        # Folders whose entry in their parent is known to be on disk. That a folder exists does not
        # prove it: another thread or process may have made it and not yet synced its parent.
        self._settled: set[str] = set()

    @contextlib.contextmanager
    def existing(self, path: str) -> Iterator[int]:
        """A descriptor of the folder `path` ("" = the root), closed at the end.

        Raises `FileNotFoundError`, and `NotADirectoryError` where a file is in the way.
        """
        descriptor = self._walk(path, make=False)
        try:
            yield descriptor
        finally:
            close_quietly(descriptor)

    @contextlib.contextmanager
    def made(self, path: str) -> Iterator[int]:
        """The same, after creating, durably, what is missing of the folder."""
        descriptor = self._walk(path, make=True)
        try:
            yield descriptor
        finally:
            close_quietly(descriptor)

    def _walk(self, path: str, *, make: bool) -> int:
        here = os.dup(self.root)
        try:
            walked = ""
            for segment in path.split("/") if path else ():
                walked = f"{walked}/{segment}"
                below = self._enter_or_make(here, segment, walked) if make else _enter(here, segment)
                close_quietly(here)
                here = below
        except BaseException:  # the descriptor has no other owner yet, whatever went wrong
            close_quietly(here)
            raise
        return here

    def _enter_or_make(self, parent: int, segment: str, walked: str) -> int:
        settled = walked in self._settled
        try:
            descriptor = _enter(parent, segment)
        except FileNotFoundError:
            settled = False
            with contextlib.suppress(FileExistsError):  # another writer was faster
                os.mkdir(segment, dir_fd=parent)
            descriptor = _enter(parent, segment)
        if not settled:
            try:
                sync_folder(parent)
            except BaseException:  # the descriptor has no other owner yet, whatever went wrong
                close_quietly(descriptor)
                raise
            if len(self._settled) >= _MAX_SETTLED:
                self._settled.clear()
            self._settled.add(walked)
        return descriptor


def _enter(parent: int, segment: str) -> int:
    try:
        return os.open(segment, _FOLDER, dir_fd=parent)
    except NotADirectoryError:
        # Linux says ENOTDIR of a link too when O_DIRECTORY is given.
        if stat.S_ISLNK(os.stat(segment, dir_fd=parent, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, "a symbolic link is in the way") from None
        raise


def open_regular(folder: int, name: str) -> FileIO | None:
    """The regular file `name`, unbuffered; None if that is a folder.

    Raises `FileNotFoundError`, and `OSError` for links, pipes, sockets and devices.
    """
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "a symbolic link is in the way") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return FileIO(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        return None
    raise OSError(errno.EINVAL, "it is not a regular file")


def write_new(folder: int, name: str, pieces: Iterable[bytes], size: int) -> None:
    """Creates the file `name` from `pieces`, `size` bytes in all, and waits until its bytes are on disk.

    Raises `OSError` if it exists, and whatever goes wrong up to its closing; the caller removes the remains.
    """
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, READ_ONLY, dir_fd=folder)
    with FileIO(descriptor, "wb") as file:  # its close reports errors too: network file systems tell of them there
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                written = file.write(rest)
                if not written:
                    raise OSError(errno.EIO, "a write made no progress")
                rest = rest[written:]
        # A write that claims more than it did (a failing disk, a full network share) shows here.
        if (actual := os.fstat(descriptor).st_size) != size:
            raise OSError(errno.EIO, f"{actual} bytes arrived on disk instead of {size}")
        os.fsync(descriptor)


def read_pieces(file: FileIO) -> Iterator[bytes]:
    """The whole of `file` from its start, however far it has been read."""
    offset = 0
    while piece := os.pread(file.fileno(), PIECE, offset):
        offset += len(piece)
        yield piece


def sync_folder(folder: int) -> None:
    """Waits until the names in `folder` are on disk; without this a rename can be lost in a power cut."""
    try:
        os.fsync(folder)
    except OSError as error:
        # Some network and FUSE file systems cannot do it; their names last as long as they say they do.
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise


def close_quietly(descriptor: int) -> None:
    """Closes a descriptor through which nothing was written, so that an error has nothing to say of any object."""
    with contextlib.suppress(OSError):
        os.close(descriptor)
