"""A scripted upstream, a mirror of it in a process of its own, and raw clients that tell whole answers from cut ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.faults import Fault
from tests.support.mirror import MirrorProcess
from tests.support.packages import Archive, Project, wheel
from tests.support.pages import JSON
from tests.support.rawhttp import RawConnection, RawResponse, fetch
from tests.support.upstream import ThreadedUpstream

PATIENCE: Final = 60.0
"""Seconds after which what a test waits for counts as never happening."""

SETTINGS: Final[dict[str, Any]] = {
    "page_ttl": 0,
    "page_stale": 0,
    "missing_ttl": 1,
    "upstream_connect_timeout": 60,
    "upstream_read_timeout": 60,
    "upstream_min_rate": 0,
    "upstream_retries": 1,
}
"""Every page request asks upstream; an upstream that a test holds up, or that is merely slow, is waited for."""

Answering = asyncio.Task[RawResponse]


class Scene:
    """What a test of the running mirror works with."""

    def __init__(self, upstream: ThreadedUpstream, mirror: MirrorProcess, data: Path) -> None:
        self.upstream, self.mirror, self.data = upstream, mirror, data

    # --- upstream --------------------------------------------------------------------------------

    def publish(self, name: str, size: int = 0, *, seed: int = 0, serial: int = 1000) -> Archive:
        """A project with one wheel of a little more than `size` bytes; another `seed` makes other bytes."""
        archive = wheel(name, "1.0", blob=size, seed=seed)
        self.upstream.publish(Project(name, (archive,), serial=serial))
        return archive

    def asked(self, path: str) -> int:
        """How often upstream was asked for the path, without leading slash."""
        return self.upstream.requests[f"/{path}"]

    # --- clients ---------------------------------------------------------------------------------

    async def get(self, path: str, headers: Mapping[str, str] | None = None, **how: Any) -> RawResponse:
        """An answer to a request on a connection of its own; `path` without leading slash."""
        return await fetch(self.mirror.origin + path, headers=headers, **how)

    async def page(self, name: str, headers: Mapping[str, str] | None = None) -> RawResponse:
        return await self.get(f"simple/{name}/", {"Accept": JSON, **(headers or {})})

    async def files_of(self, name: str) -> dict[str, dict[str, Any]]:
        """The entries of a page that has to be there, by file name."""
        answer = await self.page(name)
        assert (answer.status, answer.complete) == (200, True), answer
        return {entry["filename"]: entry for entry in json.loads(answer.body)["files"]}

    def connection(self, **how: Any) -> RawConnection:
        return RawConnection("127.0.0.1", self.mirror.port, **how)

    async def get_whole(self, archive: Archive) -> RawResponse:
        """The archive, whose bytes have to be right."""
        answer = await self.get(archive.path)
        assert (answer.status, answer.complete) == (200, True), (answer.status, answer.ending, self.mirror.tail())
        assert answer.body == archive.content
        return answer

    async def joined(self, *requests: Coroutine[Any, Any, RawResponse], begun: bool = False) -> list[Answering]:
        """The requests, once all are on one download, which upstream has to hold up meanwhile.

        One of them begins it and the others join, or all do if it is `begun`.
        """
        expected = self.mirror.counters()["files_joined"] + len(requests) - (not begun)
        asking = [asyncio.ensure_future(request) for request in requests]
        await eventually(lambda: self.mirror.counters()["files_joined"] >= expected, "not all have joined")
        return asking

    async def leaves(self, connection: RawConnection, archive: Archive, held: Fault, at: int) -> None:
        """The client of a download that hangs at byte `at` is gone, and the mirror has noticed.

        It notices when it writes, so a little more has to come: the download hangs 200,000 bytes later now.
        """
        start = len(self.mirror.log)
        gone = {"event": "request", "path": f"/{archive.path}", "outcome": "client left"}

        def noticed() -> bool:
            return any(gone.items() <= entry.items() for entry in self.mirror.log[start:])

        connection.abort()
        for until in (at + 100_000, at + 200_000):  # the first write meets the reset, the second is told of it
            held.release(until)
            await eventually(lambda until=until: noticed() or self.has_spooled(until))  # type: ignore[misc]
        await eventually(noticed, "the mirror has not noticed that its client left")

    async def kept(self, archive: Archive) -> None:
        """Returns once the mirror answers the archive out of its store, without asking upstream."""
        before = self.asked(archive.path)

        async def is_kept() -> bool:
            return (await self.get_whole(archive)).headers["x-cache"] == "HIT store"

        await eventually_async(is_kept)
        assert self.asked(archive.path) <= before + 1

    # --- what the mirror says of itself ------------------------------------------------------------

    @asynccontextmanager
    async def counting(self, **expected: int) -> AsyncIterator[None]:
        """The block has to raise the counters by exactly this; some are raised only behind the answer."""
        before = self.mirror.counters()
        yield

        def growth() -> dict[str, int]:
            after = self.mirror.counters()
            return {name: after[name] - before[name] for name in expected}

        deadline = time.monotonic() + PATIENCE
        while any(growth()[name] < count for name, count in expected.items()) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert growth() == expected, self.mirror.tail(8)

    @asynccontextmanager
    async def logging(self, event: str, **fields: Any) -> AsyncIterator[None]:
        """The block has to log this event, with these among its fields."""
        start = len(self.mirror.log)
        yield

        def logged() -> bool:
            return any(entry["event"] == event and fields.items() <= entry.items() for entry in self.mirror.log[start:])

        await eventually(logged, f"{event} {fields} was not logged")

    # --- what lies on disk -------------------------------------------------------------------------

    def stored(self, name: str) -> list[Path]:
        """Where a file of this name lies, in service."""
        return [path for folder in ("files", "meta") for path in (self.data / folder).rglob(name)]

    def quarantined(self) -> list[Path]:
        return [path for path in (self.data / "quarantine").rglob("*") if path.is_file()]

    def leftovers(self) -> list[Path]:
        """Spool and temporary files."""
        spool = [path for path in (self.data / "spool").rglob("*") if path.is_file()]
        return spool + list(self.data.rglob(".tmp-*"))

    def has_spooled(self, size: int, downloads: int = 1) -> bool:
        """Whether so many downloads have got so far."""
        with contextlib.suppress(FileNotFoundError):  # something else has come to its end just now
            return sum(path.stat().st_size >= size for path in self.leftovers()) >= downloads
        return False

    async def spooled(self, size: int, downloads: int = 1) -> None:
        """Returns once so many downloads have got so far."""
        await eventually(lambda: self.has_spooled(size, downloads), f"no download has come to {size} bytes")

    async def nothing_left(self) -> None:
        """Returns once no spool or temporary file is there."""
        await eventually(lambda: not self.leftovers(), "spool or temporary files stay")


@contextmanager
def running(data: Path, projects: Iterable[Project] = (), **settings: Any) -> Iterator[Scene]:
    """A mirror with `SETTINGS` and `settings`; one that logs an unforeseen failure fails the test."""
    with (
        ThreadedUpstream(projects) as upstream,
        MirrorProcess(data_dir=data, upstream_url=upstream.url, **(SETTINGS | settings)) as mirror,
    ):
        yield Scene(upstream, mirror, data)
        upstream.heal()
    unforeseen = [entry for entry in mirror.log if "exception" in entry] + list(mirror.text)
    assert not unforeseen, unforeseen


async def eventually(condition: Callable[[], bool], otherwise: str = "it did not come") -> None:
    """Returns once `condition` holds; fails after `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, otherwise
        await asyncio.sleep(0.01)


async def eventually_async(condition: Callable[[], Any]) -> None:
    """The same for a condition that has to be awaited."""
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.02)
