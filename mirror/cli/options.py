"""The flags of a command, made from the definition of the settings."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mirror.config import SETTINGS, Loaded, load
from mirror.settings.definition import Setting
from mirror.settings.kinds import Switch
from mirror.settings.sources import FILE_VARIABLE, FlagValue


@dataclass(frozen=True)
class Given:
    """What the command line said of the settings."""

    flags: dict[str, FlagValue]
    file: Path | None

    def load(self) -> Loaded:
        """The settings from all sources. Raises `ConfigError`."""
        return load(self.flags, os.environ, self.file)


def with_settings(function: Callable[..., int]) -> Callable[..., int]:
    """Gives a command the flags of all settings and `--config`; `function` gets them as a `Given`.

    Click checks no value: a bad one is judged where those of all other sources are, in the same words.
    """
    return with_settings_named(SETTINGS)(function)


def with_settings_named(names: Collection[str]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """The same with flags for some of the settings (fields of `Config`); the others have their other sources."""
    return functools.partial(_with_flags, names)


def _with_flags(names: Collection[str], function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def gather(config_file: str | None, **others: Any) -> int:
        texts = {name: others.pop(name, None) for name in SETTINGS}
        flags = {name: value for name, value in texts.items() if value is not None and value != ()}
        return function(Given(flags, None if config_file is None else Path(config_file)), **others)

    command: Callable[..., int] = gather
    for setting in reversed(SETTINGS.values()):
        if setting.flag and setting.name in names:
            command = _option(setting, setting.flag)(command)
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help=f"TOML file with settings; flags and variables win over it. [{FILE_VARIABLE}]",
    )(command)


def _option(setting: Setting, flag: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    repeat = " Repeat it for more." if setting.many else ""
    text = f"{setting.meaning}{repeat} [{setting.variable}; default: {setting.default_text}]"
    if isinstance(setting.kind, Switch):
        return click.option(f"{flag}/--no-{flag.removeprefix('--')}", setting.name, default=None, help=text)
    return click.option(flag, setting.name, multiple=setting.many, metavar=setting.kind.metavar, help=text)
