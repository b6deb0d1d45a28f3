"""What can be wrong with a stored object, and the account of a verification."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field


class Kind(enum.Enum):
    """What is wrong; the value is what reports say."""

    DAMAGED = "damaged"
    """Its bytes are not those that were stored, or that its page promises."""
    UNREADABLE = "unreadable"
    """The store does not give its bytes now; whether they are sound is not known."""
    ORPHAN = "orphan"
    """An archive or sidecar that no stored page names, so that nobody is served it. The next answer of upstream may."""
    MISSING = "missing"
    """Core metadata that the page advertises because this mirror kept it, and that is gone."""
    STRAY = "stray"
    """A key that this mirror never writes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one object."""

    kind: Kind
    key: str
    why: str
    quarantined: bool = False
    """It has been taken out of service; its bytes lie in quarantine."""


@dataclass(slots=True)
class Account:
    """What a verification has done."""

    projects: int = 0
    objects: int = 0
    """Looked at; of those that were not sampled, the size alone."""
    bytes_read: int = 0
    unproven: int = 0
    """Objects of which no digest is known, so that only their form was looked at."""
    quarantined: int = 0
    findings: Counter[Kind] = field(default_factory=Counter)

    @property
    def sound(self) -> bool:
        return not self.findings
