"""A copy in a process of its own that is killed at its n-th write, before or after it: `FROM TO N before|after`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from mirror.adapters.directory.store import DirectoryStore
from mirror.counters import Counters
from mirror.flight import Tasks
from mirror.maintenance.copying import Copying
from mirror.spool import DiskSpools


class Doomed(DirectoryStore):
    """Kills its process at a write."""

    def __init__(self, root: Path, writes: int, *, after: bool) -> None:
        super().__init__(root)
        self._left, self._after = writes, after

    async def put(self, key: str, body: bytes) -> None:
        self._count(before=True)
        await super().put(key, body)
        self._count(before=False)

    async def create(self, key: str, body: bytes) -> bool:
        self._count(before=True)
        created = await super().create(key, body)
        self._count(before=False)
        return created

    async def adopt(self, key: str, path: Path) -> None:
        self._count(before=True)
        await super().adopt(key, path)
        self._count(before=False)

    def _count(self, *, before: bool) -> None:
        if before == self._after:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(source: Path, target: Path, writes: int, when: str) -> None:
    ours, theirs = DirectoryStore(source), Doomed(target, writes, after=when == "after")
    await ours.start()
    await theirs.start()
    spools = DiskSpools(target / "spool")
    spools.prepare()
    await Copying(ours, theirs, spools, Tasks(Counters())).run()
    spools.close()
    await theirs.aclose()
    await ours.aclose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
