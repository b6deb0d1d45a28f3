"""Runs a test's body in a process with mounts of its own, so that whatever it mounts vanishes with it."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.support.needs import in_mount_namespace, needs_mount_namespace

_NOBODY = 65534

Scenario = Callable[[Path], Awaitable[None]]


def run_with_own_mounts(scenario: Scenario, folder: Path) -> None:
    """Runs the module-level coroutine function in another process; fails with its output if that fails."""
    needs_mount_namespace()
    command = [sys.executable, "-W", "error", "-m", __name__, f"{scenario.__module__}:{scenario.__name__}", str(folder)]
    done = subprocess.run(in_mount_namespace(*command), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def run_as_nobody(scenario: Scenario, folder: Path) -> None:
    """Runs the coroutine function in another process that gives up root's rights before; needs root."""
    command = [sys.executable, "-W", "error", "-m", __name__, f"{scenario.__module__}:{scenario.__name__}", str(folder)]
    done = subprocess.run([*command, "nobody"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def with_mounts(script: str) -> list[str]:
    """Runs what follows after `script`, in mounts of its own and under the same process id."""
    needs_mount_namespace()
    return in_mount_namespace("sh", "-ec", f'{script}; exec "$@"', "sh")


def mount(*arguments: str | Path) -> None:
    """`mount` with these arguments."""
    system("mount", *arguments)


def unmount(folder: Path) -> None:
    system("umount", folder)


def make_disk(filesystem: str, image: Path) -> None:
    """A sparse file of 320 MiB, the least that XFS takes, with an empty file system in it."""
    with image.open("wb") as file:
        file.truncate(320 << 20)
    system(f"mkfs.{filesystem}", "-q", image)


def system(*command: str | Path) -> None:
    """Runs an administrator's tool; raises `CalledProcessError`."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    subprocess.run(["env", f"PATH={path}", *(str(c) for c in command)], check=True)


def _main(name: str, folder: str, user: str = "") -> None:
    module, _, function = name.partition(":")
    scenario: Scenario = getattr(importlib.import_module(module), function)

    if user:
        # Not at the start of the process: Python and the project may lie where only root can read them.
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)

    async def run() -> None:
        await scenario(Path(folder))

    asyncio.run(run())


if __name__ == "__main__":
    _main(*sys.argv[1:])
