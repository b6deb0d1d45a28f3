"""The kinds of value that a setting can have: how each is read from text and how it is shown again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Protocol

from mirror.errors import printable

TEN_YEARS: Final = 3650 * 86400.0

_WHOLE = re.compile(r"[0-9]{1,18}")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d|)")
_SECONDS = {"d": 86400, "h": 3600, "m": 60}
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,6})?) ?([a-z]*)")
_BINARY = {"tib": 2**40, "gib": 2**30, "mib": 2**20, "kib": 2**10}
_BYTES = _BINARY | {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


class Kind(Protocol):
    """One kind of value. `show` is the inverse of `parse`, except for secrets."""

    @property
    def right(self) -> str:
        """What is right, fit to follow the word "give"."""
        ...

    @property
    def metavar(self) -> str:
        """The placeholder in help texts."""
        ...

    @property
    def unit(self) -> str:
        """Of the parsed value; empty if it has none."""
        ...

    @property
    def toml(self) -> tuple[type, ...]:
        """TOML types that are taken besides strings."""
        ...

    def parse(self, text: str) -> Any:
        """The value; `ValueError` says in a clause what is wrong and never quotes what may hold a secret."""
        ...

    def show(self, value: Any) -> str:
        """Text that `parse` reads as the same value."""
        ...


@dataclass(frozen=True)
class Base:
    """What most kinds have in common."""

    @property
    def unit(self) -> str:
        return ""

    @property
    def toml(self) -> tuple[type, ...]:
        return ()

    def show(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True)
class Text(Base):
    """A name or a secret, which is never quoted in a complaint."""

    forbidden: str = ""
    metavar: str = "TEXT"

    @property
    def right(self) -> str:
        return "printable text" + (f" without {self.forbidden!r}" if self.forbidden else "")

    def parse(self, text: str) -> str:
        if not text:
            raise ValueError("it is empty")
        if not text.isprintable():
            raise ValueError("it holds a control character")
        if any(c in self.forbidden for c in text):
            raise ValueError(f"it holds {self.forbidden!r}")
        return text


@dataclass(frozen=True)
class Choice(Base):
    """One of a few words."""

    options: tuple[str, ...]

    @property
    def right(self) -> str:
        return f"{', '.join(self.options[:-1])} or {self.options[-1]}"

    @property
    def metavar(self) -> str:
        return "|".join(self.options)

    def parse(self, text: str) -> str:
        if text.lower() not in self.options:
            raise ValueError(f"{printable(text)!r} is none of the choices")
        return text.lower()


@dataclass(frozen=True)
class Switch(Base):
    """On or off."""

    right: str = "on or off (or true, false, 1, 0)"
    metavar: str = "on|off"

    @property
    def toml(self) -> tuple[type, ...]:
        return (bool,)

    def parse(self, text: str) -> bool:
        match text.lower():
            case "on" | "true" | "1":
                return True
            case "off" | "false" | "0":
                return False
            case _:
                raise ValueError(f"{printable(text)!r} is neither on nor off")

    def show(self, value: bool) -> str:
        return "on" if value else "off"


@dataclass(frozen=True)
class Count(Base):
    """A whole number within bounds."""

    minimum: int
    maximum: int
    metavar: str = "N"

    @property
    def right(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum}"

    @property
    def toml(self) -> tuple[type, ...]:
        return (int,)

    def parse(self, text: str) -> int:
        # The pattern bounds the length: int() takes quadratic time.
        if not _WHOLE.fullmatch(text):
            raise ValueError(f"{printable(text)!r} is not a whole number in range")
        if not self.minimum <= int(text) <= self.maximum:
            raise ValueError(f"{text} is out of range")
        return int(text)


@dataclass(frozen=True)
class Duration(Base):
    """Seconds, as a float; text may carry a unit."""

    minimum: float = 0.0
    maximum: float = TEN_YEARS
    metavar: str = "DURATION"

    @property
    def right(self) -> str:
        limits = f"from {self.show(self.minimum)} to {self.show(self.maximum)}"
        return f"seconds, or a number with ms, s, m, h or d, such as 10m ({limits})"

    @property
    def unit(self) -> str:
        return "seconds"

    @property
    def toml(self) -> tuple[type, ...]:
        return (int, float)

    def parse(self, text: str) -> float:
        if not (found := _DURATION.fullmatch(text)):
            raise ValueError(f"{printable(text)!r} is not a duration")
        number = Decimal(found[1])
        seconds = float(round(number / 1000 if found[2] == "ms" else number * _SECONDS.get(found[2], 1), 6))
        if not self.minimum <= seconds <= self.maximum:
            raise ValueError(f"{printable(text)!r} is out of range")
        return seconds

    def show(self, value: float) -> str:
        if not value:
            return "0"
        for unit, factor in _SECONDS.items():
            if value % factor == 0:
                return f"{int(value // factor)}{unit}"
        return f"{value:.6f}".rstrip("0").rstrip(".") + "s"


@dataclass(frozen=True)
class Size(Base):
    """A number of bytes; text may carry a binary or a decimal unit."""

    minimum: int = 0
    maximum: int = 2**60
    unit: str = "bytes"
    metavar: str = "SIZE"

    @property
    def right(self) -> str:
        limits = f"from {self.show(self.minimum)} to {self.show(self.maximum)}"
        return f"bytes, or a number with KiB, MiB, GiB, kB, MB or GB, such as 512MiB ({limits})"

    @property
    def toml(self) -> tuple[type, ...]:
        return (int,)

    def parse(self, text: str) -> int:
        found = _SIZE.fullmatch(text.lower()) if text.isascii() else None
        factor = _BYTES.get(found[2]) if found else None
        if found is None or factor is None:
            raise ValueError(f"{printable(text)!r} is not a size")
        size = Decimal(found[1]) * factor
        if size % 1:
            raise ValueError(f"{printable(text)!r} is not a whole number of bytes")
        if not self.minimum <= size <= self.maximum:
            raise ValueError(f"{printable(text)!r} is out of range")
        return int(size)

    def show(self, value: int) -> str:
        for unit, factor in _BINARY.items():
            if value and value % factor == 0:
                return f"{value // factor}{unit[0].upper()}iB"
        return str(value)
