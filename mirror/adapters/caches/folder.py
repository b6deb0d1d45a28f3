"""The folder of a local cache: made for us alone, or refused where others may write or where it is no local disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mirror.adapters.directory.files import close_quietly
from mirror.errors import StartError

MOUNTS: Final = Path("/proc/self/mountinfo")
"""Where Linux tells what is mounted (proc_pid_mountinfo(5)); systems without it are taken at their word."""

_NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "davfs2", "gfs", "gfs2", "glusterfs", "gpfs", "lustre"}
    | {"ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs"}
)
_LOCAL_FUSE: Final = frozenset({"fuseblk", "fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.bindfs", "fuse.ntfs-3g"})
"""Any other FUSE file system is taken for a network one: nearly all of them are."""
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_LOCK_PATIENCE: Final = 5.0
_LOCK_PAUSE: Final = 0.01


def open_folder(path: Path, mounts: Path = MOUNTS) -> int:
    """A descriptor of the folder, which is made (0700) if it is missing.

    Raises `StartError` where it lies on a network file system, where others may write in it, or where it belongs
    to another user; `OSError` where it cannot be used now.
    """
    if kind := network_kind(path, mounts):
        raise StartError(
            f"The cache folder {path} lies on a network file system ({kind}): what is fast and locks reliably is a "
            "local disk; choose a folder on one."
        )
    for folder in reversed((path, *path.parents)):  # `Path.mkdir` would give parents another mode
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _refuse_if_others_may_write(descriptor, path)
    except BaseException:  # the descriptor has no other owner yet, whatever went wrong
        close_quietly(descriptor)
        raise
    return descriptor


def open_own(parent: int, name: str, path: Path) -> tuple[int, bool]:
    """A descriptor of our own folder `name` in `parent`, and whether it was made just now; raises as `open_folder`.

    `path` is how messages call it. A link in its place is not followed.
    """
    made = False
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        made = True
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        _refuse_if_others_may_write(descriptor, path)
    except BaseException:  # the descriptor has no other owner yet, whatever went wrong
        close_quietly(descriptor)
        raise
    return descriptor, made


def network_kind(path: Path, mounts: Path = MOUNTS) -> str | None:
    """The type of the network file system that `path`, which need not exist, lies on; None if it is a local one."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return None
    place = os.path.realpath(path)
    longest, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = _unescaped(before.split(" ")[4])
        # Of two mounts on one place the later one is seen.
        if len(point) >= len(longest) and (place == point or place.startswith(point.rstrip("/") + "/")):
            longest, kind = point, after.split(" ")[0]
    is_network = kind in _NETWORK or (kind.startswith("fuse") and kind not in _LOCAL_FUSE)
    return kind if is_network else None


def is_same_folder(path: Path, descriptor: int) -> bool:
    """Whether `path` still leads to the open folder: somebody may have removed it or mounted something over it."""
    try:
        there, ours = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) and ours.st_nlink > 0


def spare_room(folder: int, wanted: int) -> int:
    """Bytes by which the disk has more free room than `wanted`; negative if it has less, or no room for a file."""
    facts = os.fstatvfs(folder)
    if facts.f_files and not facts.f_favail:
        return min(-1, facts.f_bavail * facts.f_frsize - wanted)
    return facts.f_bavail * facts.f_frsize - wanted


@contextlib.contextmanager
def locked(folder: int) -> Iterator[None]:
    """Nobody else, in this process or another, who asks for this works on the folder meanwhile; `OSError` if it takes long."""
    # An open of its own: a lock belongs to it, and threads that shared one would not exclude each other.
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
    try:
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OSError(errno.EAGAIN, "another process keeps it locked") from None
                time.sleep(_LOCK_PAUSE)  # in a worker thread, as all of this; flock itself knows no time limit
        yield
    finally:
        close_quietly(descriptor)


def _refuse_if_others_may_write(descriptor: int, path: Path) -> None:
    facts = os.fstat(descriptor)
    if facts.st_uid != os.geteuid():
        raise StartError(
            f"The cache folder {path} belongs to the user with the number {facts.st_uid}, who could change what is in "
            f"it, and the mirror runs as {os.geteuid()}: choose a folder that does not exist yet (the mirror makes it), "
            "or give it to that user."
        )
    if facts.st_mode & _OTHERS_MAY_WRITE:
        raise StartError(
            f"Other users may write in the cache folder {path} (mode {stat.S_IMODE(facts.st_mode):04o}): "
            "choose a folder that does not exist yet (the mirror makes it), or make this one 0700."
        )


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)
