"""What the commands of `mirror store` have in common: their settings, their end, and how they talk."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import click

from mirror.adapters.system_clock import SystemClock
from mirror.cli.logs import configure_logging
from mirror.cli.options import Given
from mirror.config import Config
from mirror.counters import Counters
from mirror.errors import printable
from mirror.flight import Tasks
from mirror.ports import Clock
from mirror.settings.kinds import Kind

SETTINGS: Final = (
    "storage",
    "data_dir",
    "s3_bucket",
    "s3_prefix",
    "s3_endpoint_url",
    "s3_region",
    "s3_addressing",
    "log_format",
    "log_level",
)
"""What the commands take flags for: where the store is."""
EXIT_FINDINGS: Final = 1
EXIT_TERMINATED: Final = 143
"""128 + SIGTERM, as shells have it."""

_THREADS: Final = 16
_REFRESH: Final = 0.2
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a command."""

    config: Config
    counters: Counters
    tasks: Tasks
    clock: Clock


def run(given: Given, work: Callable[[Session], Awaitable[int]]) -> int:
    """Runs `work` to its end and returns its exit code; SIGTERM cancels it, so that it lets go of what it holds."""
    config = given.load().config
    configure_logging(config.log_format, config.log_level)
    return asyncio.run(_run(config, work))


async def _run(config: Config, work: Callable[[Session], Awaitable[int]]) -> int:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, "worker"))
    counters = Counters()
    tasks = Tasks(counters)
    terminated = False
    me = asyncio.current_task()
    assert me is not None

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        me.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await work(Session(config, counters, tasks, SystemClock()))
    except asyncio.CancelledError:
        if terminated:
            return EXIT_TERMINATED
        raise
    finally:
        await tasks.drain(0)


def judged_by(kind: Kind) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback for an option whose value is of a kind that settings have, judged in the same words."""

    def judge(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else kind.parse(value)
        except ValueError as error:
            raise click.BadParameter(f"{error}; give {kind.right}", ctx, param) from error

    return judge


class Document:
    """What a command prints: lines for people as they come, or one JSON object that has them as a list.

    The list is written as it grows, so that it needs no memory; a run that fails leaves the object without its end.
    """

    def __init__(self, name: str, *, as_json: bool) -> None:
        """`name`: the key of the list."""
        self._name, self._as_json = name, as_json
        self._items = 0

    def item(self, facts: dict[str, Any], line: str) -> None:
        """One item, as JSON has it and as people read it."""
        if self._as_json:
            click.echo((f'{{"{self._name}": [\n' if not self._items else ",\n") + json.dumps(facts), nl=False)
        else:
            progress_line("")
            click.echo(printable(line, 2000))
        self._items += 1

    def end(self, facts: dict[str, Any], lines: list[str]) -> None:
        """What is said at the end: more keys of the object, or lines."""
        if self._as_json:
            begin = f'{{"{self._name}": [' if not self._items else "\n"
            click.echo(f"{begin}],\n{json.dumps(facts, indent=2)[2:]}")
        else:
            progress_line("")
            click.echo("\n".join(lines))


class Progress:
    """One line on a terminal's stderr that says how far it is; nothing elsewhere."""

    def __init__(self, tell: Callable[[Any], str]) -> None:
        self._tell, self._next = tell, 0.0

    def __call__(self, state: Any) -> None:
        if sys.stderr.isatty() and (now := time.monotonic()) >= self._next:
            self._next = now + _REFRESH
            progress_line(self._tell(state))


def progress_line(text: str) -> None:
    """Shows `text` in place of the last such line; an empty one clears it."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text[:100]}", nl=False, err=True)


def human(size: int) -> str:
    """A number of bytes for people."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in _UNITS:
        value /= 1024
        if value < 1024 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}"
