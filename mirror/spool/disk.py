"""Spools in files, in a folder that each process has of its own."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import threading
from pathlib import Path

_FOLDER = re.compile("[0-9a-f]{16}")
READ_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
MAX_PIECES = 512
"""Buffers for one system call; Linux takes 1,024 (IOV_MAX)."""


class DiskSpools:
    """Spools in a folder of this process's own below `root`.

    Every process locks its folder, so that a start sweeps what a crash left behind and nothing that another
    process on the same `root` is writing.
    """

    def __init__(self, root: Path, *, leave: int = 0) -> None:
        """`leave`: bytes of the disk that are left to others."""
        self._root, self._leave = root, leave
        self._folder = root / secrets.token_hex(8)
        self._lock = -1
        self._renewing = threading.Lock()

    def prepare(self) -> None:
        """Creates the folder and removes those of processes that are gone. Raises `OSError`."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(root, fcntl.LOCK_EX)  # one process at a time: a folder just made is not locked yet
            for left in self._root.iterdir():
                if _FOLDER.fullmatch(left.name):  # `lost+found` and the like are not ours
                    self._sweep(left)
            self._folder.mkdir(mode=0o700)
            self._take_lock()
        finally:
            os.close(root)

    def _renew(self) -> None:
        with self._renewing:
            if not self._folder.is_dir():
                self._folder.mkdir(mode=0o700, parents=True)
                if self._lock >= 0:
                    os.close(self._lock)
                self._take_lock()

    def _take_lock(self) -> None:
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @staticmethod
    def _sweep(folder: Path) -> None:
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return  # its owner ended just now
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # its owner is alive
        else:
            if folder.exists():
                for leftover in folder.iterdir():
                    leftover.unlink()
                folder.rmdir()
        finally:
            os.close(handle)

    def create(self, expected: int | None) -> DiskSpool:
        if not self._folder.is_dir():
            self._renew()  # somebody removed it under our feet
        stat = os.statvfs(self._folder)
        if (expected or 0) + self._leave > stat.f_bavail * stat.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return DiskSpool(self._folder / secrets.token_hex(12))

    def close(self) -> None:
        """Removes the folder at the end of the process, when no download runs any more."""
        if self._lock < 0:
            return
        if self._folder.is_dir():
            for leftover in self._folder.iterdir():
                leftover.unlink()
            self._folder.rmdir()
        os.close(self._lock)
        self._lock = -1


class DiskSpool:
    """One file in the spool folder, open for reading and writing."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.path: Path | None = path
        self.size = 0

    def append(self, pieces: list[bytes]) -> None:
        try:
            self._write(pieces)
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise

    def _write(self, pieces: list[bytes]) -> None:
        if len(pieces) > MAX_PIECES:
            pieces = [b"".join(pieces)]
        size = self.size + sum(map(len, pieces))
        written = self.size + os.writev(self._fd, pieces)
        if written < size:
            # A short write is the first sign of a full disk; what is still missing tells for sure.
            rest = memoryview(b"".join(pieces))[written - size :]
            while rest:
                count = os.write(self._fd, rest)
                if count == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                rest = rest[count:]
        # Written at the end rather than at a position, so that a write that claims more than it did (a failing
        # disk, a network share) leaves no hole: it shows here.
        if (actual := os.fstat(self._fd).st_size) != size:
            raise OSError(errno.EIO, f"{actual} bytes arrived on disk instead of {size}")
        self.size = size

    def peek(self, position: int, length: int) -> bytes | None:
        if not READ_NOWAIT:
            return None
        buffer = bytearray(length)
        try:
            count = os.preadv(self._fd, [buffer], position, READ_NOWAIT)
        except OSError as e:
            if e.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS):
                return None  # not in the page cache, or a file system that cannot tell
            raise
        return bytes(memoryview(buffer)[:count]) if count else None

    def read(self, position: int, length: int) -> bytes:
        return os.pread(self._fd, length, position)

    def discard(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
