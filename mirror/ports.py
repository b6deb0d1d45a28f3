"""The interfaces between the layers: Protocols only.

Two kinds of index on purpose. An `Upstream` answers conditionally (a validator in, perhaps `NotModified`
out) and may fail at any time; a `Repository` always answers or says why not. `CachedRepository` is the one
place that turns the first into the second.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mirror.model import (
    WHOLE,
    Blob,
    ByteSource,
    Content,
    File,
    FileFacts,
    FileRef,
    LocalFile,
    NotModified,
    PageAnswer,
    PageDocument,
    Redirect,
    Span,
    Unchanged,
    UpstreamStream,
    Validator,
)
from mirror.names import ProjectName


@dataclass(slots=True)
class ProjectListAnswer:
    """The names of all projects, as one stored file: ASCII, one normalised name a line, in upstream's order.

    It is a file because it is large (700,000 names, 12 MB) and is served without being held in memory.
    """

    content: Content
    revision: str
    """sha256 of those lines."""
    max_age: int
    stale: bool = False


class Repository(Protocol):
    """Answers clients. Every name that it takes is normalised and valid."""

    async def project_list(self) -> ProjectListAnswer:
        """Raises `UpstreamFailure` if the list is unknown here and upstream cannot be asked."""
        ...

    async def project_page(self, project: ProjectName, *, newest: bool = False) -> PageAnswer:
        """`newest`: the client asked for an end-to-end reload. Raises `NoSuchProject`, `UpstreamFailure`."""
        ...

    async def open_file(self, ref: FileRef, span: Span = WHOLE) -> Content:
        """Raises `NoSuchFile`, `UnsatisfiableSpan`, `UpstreamFailure`."""
        ...

    async def redirect(self, ref: FileRef) -> Redirect | None:
        """Where the client may fetch a file that is held, if it is held somewhere that clients may reach; else None."""
        ...

    async def file_facts(self, ref: FileRef) -> FileFacts:
        """What HEAD needs, without a download. Raises as `open_file`."""
        ...

    async def open_sidecar(self, ref: FileRef, kind: str) -> bytes:
        """The whole sidecar of a file; `kind` is `metadata` or `provenance`. Raises also `NoSuchSidecar`."""
        ...

    async def legacy_json(self, project: ProjectName, version: str | None = None) -> dict[str, Any]:
        """The parts of the legacy JSON API that no project page has: `info`, `vulnerabilities`, `last_serial`."""
        ...


class Upstream(Protocol):
    """A remote index: slow, fallible, asked as rarely as possible. Raises `UpstreamFailure` and its kin."""

    name: str
    """As in keys and URLs."""

    async def fetch_page(self, project: ProjectName, known: Validator) -> PageDocument | NotModified:
        """Raises also `NoSuchProject`, on 404 and 410 only."""
        ...

    async def fetch_file(self, file: File, span: Span = WHOLE, *, bypass_caches: bool = False) -> UpstreamStream:
        """The body is raw; its caller checks size and digest. Raises also `NoSuchFile`, `UnsatisfiableSpan`.

        `bypass_caches` asks upstream's own caches to step aside (Cache-Control: no-cache): one of them has
        just delivered damaged bytes.
        """
        ...

    async def fetch_size(self, file: File) -> int | None:
        """Size by HEAD, None where upstream does not say. Raises also `NoSuchFile`."""
        ...

    async def fetch_small(self, url: str, *, accept: str, limit: int) -> bytes:
        """A whole small body of at most `limit` bytes from a URL that the index named. Raises also `NoSuchFile`."""
        ...

    async def fetch_legacy_json(self, project: ProjectName, version: str | None) -> bytes:
        """The legacy JSON document. Raises also `NoSuchProject`, also where upstream has no such API."""
        ...

    async def fetch_project_list(self) -> tuple[str, AsyncIterator[bytes]]:
        """Media type and decoded body, in pieces, of the list of all projects; a `ByteSource` is closed by its reader."""
        ...


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One object as a listing shows it."""

    key: str
    size: int
    modified: float
    """Seconds since the epoch."""


