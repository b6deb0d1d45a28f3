"""What tests of the mirror, and of things built on it, are made with: a clock and an upstream, both in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from mirror.errors import NoSuchFile, NoSuchProject, UpstreamDown, UpstreamFailure, UpstreamMisbehaved
from mirror.model import WHOLE, File, NotModified, PageDocument, Span, UpstreamStream, Validator
from mirror.names import ProjectName, project_name
from mirror.ports import Clock

SIMPLE_JSON: Final = "application/vnd.pypi.simple.v1+json"


class MovableClock:
    """A `mirror.ports.Clock` that stands still until the test moves it."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        """`now`: seconds since the epoch."""
        self._now = now
        self._monotonic = 1_000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        if seconds < 0:
            raise ValueError("time does not pass backwards; see `set_wall_clock`")
        self._now += seconds
        self._monotonic += seconds

    def set_wall_clock(self, now: float) -> None:
        """Sets the time of day, as an administrator or NTP does; the monotonic clock takes no notice."""
        self._now = now


class MemoryUpstream:
    """A `mirror.ports.Upstream` whose pages and files are dicts that the test fills and changes.

    `publish` writes both for the usual case. What is asked is counted in `calls`, as `page:<project>`,
    `file:<url>`, `size:<url>`, `small:<url>`, `legacy:<project>` and `list`.
    """

    def __init__(
        self, clock: Clock, *, name: str = "memory", url: str = "https://index.example.com/", piece: int = 16_384
    ) -> None:
        """`piece`: bytes in each piece of a body."""
        self.name = name
        self.url = url
        self.pages: dict[ProjectName, PageDocument] = {}
        self.files: dict[str, bytes] = {}
        """By URL, sidecars too."""
        self.legacy: dict[tuple[ProjectName, str | None], bytes] = {}
        self.calls: Counter[str] = Counter()
        self.failure: Exception | None = None
        """Raised by every call while it is set."""
        self.cut_after: int | None = None
        """The bodies of files break off with `UpstreamDown` after this many bytes."""
        self.gate: asyncio.Event | None = None
        """While this is not set, the bodies of files hang after their first piece."""
        self.has_ranges = True
        """False: every request for a part of a file is answered with the whole."""
        self.has_sizes = True
        """False: neither a file's size nor the length of its body is told."""
        self.max_age: int | None = None
        self._clock = clock
        self._piece = piece

    def publish(self, project: str, filename: str, body: bytes, **fields: Any) -> File:
        """Adds a file, or replaces it, and rewrites the project's page (PEP 691) with a new ETag.

        `fields` are keys of the file's entry, as the specification spells them but with `_` for `-`.
        """
        name = project_name(project)
        sha256 = hashlib.sha256(body).hexdigest()
        path = f"{sha256[:2]}/{sha256[2:4]}/{sha256[4:]}/{filename}"
        entry: dict[str, Any] = {
            "filename": filename,
            "url": f"{self.url}packages/{path}",
            "hashes": {"sha256": sha256},
            "size": len(body),
        }
        entry |= {k.replace("_", "-"): v for k, v in fields.items()}
        others = [f for f in self._entries(name) if f["filename"] != filename]
        self.files[entry["url"]] = body
        self._write_page(name, [*others, entry])
        return File(
            filename=filename, url=entry["url"], path=f"packages/{path}", hashes=entry["hashes"], size=entry["size"]
        )

    def withdraw(self, project: str, filename: str) -> None:
        """Takes a file off the project's page; its bytes stay, as an index may well leave them."""
        name = project_name(project)
        self._write_page(name, [f for f in self._entries(name) if f["filename"] != filename])

    @contextmanager
    def failing(self, failure: Exception | None = None) -> Iterator[None]:
        """Every call in the block raises `failure`, by default `UpstreamDown`."""
        before, self.failure = self.failure, failure or UpstreamDown(self.name, "it was switched off by the test")
        try:
            yield
        finally:
            self.failure = before

    async def fetch_page(self, project: ProjectName, known: Validator) -> PageDocument | NotModified:
        self._asked(f"page:{project}")
        page = self.pages.get(project)
        if page is None:
            raise NoSuchProject(project)
        held, ours = known.etag or known.last_modified, page.validator.etag or page.validator.last_modified
        max_age = page.max_age if page.max_age is not None else self.max_age
        if held is not None and held == ours:
            return NotModified(max_age=max_age, serial=page.serial)
        return msgspec.structs.replace(page, fetched_at=self._clock.now(), max_age=max_age)

    async def fetch_file(self, file: File, span: Span = WHOLE, *, bypass_caches: bool = False) -> UpstreamStream:
        body = self._file(f"file:{file.url}", file.url)
        start, stop = span.resolve(len(body)) if self.has_ranges else (0, len(body))
        size, told_stop = (len(body), stop) if self.has_sizes else (None, None)
        return UpstreamStream(self._pieces(body[start:stop]), size, start, told_stop)

    async def fetch_size(self, file: File) -> int | None:
        body = self._file(f"size:{file.url}", file.url)
        return len(body) if self.has_sizes else None

    async def fetch_small(self, url: str, *, accept: str, limit: int) -> bytes:
        body = self._file(f"small:{url}", url)
        if len(body) > limit:
            raise UpstreamMisbehaved(self.name, f"a body of {len(body)} bytes where at most {limit} were expected")
        return body

    async def fetch_legacy_json(self, project: ProjectName, version: str | None) -> bytes:
        self._asked(f"legacy:{project}")
        try:
            return self.legacy[project, version]
        except KeyError:
            raise NoSuchProject(project) from None

    async def fetch_project_list(self) -> tuple[str, AsyncIterator[bytes]]:
        self._asked("list")
        names = {"meta": {"api-version": "1.4"}, "projects": [{"name": name} for name in sorted(self.pages)]}
        return SIMPLE_JSON, self._pieces(msgspec.json.encode(names))

    async def aclose(self) -> None:
        """There is nothing to close."""

    def _asked(self, what: str) -> None:
        self.calls[what] += 1
        if self.failure is not None:
            raise self.failure

    def _file(self, call: str, url: str) -> bytes:
        self._asked(call)
        try:
            return self.files[url]
        except KeyError:
            raise NoSuchFile(url.rpartition("/")[2]) from None

    def _entries(self, name: ProjectName) -> list[dict[str, Any]]:
        page = self.pages.get(name)
        if page is None:
            return []
        if page.content_type != SIMPLE_JSON:
            raise ValueError(f"the page of {name} is {page.content_type}, which `publish` cannot rewrite")
        entries: list[dict[str, Any]] = msgspec.json.decode(page.body)["files"]
        return entries

    def _write_page(self, name: ProjectName, entries: list[dict[str, Any]]) -> None:
        body = msgspec.json.encode({"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": entries})
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        self.pages[name] = PageDocument(
            body, SIMPLE_JSON, f"{self.url}simple/{name}/", self._clock.now(), Validator(etag=etag)
        )

    async def _pieces(self, body: bytes) -> AsyncGenerator[bytes, None]:
        for offset in range(0, len(body), self._piece):
            if offset and self.gate is not None:
                await self.gate.wait()
            piece = body[offset : offset + self._piece]
            if self.cut_after is not None and offset + len(piece) > self.cut_after:
                if left := self.cut_after - offset:
                    yield piece[:left]
                raise self._cut()
            yield piece

    def _cut(self) -> UpstreamFailure:
        return UpstreamDown(self.name, "the connection was lost in the middle of a file")
