"""Which mirrors a request has passed (RFC 9110 §7.6.3), so that one that goes in a circle is found."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Final

MAX_VIA: Final = 1024
"""Characters of Via that are passed on; a chain of mirrors that is longer than that is a circle."""

_SANE = re.compile(r"[A-Za-z0-9._:;,/()\[\] -]*", re.ASCII)

passed: ContextVar[str] = ContextVar("passed", default="")
"""Via of the request that is being answered; tasks that are started for it inherit it."""


def note(via: str | None) -> None:
    """Remembers a request's Via for the requests to upstream that follow from it; what is odd is forgotten."""
    passed.set(via if via is not None and len(via) <= MAX_VIA and _SANE.fullmatch(via) else "")


def with_own(instance: str) -> str:
    """Via for a request to upstream: the hops so far, then this process."""
    before = passed.get()
    return f"{before}, 1.1 {instance}" if before else f"1.1 {instance}"
