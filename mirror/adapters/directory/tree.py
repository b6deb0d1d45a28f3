"""Objects as files below one folder: the blocking half of the directory store."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Final

from mirror.adapters.directory.files import READ_ONLY, open_regular, sync_folder
from mirror.adapters.directory.leftovers import sweep
from mirror.adapters.directory.publish import Publisher, from_body, from_copy, from_file
from mirror.adapters.store_keys import RESERVED, is_key_segment
from mirror.errors import StoreFailure
from mirror.model import Blob, LocalFile, Origin, Span, Unchanged
from mirror.ports import StoredKey

_NOT_THERE: Final = (FileNotFoundError, NotADirectoryError)
_BATCH: Final = 1000


class ObjectTree:
    """Reads and writes objects; every method may block and may run in any thread, several at once.

    Keys are taken as checked. `OSError` becomes `StoreFailure`.
    """

    def __init__(self, root: Path) -> None:
        """Raises `StartError`."""
        self._publisher = Publisher(root)

    def close(self) -> None:
        """Nothing may be under way."""
        self._publisher.close()

    def sweep(self, stop: threading.Event) -> tuple[int, list[OSError]]:
        """Removes what writers that died left behind; see `directory_leftovers.sweep`."""
        return sweep(self._publisher.folders.root, stop)

    def open(self, key: str, span: Span) -> LocalFile | None:
        with _reported("read", key):
            handle = self._open_object(key)
            if handle is None:
                return None
            try:
                size = os.fstat(handle.fileno()).st_size
                start, stop = span.resolve(size)
            except BaseException:  # the handle has no other owner yet, whatever went wrong
                handle.close()
                raise
            return LocalFile(handle, size, start, stop, Origin.STORE)

    def read(self, key: str, limit: int) -> bytes | None:
        with _reported("read", key):
            handle = self._open_object(key)
            if handle is None:
                return None
            with handle:
                return _read_whole(handle, key, limit)

    def reread(self, key: str, limit: int, version: str) -> Blob | Unchanged | None:
        with _reported("read", key):
            handle = self._open_object(key)
            if handle is None:
                return None
            with handle:
                if (now := _version(handle)) == version:
                    return Unchanged.UNCHANGED
                return Blob(_read_whole(handle, key, limit), now)

    def put(self, key: str, body: bytes) -> None:
        with _reported("write", key):
            self._publisher.make_ready()
            self._publisher.publish(key, from_body(body))

    def create(self, key: str, body: bytes) -> bool:
        with _reported("write", key), self._publisher.alone():
            handle = self._open_object(key)
            if handle is not None:
                handle.close()
                return False
            self._publisher.publish(key, from_body(body))
            return True

    def replace(self, key: str, body: bytes, version: str) -> bool:
        with _reported("write", key), self._publisher.alone():
            handle = self._open_object(key)
            if handle is None:
                return False
            with handle:
                if _version(handle) != version:
                    return False
            self._publisher.publish(key, from_body(body))
            return True

    def adopt(self, key: str, path: Path) -> None:
        with _reported("write", key):
            self._publisher.make_ready()
            with FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as source:
                if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                    raise OSError(errno.EINVAL, "what was to be taken over is not a regular file")
                # Volumes without modes (CIFS, some FUSE) refuse this; the mode is a guard rail, no more.
                with contextlib.suppress(PermissionError):
                    os.fchmod(source.fileno(), READ_ONLY)
                os.fsync(source.fileno())
                # Linked, not renamed: whatever fails until the object is on disk, the caller still has its file.
                self._publisher.publish(key, from_file(path, source))
            os.unlink(path)

    def delete(self, key: str) -> None:
        folder, _, name = key.rpartition("/")
        with (
            _reported("delete", key),
            contextlib.suppress(*_NOT_THERE, IsADirectoryError),
            self._publisher.folders.existing(folder) as descriptor,
        ):
            os.unlink(name, dir_fd=descriptor)
            sync_folder(descriptor)

    def quarantine(self, key: str) -> None:
        """Moves the object to `quarantine/<key>/<time>-<process>`: a new name, so nothing is overwritten."""
        folder, _, name = key.rpartition("/")
        shelf = f"quarantine/{key}"
        kept = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}-{threading.get_ident():x}"
        folders = self._publisher.folders
        with (
            _reported("quarantine", key),
            contextlib.suppress(*_NOT_THERE),
            folders.existing(folder) as source,
        ):
            if stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
                return
            with folders.made(shelf) as target:
                try:
                    os.rename(name, kept, src_dir_fd=source, dst_dir_fd=target)
                    sync_folder(target)
                except OSError as error:
                    if error.errno != errno.EXDEV:  # the operator may have mounted a volume below the root
                        raise
                    self._copy_to(f"{shelf}/{kept}", source, name)
                    os.unlink(name, dir_fd=source)
            sync_folder(source)

    def batches(self, prefix: str) -> Iterator[list[StoredKey]]:
        """The objects whose key starts with `prefix`, in key order; nothing is held open between two batches."""
        batch: list[StoredKey] = []
        for found in self._walk(prefix.rpartition("/")[0], prefix):
            batch.append(found)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def probe(self) -> None:
        """Raises `StoreFailure` if a block cannot be written to disk now."""
        with _reported("write", "its probe"):
            self._publisher.probe()

    def _open_object(self, key: str) -> FileIO | None:
        folder, _, name = key.rpartition("/")
        try:
            with self._publisher.folders.existing(folder) as descriptor:
                return open_regular(descriptor, name)
        except _NOT_THERE:
            return None

    def _copy_to(self, key: str, folder: int, name: str) -> None:
        file = open_regular(folder, name)
        if file is None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with file:
            self._publisher.publish(key, from_copy(file))

    def _walk(self, folder: str, prefix: str) -> Iterator[StoredKey]:
        """Depth first. A folder sorts as its name with the slash, as its keys do: `a-b` comes before `a/b`."""
        entries = self._entries(folder)
        above = f"{folder}/" if folder else ""
        for name, facts in sorted((n + "/" if stat.S_ISDIR(f.st_mode) else n, f) for n, f in entries.items()):
            key = above + name
            if name.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._walk(key[:-1], prefix)
            elif key.startswith(prefix) and stat.S_ISREG(facts.st_mode):
                yield StoredKey(key, facts.st_size, facts.st_mtime)

    def _entries(self, folder: str) -> dict[str, os.stat_result]:
        """What could be objects or folders of objects; a folder that does not exist holds nothing."""
        found: dict[str, os.stat_result] = {}
        with (
            _reported("list", folder),
            contextlib.suppress(*_NOT_THERE),
            self._publisher.folders.existing(folder) as descriptor,
            os.scandir(descriptor) as entries,
        ):
            for entry in entries:
                if is_key_segment(entry.name) and (folder or entry.name not in RESERVED):
                    with contextlib.suppress(FileNotFoundError):  # deleted since
                        found[entry.name] = entry.stat(follow_symlinks=False)
        return found


def _read_whole(handle: FileIO, key: str, limit: int) -> bytes:
    size = os.fstat(handle.fileno()).st_size
    if size > limit:
        raise StoreFailure("read", key, f"it has {size} bytes, and at most {limit} were expected")
    body = handle.read(size)
    if len(body) != size:
        raise StoreFailure("read", key, f"only {len(body)} of its {size} bytes could be read")
    return body


def _version(handle: FileIO) -> str:
    """Every version of an object is a file of its own. That its number may be given again is why there is the time."""
    facts = os.fstat(handle.fileno())
    return f"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}"


@contextlib.contextmanager
def _reported(action: str, key: str) -> Iterator[None]:
    """Turns the operating system's errors into `StoreFailure`, whose text names no path."""
    try:
        yield
    except OSError as error:
        raise StoreFailure(action, key, error.strerror or type(error).__name__) from error
