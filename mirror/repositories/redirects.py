"""Sends clients to the store itself for archives that it holds, where the operator asked for that."""

from __future__ import annotations

from typing import Final

from mirror.counters import Counters
from mirror.errors import MirrorError, StoreFailure, UnsatisfiableSpan
from mirror.lru import LRU
from mirror.model import File, FileRef, Redirect, Span
from mirror.ports import Clock, Presigner
from mirror.repositories.archives import Archives
from mirror.repositories.content import close
from mirror.repositories.files import Files

SURE: Final = 60.0
"""Seconds for which an archive that was seen in the store counts as being there."""
REMEMBERED: Final = 100_000
"""Archives of which it is remembered when they were seen."""


class Redirects:
    """Answers for the archives of one upstream, if there is a `presigner`."""

    def __init__(
        self, files: Files, archives: Archives, presigner: Presigner | None, clock: Clock, counters: Counters
    ) -> None:
        self._files, self._archives, self._presigner = files, archives, presigner
        self._clock, self._counters = clock, counters
        self._seen: LRU[str, float] = LRU(REMEMBERED)

    async def answer(self, ref: FileRef) -> Redirect | None:
        """Where the file may be fetched; None if it is not held, or for any reason is better served from here.

        Its bytes go past this mirror's checks; they were verified before they were stored.
        """
        if self._presigner is None:
            return None
        try:
            project, file, _ = await self._files.find(ref)
        except MirrorError:
            return None  # the long way meets the same failure, and answers it
        key = self._archives.key(project, file.filename)
        if self._archives.distrusts(key):
            return None
        now = self._clock.monotonic()
        seen = self._seen.get(key)
        if seen is None or now - seen > SURE:
            if not await self._is_stored(key, file):
                return None
            self._seen.put(key, now)
        redirect = await self._presigner.presigned(key, file.filename)
        if redirect is not None:
            self._counters.count("files_redirected")
        return redirect

    async def _is_stored(self, key: str, file: File) -> bool:
        """Whether the store itself has an archive of that size; a copy on this machine is of no use to the client."""
        assert self._presigner is not None
        try:
            content = await self._presigner.open(key, Span(0, 0))
        except (StoreFailure, UnsatisfiableSpan):
            return False  # counted and logged where the archive is then served from
        if content is None:
            return False
        await close(content)
        return file.size in (None, content.size)
