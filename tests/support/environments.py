"""Programs in virtual environments of their own, installed once per machine from hashed lock files."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent.parent.parent / ".work"
_COMPLETE = "complete"


class CannotInstall(Exception):
    """An environment could not be made; the text says why."""


def home_of(lock: Path) -> Path:
    """The environment of this lock file, which need not be there yet; another content makes it another folder."""
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode() + sys.base_prefix.encode()).hexdigest()
    return _folder_of(lock) / f"{lock.stem}-{digest[:16]}"


def install(locks: Iterable[Path], say: Callable[[str], None]) -> dict[str, CannotInstall]:
    """Makes the environments that are not there yet, two at a time; what could not be made, by the stem of its lock."""
    missing = [lock for lock in locks if not (home_of(lock) / _COMPLETE).exists()]
    if not missing:
        return {}
    say(f"Installing {', '.join(lock.stem for lock in missing)} into {_FOLDER}, once …")
    with ThreadPoolExecutor(2) as pool:
        outcomes = dict(zip(missing, pool.map(lambda lock: _install(lock, say), missing), strict=True))
    return {lock.stem: failure for lock, failure in outcomes.items() if failure}


def _install(lock: Path, say: Callable[[str], None]) -> CannotInstall | None:
    name, home, folder = lock.stem, home_of(lock), _folder_of(lock)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # another test run may be at it
        if (home / _COMPLETE).exists():
            return None
        for old in folder.glob(f"{name}-{'?' * 16}"):
            shutil.rmtree(old)
        started = time.monotonic()
        venv.create(home, with_pip=False, symlinks=True)
        # The surroundings' settings apply, as they did when these tests' own packages were installed.
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python_of(home),
            "--disable-pip-version-check",
        ]
        done = subprocess.run(
            [*pip, "install", "-q", "--no-deps", "--require-hashes", "-r", lock],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            say(f"  {name}: failed")
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            return CannotInstall(errors[-1] if errors else f"exit code {done.returncode}")
        (home / _COMPLETE).touch()
        say(f"  {name}: {time.monotonic() - started:.0f} s")
        return None


def python_of(home: Path) -> Path:
    """The interpreter of a virtual environment."""
    return home / "bin" / "python"


def _folder_of(lock: Path) -> Path:
    return _FOLDER / lock.parent.name
