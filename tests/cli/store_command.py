"""`mirror store` as a process of its own, without the second that its imports take."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

from mirror.adapters.directory.store import DirectoryStore
from mirror.cli.main import main
from tests.maintenance.stocked import contents, directory, stock

T = TypeVar("T")

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload([__name__, "mirror.cli.store", "mirror.adapters.s3.store"])


def store_command(
    folder: Path, *args: str | Path, code: int = 0, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs it with `environ`, or with `folder` as data-dir; the exit code has to be `code`.

    The process is a fork of one that has imported everything, which is all that sets it apart from one of its own.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MIRROR_", "AWS_"))}
    command = ["store", *map(str, args)]
    with TemporaryFile() as out, TemporaryFile() as err:
        process = _FORKING.Process(
            target=_run,
            args=(
                command,
                kept | dict(environ or {"MIRROR_DATA_DIR": str(folder)}),
                os.getcwd(),
                DupFd(out.fileno()),
                DupFd(err.fileno()),
            ),
        )
        process.start()
        process.join(100)
        if process.is_alive():
            process.kill()
            process.join()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    assert process.exitcode == code, "".join(texts)
    return subprocess.CompletedProcess(command, code, *texts)


def _run(args: Sequence[str], environ: Mapping[str, str], folder: str, out: Any, err: Any) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    for number, stream in ((1, out), (2, err)):
        os.dup2(stream.detach(), number)
    sys.exit(main(args))


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
