"""The spool: a file while it arrives, on disk or, where there is no disk to write, in a bounded piece of memory."""

from __future__ import annotations

from mirror.spool.disk import MAX_PIECES, DiskSpools
from mirror.spool.fallback import FallbackSpools
from mirror.spool.kinds import Spool, Spools
from mirror.spool.memory import MemorySpools

__all__ = ["MAX_PIECES", "DiskSpools", "FallbackSpools", "MemorySpools", "Spool", "Spools"]
