"""`mirror store` as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mirror.adapters.directory_store import DirectoryStore
from tests.maintenance.stocked import contents, directory, stock

T = TypeVar("T")


def store_command(
    folder: Path, *args: str | Path, code: int = 0, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs it with `environ`, or with `folder` as data-dir; the exit code has to be `code`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MIRROR_", "AWS_"))}
    result = subprocess.run(
        [sys.executable, "-m", "mirror", "store", *args],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=kept | dict(environ or {"MIRROR_DATA_DIR": str(folder)}),
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result


def store_json(
    folder: Path, *args: str | Path, code: int = 0, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The one JSON document that it prints."""
    found: dict[str, Any] = json.loads(store_command(folder, *args, "--json", code=code, environ=environ).stdout)
    return found


def within(folder: Path, work: Callable[[DirectoryStore], Awaitable[T]]) -> T:
    """`work` done with the store in `folder`."""

    async def run() -> T:
        async with directory(folder) as store:
            return await work(store)

    return asyncio.run(run())


def stocked(folder: Path, *projects: str) -> list[str]:
    """Makes a store of these projects and returns its keys."""
    return within(folder, lambda store: stock(store, projects))


def contents_of(folder: Path) -> dict[str, bytes]:
    return within(folder, contents)
