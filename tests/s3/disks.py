"""What lies on this machine's disk, what a process did there, and processes whose rights on it are few."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.faults.scene import eventually_async
from tests.s3.scene import Replica
from tests.support.needs import missing, needs, needs_strace
from tests.support.packages import Archive

_CHANGES: Final = (
    *("open", "openat", "openat2", "open_by_handle_at", "creat", "truncate", "ftruncate", "fallocate"),
    *("mkdir", "mkdirat", "mknod", "mknodat", "rename", "renameat", "renameat2", "link", "linkat"),
    *("symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "chmod", "fchmod", "fchmodat", "fchmodat2"),
    *("chown", "fchown", "lchown", "fchownat", "utime", "utimes", "utimensat", "futimesat"),
    *("setxattr", "lsetxattr", "fsetxattr", "copy_file_range", "memfd_create"),
)
"""Every call that changes a file system, or opens a file with which that could be done."""

_CALL: Final = re.compile(r"^\d+ +(\w+)\((.*)")
_READS: Final = re.compile(
    r'^(?:AT_FDCWD|\d+), "(?:[^"\\]|\\.)*", O_RDONLY(?:\|O_(?!CREAT|TRUNC|TMPFILE)\w+)*(?:[,)]| <unfinished)'
)
_NOTHING: Final = re.compile(r'^(?:AT_FDCWD|\d+), "/dev/null"')


def caches(folder: Path) -> dict[str, Any]:
    """The settings of both local caches, which lie in `folder` and leave nobody else any room."""
    return {
        "metadata_cache_dir": folder / "metadata",
        "dist_cache_dir": folder / "dist",
        "cache_free_space": 0,
    }


def taken_by(*folders: Path) -> int:
    """Bytes of disk that everything in the folders takes; a file with several names counts once."""
    blocks = {}
    for folder in folders:
        for path in _files(folder):
            with contextlib.suppress(FileNotFoundError):  # evicted just now
                facts = path.lstat()
                blocks[facts.st_dev, facts.st_ino] = facts.st_blocks
    return 512 * sum(blocks.values())


def copies(folder: Path, archive: Archive) -> list[Path]:
    """Where the archive lies in the folder, by its name."""
    return sorted(path for path in _files(folder) if path.name == archive.filename)


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):  # unlike `rglob` it does not mind what vanishes meanwhile
        yield from (Path(place, name) for name in names)


async def comes_from_cache(replica: Replica, archive: Archive) -> None:
    """Returns once the archive is answered from the cache; whatever answers it until then has to be right."""

    async def is_held() -> bool:
        return await replica.source_of(archive) == "HIT cache"

    await eventually_async(is_held)


def bound_by_modes() -> list[str]:
    """Runs what follows without root's right to pass over the modes of files; the owner stays who it is.

    Another user could not enter the folders that Python, the project and pytest's files may lie in.
    """
    if os.geteuid() != 0:
        return []
    needs("setpriv")
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
    done = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=30)
    if done.returncode:
        missing("setpriv", done.stderr.strip())
    return command


def watched(log: Path) -> list[str]:
    """Runs what follows under the same process id, and notes all that it and its threads do to file systems."""
    needs_strace()
    calls = ",".join(f"?{call}" for call in _CHANGES)  # an architecture may lack some
    return ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", str(log), "-e", f"trace={calls}"]


def changes(log: Path) -> list[str]:
    """What was noted that is more than opening a file to read it, and is not done to /dev/null."""
    return [line for line, name, rest in _noted(log) if not (name.startswith("open") and _READS.match(rest))]


def reads(log: Path) -> int:
    """How many files were opened to be read."""
    return sum(name.startswith("open") and bool(_READS.match(rest)) for _, name, rest in _noted(log))


def _noted(log: Path) -> Iterable[tuple[str, str, str]]:
    for line in log.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        if call is not None and not _NOTHING.match(call[2]):
            yield line, call[1], call[2]
