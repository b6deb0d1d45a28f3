"""Figures of several rounds, held against their targets: a table for people, JSON for machines."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

Comparison = Literal["times direct", "more than direct", "itself"]
Unit = Literal["s", "MB", ""]
_VERDICTS = {True: "met", False: "MISSED", None: ""}


@dataclass
class Figure:
    """One quantity of one question over all rounds, and what it has to be."""

    question: str
    quantity: str
    server: str
    compared: Comparison = "itself"
    """How a round's value is told: as a ratio to direct, as a difference to it, or as it is."""
    unit: Unit = "s"
    limit: float | None = None
    """The most that is allowed; None where there is no target."""
    noisy: bool = True
    """Whether the median is judged, as with times; or every single round, as with counters."""
    direct: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)

    def add(self, measured: float, direct: float | None = None) -> None:
        """One round's value, with what direct gave in the same round where they are compared."""
        self.measured.append(measured)
        if direct is not None:
            self.direct.append(direct)

    @property
    def values(self) -> list[float]:
        """What the target speaks of, one a round."""
        match self.compared:
            case "times direct":
                return [ours / theirs for ours, theirs in zip(self.measured, self.direct, strict=True)]
            case "more than direct":
                return [ours - theirs for ours, theirs in zip(self.measured, self.direct, strict=True)]
            case "itself":
                return self.measured

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.limit is None:
            return None
        return (statistics.median(self.values) if self.noisy else max(self.values)) <= self.limit

    def row(self) -> list[str]:
        """The cells of the table."""
        low, middle, high = min(self.values), statistics.median(self.values), max(self.values)
        show = _ratio if self.compared == "times direct" else self._absolute
        return [
            self.question,
            self.quantity,
            self.server,
            self._absolute(statistics.median(self.direct)) if self.direct else "",
            self._absolute(statistics.median(self.measured)),
            "" if self.compared == "itself" else self.compared,
            *(show(value) for value in (low, middle, high)),
            "" if self.limit is None else f"<= {show(self.limit)}",
            _VERDICTS[self.met],
        ]

    def facts(self) -> dict[str, Any]:
        """The same for machines, every round included."""
        return {
            "question": self.question,
            "quantity": self.quantity,
            "server": self.server,
            "unit": self.unit,
            "compared": self.compared,
            "direct": self.direct,
            "measured": self.measured,
            "values": self.values,
            "min": min(self.values),
            "median": statistics.median(self.values),
            "max": max(self.values),
            "limit": self.limit,
            "met": self.met,
        }

    def _absolute(self, value: float) -> str:
        match self.unit:
            case "s":
                if abs(value) < 0.01:
                    return f"{value * 1000:.2f} ms"
                return f"{value * 1000:.0f} ms" if abs(value) < 10 else f"{value:.1f} s"
            case "MB":
                return f"{value / 1e6:.0f} MB"
            case "":
                return f"{value:g}"


def table(figures: list[Figure]) -> str:
    """The figures as aligned text; what repeats from line to line is told once."""
    head = ["question", "quantity", "server", "direct", "measured", "compared", "min", "median", "max", "target", ""]
    rows = [figure.row() for figure in figures]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [_aligned(head, widths), "  ".join("-" * width for width in widths).rstrip()]
    before = ""
    for row in rows:
        question = row[0]
        lines.append(_aligned(["" if question == before else question, *row[1:]], widths))
        before = question
    return "\n".join(lines)


def facts(figures: list[Figure], options: dict[str, Any]) -> dict[str, Any]:
    """Everything about a run: machine, versions, options and figures."""
    return {
        "machine": {
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "load_average": os.getloadavg(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("mirror", "aiohttp")},
        "options": options,
        "figures": [figure.facts() for figure in figures],
    }


def _aligned(row: list[str], widths: list[int]) -> str:
    texts = (0, 1, 2, 5, 9, 10)
    cells = [
        cell.ljust(width) if column in texts else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