class Store(Protocol):
    """Durable, shared by every replica, the truth. Raises `StoreFailure` when it cannot be read or written.

    A key is a relative path of safe segments. An object appears whole or not at all, at any instant and
    after any crash; `put` and `adopt` return when it is durable.
    """

    @property
    def remote(self) -> bool:
        """Whether a read is a round trip over a network: such reads are shared, and copies kept nearer."""
        ...

    @property
    def exact(self) -> bool:
        """Whether of several replicas that `create` or `replace` one object at the same time exactly one succeeds."""
        ...

    async def open(self, key: str, span: Span = WHOLE) -> Content | None:
        """None if there is no such object. Raises also `UnsatisfiableSpan`."""
        ...

    async def read(self, key: str, limit: int) -> bytes | None:
        """A whole small object; `StoreFailure` if it is larger than `limit` bytes."""
        ...

    async def reread(self, key: str, limit: int, version: str) -> Blob | Unchanged | None:
        """The same from the truth itself, past every cache, unless it is still in `version`; "" is no version."""
        ...

    async def put(self, key: str, body: bytes) -> None:
        """Creates or replaces an object."""
        ...

    async def create(self, key: str, body: bytes) -> bool:
        """Creates a small object; False if there is one already. See `exact`."""
        ...

    async def replace(self, key: str, body: bytes, version: str) -> bool:
        """Replaces a small object that is in `version`; False if it is in another, or gone. See `exact`."""
        ...

    async def adopt(self, key: str, path: Path) -> None:
        """Creates or replaces an object from a complete, closed file, which is consumed (moved if that is possible)."""
        ...

    async def admit(self, key: str, path: Path) -> bool:
        """Keeps a verified copy of an object that the store has, where it is nearer; True if the file was consumed.

        False where there is no such place or it cannot be written; the file is untouched then.
        """
        ...

    async def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        ...

    async def quarantine(self, key: str) -> None:
        """Takes a damaged object out of service and keeps its bytes for inspection.

        Where `open` answered from a copy, that copy is what is damaged, and it alone is removed.
        """
        ...

    def list(self, prefix: str) -> AsyncIterator[StoredKey]:
        """Every object whose key starts with `prefix`, in key order."""
        ...

    async def check(self) -> None:
        """Raises `StoreFailure` if the store could not be written now; used at start and for readiness."""
        ...

    async def aclose(self) -> None: ...


class Sink(Protocol):
    """A store that takes a body while it is still on its way, for mirrors without a disk."""

    async def pour(self, key: str, size: int, body: ByteSource) -> None:
        """Creates or replaces an object of exactly `size` bytes.

        If `body` raises, or gives fewer or more bytes, nothing is stored; what it raised is raised again.
        Raises `StoreFailure`. Closes `body` in any case.
        """
        ...


class Presigner(Protocol):
    """A store whose objects a client can fetch by itself with a URL that is signed for it."""

    async def open(self, key: str, span: Span = WHOLE) -> Content | None:
        """As `Store.open`, past every cache: whether the object is there."""
        ...

    async def presigned(self, key: str, filename: str) -> Redirect | None:
        """Leave to fetch the object, valid for some minutes; None where no URL can be signed now.

        Whether the object is there is not looked up.
        """
        ...


class Lease(Protocol):
    """Leave to download one object on behalf of all replicas."""

    async def release(self) -> None:
        """The store has the object now, or the download has failed. Raises nothing; to be called once."""
        ...


class Leases(Protocol):
    """Agreement between replicas that share a store on which of them downloads what."""

    async def lead(self, key: str) -> Lease | None:
        """Leave to download the object; None if another replica has delivered it: the store has it now.

        Waits for a replica that is downloading it, for a bounded time. Never raises: where there is no agreement
        to be had, leave is given without one.
        """
        ...


class RecordCache(Protocol):
    """Small records on this machine's disk: bounded and disposable; may forget anything at any time.

    It never raises for what its disk does: a failure is counted, and is a miss.
    """

    async def recall(self, key: str) -> bytes | None:
        """The record exactly as it was remembered, or None."""
        ...

    async def remember(self, key: str, body: bytes) -> None:
        """Keeps a record if that is possible."""
        ...

    async def forget(self, key: str) -> None: ...

    async def aclose(self) -> None: ...


class ArchiveCache(Protocol):
    """Archives on this machine's disk, by the store's keys: bounded and disposable, verified by whoever opens one.

    It never raises for what its disk does: a failure is counted, and is a miss.
    """

    async def open(self, key: str, span: Span = WHOLE) -> LocalFile | None:
        """An open handle, which outlives eviction. Raises `UnsatisfiableSpan`."""
        ...

    async def adopt(self, key: str, path: Path, *, owed: bool = False) -> bool:
        """Moves a complete, verified file in; False if that cannot be, and the file is untouched then.

        `owed`: the store lacks it still. Its bytes are kept until `settled`, through eviction and restarts.
        """
        ...

    async def owed(self) -> list[str]:
        """The keys of what the store still lacks, oldest first."""
        ...

    async def lend(self, key: str) -> Path | None:
        """The path of a file that is owed, which nobody else consumes; None if it is gone."""
        ...

    async def settled(self, key: str) -> None:
        """The store has it now, or will never have it: from here on it is a copy like any other."""
        ...

    async def forget(self, key: str) -> None:
        """Removes the copy; what is owed stays owed."""
        ...

    async def aclose(self) -> None: ...


class Clock(Protocol):
    """Time, so that tests can move it."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds, never going back."""
        ...
