"""Puts the clients into virtual environments of their own, once per machine, from hashed lock files."""

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

LOCKS: Final = Path(__file__).parent
FOLDER: Final = LOCKS.parent.parent / ".work" / "clients"
_COMPLETE = "complete"


class CannotInstall(Exception):
    """A client could not be installed; the text says why."""


def home_of(name: str) -> Path:
    """The virtual environment of the client, which need not be there yet; another lock file makes it another folder."""
    lock = (LOCKS / f"{name}.txt").read_bytes()
    digest = hashlib.sha256(lock + sys.version.encode() + sys.base_prefix.encode()).hexdigest()
    return FOLDER / f"{name}-{digest[:16]}"


def install(names: Iterable[str], say: Callable[[str], None]) -> dict[str, CannotInstall]:
    """Installs the clients that are not there yet, two at a time, and returns those that could not be installed."""
    missing = [name for name in names if not (home_of(name) / _COMPLETE).exists()]
    if not missing:
        return {}
    say(f"Installing {', '.join(missing)} into {FOLDER}, once …")
    with ThreadPoolExecutor(2) as pool:
        outcomes = dict(zip(missing, pool.map(lambda name: _install(name, say), missing), strict=True))
    return {name: failure for name, failure in outcomes.items() if failure}


def _install(name: str, say: Callable[[str], None]) -> CannotInstall | None:
    home = home_of(name)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run may be at it
        if (home / _COMPLETE).exists():
            return None
        for old in FOLDER.glob(f"{name}-{'?' * 16}"):
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
            [*pip, "install", "-q", "--no-deps", "--require-hashes", "-r", LOCKS / f"{name}.txt"],
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
