"""The open root folder of an archive cache, taken up anew where somebody removed it under the running mirror."""

from __future__ import annotations

import threading
from pathlib import Path

from mirror.adapters.caches.folder import is_same_folder, open_folder
from mirror.adapters.directory.files import close_quietly
from mirror.adapters.directory.leftovers import Owner


class ArchiveRoot:
    """Everything in the cache is reached from its descriptor. Raises `OSError`, and `StartError` as `open_folder`."""

    def __init__(self, path: Path, mounts: Path) -> None:
        self.path = path
        self._mounts = mounts
        self._guard = threading.Lock()
        self._descriptor: int | None = None
        self._owner: Owner | None = None
        self._retired: list[int] = []

    def open(self) -> int:
        """The descriptor; it stays valid until `close`."""
        descriptor = self._descriptor
        if descriptor is not None and is_same_folder(self.path, descriptor):
            return descriptor
        with self._guard:
            if self._descriptor is None or not is_same_folder(self.path, self._descriptor):
                fresh = open_folder(self.path, self._mounts)
                self._let_go()
                self._descriptor = fresh
            return self._descriptor

    def temporary_name(self) -> str:
        """A new name, which no key can have, and which a sweep leaves alone while this process lives."""
        root = self.open()
        with self._guard:
            if self._owner is None:
                self._owner = Owner(root)
            return self._owner.temporary_name()

    def begin_anew(self) -> None:
        """To be called once the files in the folder are gone: the lock that tells of this process is gone too."""
        with self._guard:
            if self._owner is not None:
                self._owner.release()
                self._owner = None

    def close(self) -> None:
        """Nothing may be under way."""
        self._let_go()
        for descriptor in self._retired:
            close_quietly(descriptor)
        self._retired.clear()

    def _let_go(self) -> None:
        if self._owner is not None:
            self._owner.release()
        if self._descriptor is not None:
            self._retired.append(self._descriptor)  # other threads may be using it still
        self._owner = self._descriptor = None
