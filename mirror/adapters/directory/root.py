"""The root folder of a directory store: created, or recognised, or refused with a line that says what to do."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mirror.adapters.directory.files import open_regular, sync_folder
from mirror.adapters.directory.leftovers import is_bookkeeping
from mirror.adapters.store_keys import RESERVED
from mirror.adapters.store_layout import LAYOUT_FILE, check_layout
from mirror.errors import StartError

_ELSEWHERE = "choose another folder for the store"


def open_root(root: Path) -> tuple[int, bool]:
    """Opens the folder, creating it (0700) if need be; returns its descriptor and whether its layout was there.

    Raises `StartError` for a folder that is not a store of this layout, or cannot be opened.
    """
    try:
        _make(root)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except (NotADirectoryError, FileExistsError):
        raise StartError(f"{root} is not a folder: remove what lies there, or {_ELSEWHERE}.") from None
    except OSError as error:
        raise unusable(root, error) from error
    try:
        return descriptor, _has_layout(descriptor, root)
    except BaseException:  # the descriptor has no other owner yet, whatever went wrong
        os.close(descriptor)
        raise


def unusable(root: Path, error: OSError) -> StartError:
    """The failure to raise where the operating system refuses the folder."""
    return StartError(
        f"{root} cannot be used as a store ({error.strerror}): make it writable for the user with "
        f"the number {os.geteuid()}, or {_ELSEWHERE}."
    )


def _make(root: Path) -> None:
    missing = []
    folder = root
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another worker of the same mirror was faster
            new.mkdir(mode=0o700)
        parent = os.open(new.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync_folder(parent)
        finally:
            os.close(parent)


def _has_layout(descriptor: int, root: Path) -> bool:
    try:
        # Listed first: what another worker of the same mirror puts here, it puts after the layout.
        names = os.listdir(descriptor)
        file = open_regular(descriptor, LAYOUT_FILE)
        if file is not None:
            with file:
                check_layout(file.read(65_536), str(root))
            return True
    except FileNotFoundError:
        pass
    except OSError as error:
        raise unusable(root, error) from error
    # The spool and the tmp folder are the mirror's own, lost+found is the file system's.
    if any(n not in RESERVED - {LAYOUT_FILE} and not is_bookkeeping(n) for n in names):
        raise StartError(
            f"{root} is not empty and holds no {LAYOUT_FILE}, so it is no store of this mirror: choose an empty folder."
        )
    return False
