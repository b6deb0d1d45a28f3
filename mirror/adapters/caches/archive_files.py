"""Files of an archive cache by key: opened, named and removed without following a link."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from io import FileIO
from typing import Final

from mirror.adapters.directory.files import READ_ONLY, close_quietly, read_pieces, sync_folder

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NOT_THERE: Final = (FileNotFoundError, NotADirectoryError)
_CANNOT_LINK: Final = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def folder_of(root: int, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder that the file `path` lies in, made (0700) if need be, and the file's name there.

    Raises `FileNotFoundError`, and `OSError` where a link is in the way.
    """
    *folders, name = path.split("/")
    here = os.dup(root)
    try:
        for folder in folders:
            below = _enter(here, folder, make)
            close_quietly(here)
            here = below
        yield here, name
    finally:
        close_quietly(here)


def _enter(parent: int, name: str, make: bool) -> int:
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except NotADirectoryError:
        # Linux says ENOTDIR of a link too when O_DIRECTORY is given.
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, "a symbolic link is in the way") from None
        raise


def facts_of(folder: int, name: str) -> os.stat_result | None:
    """Of the name itself, not of what a link leads to; None if there is no such name."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def remove(root: int, path: str) -> os.stat_result | None:
    """Removes a file, and the folders that it leaves empty; what it was, None if it was not there."""
    folder, _, _ = path.rpartition("/")
    try:
        with folder_of(root, path) as (here, name):
            facts = facts_of(here, name)
            if facts is None:
                return None
            os.unlink(name, dir_fd=here)
    except NOT_THERE:
        return None
    while "/" in folder:
        try:
            with folder_of(root, folder) as (here, name):
                os.rmdir(name, dir_fd=here)
        except OSError:
            break  # it is not empty
        folder, _, _ = folder.rpartition("/")
    return facts


def is_freed_with(facts: os.stat_result) -> bool:
    """Whether a file goes with the name of which these were the facts."""
    return stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1


def link_or_create(path: str, folder: int, name: str) -> FileIO | None:
    """Gives the file `path` a further name; where that cannot be, creates a file to copy it to."""
    try:
        os.link(path, name, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
    else:
        return None
    # Appended to rather than written at positions, so that a write that claims more than it did shows in the length.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return FileIO(os.open(name, flags, READ_ONLY, dir_fd=folder), "wb")


def copy(source: FileIO, target: FileIO, size: int, moved: Callable[[], None]) -> None:
    """Copies a whole file of `size` bytes; calls `moved` after each piece."""
    for piece in read_pieces(source):
        rest = memoryview(piece)
        while rest:
            written = target.write(rest)
            if not written:
                raise OSError(errno.EIO, "a write made no progress")
            rest = rest[written:]
        moved()
    if (actual := os.fstat(target.fileno()).st_size) != size:
        raise OSError(errno.EIO, f"{actual} bytes arrived on disk instead of {size}")


def sync_folders(root: int, path: str) -> None:
    """Waits until the name of a file, and those of the folders above it, are on disk."""
    while path:
        with folder_of(root, path) as (here, _):
            sync_folder(here)
        path, _, _ = path.rpartition("/")
