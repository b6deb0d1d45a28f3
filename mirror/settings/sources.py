"""Where values come from, later wins: defaults, a TOML file, the environment, the command line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from mirror.errors import printable
from mirror.settings.definition import PREFIX, Setting

FILE_VARIABLE: Final = PREFIX + "CONFIG"
"""Names the TOML file; `--config` wins over it."""
MAX_SECRET: Final = 64 * 1024
"""Bytes that are read of a file that holds a secret."""

FlagValue = str | bool | tuple[str, ...]
"""What the command line gives for a flag: text, a switch, or the texts of a repeated flag."""

# Kubernetes sets these in every container for each Service of the namespace, and one named `mirror` is likely.
_SERVICE_LINK = re.compile(r"MIRROR_(?:[A-Z0-9_]+_)?(?:SERVICE_(?:HOST|PORT(?:_[A-Z0-9_]+)?)|PORT_[0-9]+_[A-Z_]+)")
_SERVICE_PORT = re.compile(r"MIRROR_(?:[A-Z0-9_]+_)?PORT")
_SERVICE_URL = re.compile(r"(?:tcp|udp|sctp)://.+")
_TOML_TYPES = {bool: "a boolean", int: "an integer", float: "a float", list: "an array", dict: "a table"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from."""

    source: Literal["default", "file", "environment", "flag"]
    name: str = ""
    """The file, the variable or the flag."""

    def __str__(self) -> str:
        return f"{self.source} {self.name}".rstrip()


@dataclass
class Gathered:
    """Values and origins by field name; a setting with a problem has an origin and no value."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def gather(
    settings: Mapping[str, Setting], flags: Mapping[str, FlagValue], environ: Mapping[str, str], file: Path | None
) -> Gathered:
    """The value of every setting from the source that wins; never raises for what a user wrote."""
    result = Gathered()
    given: dict[str, tuple[Origin, Any]] = {}
    if file is None and environ.get(FILE_VARIABLE):
        file = Path(environ[FILE_VARIABLE])
    if file is not None:
        given |= _from_file(settings, file, result.problems)
    given |= _from_environment(settings, environ, result.problems)
    given |= {name: (Origin("flag", settings[name].flag or ""), value) for name, value in flags.items()}
    for name, setting in settings.items():
        origin, raw = given.get(name, (Origin("default"), None))
        result.origins[name] = origin
        if origin.source == "default":
            result.values[name] = setting.default
            continue
        try:
            result.values[name] = _value(setting, raw)
        except ValueError as error:
            result.problems.append(f"{setting.key} (from {origin}): {error}; give {setting.kind.right}")
    return result


def _value(setting: Setting, raw: Any) -> Any:
    if not setting.many:
        return None if raw == "" and setting.optional else setting.kind.parse(_text(setting, raw))
    items = [item.strip() for item in raw.split(",")] if isinstance(raw, str) else raw
    if not isinstance(items, list | tuple):
        raise ValueError(f"it is {_toml_type(items)}, not an array")
    if not items or items == [""]:
        raise ValueError("it is empty")
    return tuple(setting.kind.parse(_text(setting, item)) for item in items)


def _text(setting: Setting, raw: Any) -> str:
    """TOML's own types take the way of all text, so that there is one parser for each kind."""
    if isinstance(raw, str):
        return raw if setting.secret else raw.strip()
    # bool is a subclass of int, and no number.
    if type(raw) is bool:
        return _switch(setting, raw)
    if type(raw) in setting.kind.toml:
        return str(raw)
    raise ValueError(f"it is {_toml_type(raw)}")


def _switch(setting: Setting, raw: bool) -> str:
    if bool not in setting.kind.toml:
        raise ValueError("it is a boolean")
    return "on" if raw else "off"


def _toml_type(raw: object) -> str:
    return _TOML_TYPES.get(type(raw), "a date or time")


def _from_file(settings: Mapping[str, Setting], file: Path, problems: list[str]) -> dict[str, tuple[Origin, Any]]:
    where = printable(str(file), 1000)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"config file {where}: {error.strerror}; give a file that can be read")
    except UnicodeDecodeError:
        problems.append(f"config file {where}: it is not UTF-8; give a TOML file")
    except ValueError as error:
        problems.append(f"config file {where}: {printable(str(error))}; give valid TOML")
    else:
        names = {setting.key: name for name, setting in settings.items()}
        problems += [
            f"config file {where}: {printable(key)!r} is not a setting{_nearest(key, names)}"
            for key in table
            if key not in names
        ]
        return {names[key]: (Origin("file", where), value) for key, value in table.items() if key in names}
    return {}


def _from_environment(
    settings: Mapping[str, Setting], environ: Mapping[str, str], problems: list[str]
) -> dict[str, tuple[Origin, Any]]:
    """An empty variable counts as not set: that is what `${VAR:-}` in a compose file or chart makes of nothing."""
    names = {setting.variable: setting for setting in settings.values()}
    files = {setting.file_variable: setting for setting in settings.values() if setting.file_variable}
    known = [*names, *files, FILE_VARIABLE]
    found: dict[str, tuple[Origin, Any]] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or (not text and variable in known):
            continue
        origin = Origin("environment", variable)
        if setting := names.get(variable):
            found[setting.name] = origin, text
        elif setting := files.get(variable):
            if environ.get(setting.variable):
                problems.append(f"{setting.key} (from {origin}): {setting.variable} is set too; give one of them")
                continue
            try:
                found[setting.name] = origin, _secret(Path(text))
            except ValueError as error:
                problems.append(f"{setting.key} (from {origin}): {error}")
        elif variable != FILE_VARIABLE and not _is_service_link(variable, text):
            problems.append(
                f"the environment variable {printable(variable)} is not a setting{_nearest(variable, known)}"
            )
    return found


def _secret(file: Path) -> str:
    """The text of `file` without the line end that editors and `echo` put there; `ValueError` if it has none."""
    where = printable(str(file), 1000)
    try:
        with file.open("rb") as handle:
            body = handle.read(MAX_SECRET + 1)
    except OSError as error:
        raise ValueError(f"{where}: {error.strerror}; give a file that can be read") from None
    if len(body) > MAX_SECRET:
        raise ValueError(f"{where} is larger than {MAX_SECRET} bytes; give a file that holds the secret alone")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not UTF-8; give a text file") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ValueError(f"{where} is empty; give a file that holds the secret")
    return text


def _is_service_link(variable: str, text: str) -> bool:
    if _SERVICE_LINK.fullmatch(variable):
        return True
    return bool(_SERVICE_PORT.fullmatch(variable) and _SERVICE_URL.fullmatch(text))


def _nearest(name: str, known: Iterable[str]) -> str:
    # What all of them begin with says nothing of their likeness.
    by_rest = {each.removeprefix(PREFIX): each for each in known}
    close = difflib.get_close_matches(name.removeprefix(PREFIX)[:100], by_rest, n=1, cutoff=0.6)
    return f"; did you mean {by_rest[close[0]]}?" if close else ""
