"""Skips a test whose tool is missing, loudly: every reason begins with `MISSING TOOL: `, so a summary can count them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

import pytest

MISSING = "MISSING TOOL: "
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
"""Administrators' tools are off the path of ordinary users."""


def needs(*tools: str) -> None:
    """Skips unless every program is installed."""
    for tool in tools:
        if shutil.which(tool, path=_PATH) is None:
            missing(tool)


def needs_root() -> None:
    """Skips unless the test runs as root."""
    if os.geteuid() != 0:
        missing("root")


def needs_mount_namespace() -> None:
    """Skips unless the test may mount file systems of its own, as root or in a user namespace."""
    needs("unshare", "mount")
    if why := _try(*in_mount_namespace("true")):
        missing("unshare", why)


def needs_strace() -> None:
    """Skips unless strace may attach to a process that this one started."""
    needs("strace")
    if why := _strace_refusal():
        missing("strace", why)


def needs_loop_device(filesystem: str) -> None:
    """Skips unless a file system of this kind in a file can be made and mounted."""
    needs_root()
    needs(f"mkfs.{filesystem}", "losetup")
    needs_mount_namespace()
    if why := _try("losetup", "--find"):
        missing("loop devices", why)
    with open("/proc/filesystems") as known:
        # One that is a module and not yet loaded is not listed.
        if f"\t{filesystem}\n" not in known.read() and (why := _try("modprobe", filesystem)):
            missing(filesystem, why)


def in_mount_namespace(*command: str) -> list[str]:
    """`command` in mounts of its own, which vanish with it; as root within, where only that allows it."""
    become_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *become_root, "--mount", "--", *command]


def missing(tool: str, why: str = "") -> None:
    """Skips the test for want of `tool`."""
    pytest.skip(f"{MISSING}{tool}" + (f" ({why})" if why else ""))


@functools.cache
def _try(*command: str) -> str:
    """Why `command` fails; empty if it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ | {"PATH": _PATH})
    except FileNotFoundError as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit status {done.returncode}")


@functools.cache
def _strace_refusal() -> str:
    return _try("strace", "-f", "-o", os.devnull, "-e", "trace=close", sys.executable, "-c", "pass")
