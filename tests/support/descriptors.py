"""What this process holds open."""

from __future__ import annotations

import os
from collections import Counter


def open_files() -> Counter[str]:
    """The open descriptors of this process by what they lead to; sockets and pipes of the event loop left out."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor with which the folder is read
            continue
        if target.startswith("/") and not target.startswith(("/dev/", "/proc/")):
            found[target.removesuffix(" (deleted)")] += 1
    return found
