"""What clients asked the mirror for, told by its own log."""

from __future__ import annotations

from typing import NamedTuple

from tests.support.mirror import MirrorProcess


class Asked(NamedTuple):
    """One request that was answered."""

    method: str
    path: str
    """Decoded."""
    status: int


def asked_of(mirror: MirrorProcess) -> list[Asked]:
    """Every request answered since the last call, in order. Ends the mirror: only then is its log complete."""
    mirror.terminate()
    entries = mirror.events("request")
    mirror.log = [entry for entry in mirror.log if entry not in entries]
    return [Asked(entry["method"], entry["path"], entry["status"]) for entry in entries]
