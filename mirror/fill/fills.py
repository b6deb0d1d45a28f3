"""The downloads on their way: at most one for each file."""

from __future__ import annotations

from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.fill.download import Fill, Keep
from mirror.fill.sources import Place, Sources
from mirror.fill.tools import Tools
from mirror.flight import Tasks
from mirror.model import ByteStream, File
from mirror.ports import Upstream
from mirror.spool import Spools


class Fills:
    """The downloads on their way from one upstream, by the files' public paths."""

    def __init__(
        self, upstream: Upstream, spools: Spools, tasks: Tasks, counters: Counters, *, finish_abandoned: int
    ) -> None:
        self._tools = Tools(upstream, spools, tasks, counters, finish_abandoned)
        self._tasks, self._counters = tasks, counters
        self._running: dict[str, Fill] = {}

    def running(self, path: str) -> Fill | None:
        """The download of that file, if one is on its way."""
        return self._running.get(path)

    def joined(self, file: File) -> Fill | None:
        """The download of `file` that is on its way; to be given to a reader before anything is awaited."""
        fill = self._running.get(file.path)
        if fill is None or fill.file.hashes != file.hashes:  # the page may promise more by now than it did
            return None
        self._counters.count("files_joined")
        return fill

    def join(
        self,
        file: File,
        keep: Keep,
        *,
        bypass_caches: bool = False,
        online: bool = True,
        place: Place | None = None,
        opened: ByteStream | None = None,
        lost: StoreFailure | None = None,
    ) -> Fill:
        """The download of `file` that is on its way, else a new one; to be given to a reader before anything is awaited.

        `place`: where a remote store has it, or will. `opened`: what the store has, whole; read first and closed in
        any case, so there must be no download on its way (see `joined`). `online`: upstream may be asked. `lost`: why
        nobody knows whether the store has it.
        """
        if fill := self.joined(file):
            return fill
        sources = Sources(
            file,
            self._tools.upstream,
            self._counters,
            bypass_caches=bypass_caches,
            online=online,
            place=place,
            opened=opened,
            lost=lost,
        )
        fill = self._running[file.path] = Fill(sources, self._tools, keep, self._forget)
        self._tasks.spawn(fill.pour(), name=f"fill {file.filename}")
        return fill

    def _forget(self, fill: Fill) -> None:
        """A download has ended; the next request starts from the store or anew."""
        if self._running.get(fill.file.path) is fill:
            del self._running[fill.file.path]

    def close(self) -> None:
        """Lets go of the threads, when no download runs any more."""
        self._tools.close()
