"""The frozen nouns that every layer speaks of: file, page, digest, validator, span, content."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO, Final, Protocol, runtime_checkable

import msgspec

from mirror.errors import UnsatisfiableSpan
from mirror.names import ProjectName

STRONG_DIGESTS: Final = ("sha512", "sha384", "sha256", "sha3_512", "sha3_384", "sha3_256", "blake2b")
"""Algorithms whose match proves identity, as `hashlib` names them; sha256 is preferred wherever it is given."""


class Digest(msgspec.Struct, frozen=True, gc=False):
    """A digest that an index promised: `algorithm` as hashlib names it, `hex` in lower case."""

    algorithm: str
    hex: str

    @property
    def etag(self) -> str:
        """The strong entity tag of the bytes with this digest; equal on every replica (RFC 9110 §8.8.3)."""
        return f'"{self.algorithm}-{self.hex}"'


class File(msgspec.Struct, frozen=True, gc=False):
    """One entry of a project page (PEP 503, 691, 700, 740)."""

    filename: str
    url: str
    """Where upstream has it: absolute, without fragment."""
    path: str
    """Where this mirror has it: the path below our root, no leading slash, decoded, no query (see `docs`)."""
    hashes: dict[str, str] = {}
    """Algorithm to lower-case hex digest, as the index gave them."""
    size: int | None = None
    """Bytes, if known."""
    upload_time: str | None = None
    """`yyyy-mm-ddThh:mm:ss[.ffffff]Z`, byte for byte as upstream wrote it."""
    requires_python: str | None = None
    core_metadata: bool | dict[str, str] = False
    """Whether `{url}.metadata` is served, and with which hashes if known (PEP 658, 714)."""
    yanked: bool | str = False
    """True, or the reason (PEP 592)."""
    gpg_sig: bool | None = None
    provenance: str | None = None
    """Absolute https URL of the attestations (PEP 740)."""
    extra: dict[str, Any] | None = None
    """Keys of upstream's JSON that no specification known here names; passed on unchanged."""

    @property
    def digest(self) -> Digest | None:
        """The digest that proves this file's identity; None where the index gave none, or only weak ones."""
        if sha256 := self.hashes.get("sha256"):
            return Digest("sha256", sha256)
        for algorithm in STRONG_DIGESTS:
            if value := self.hashes.get(algorithm):
                return Digest(algorithm, value)
        return None


class ProjectStatus(msgspec.Struct, frozen=True, gc=False):
    """PEP 792: `status` is one of active, archived, quarantined, deprecated (or a later word)."""

    status: str
    reason: str | None = None


@dataclass(frozen=True)
class ProjectPage:
    """What an index says of one project: its files, in upstream's order."""

    name: ProjectName
    files: tuple[File, ...]
    versions: tuple[str, ...] = ()
    status: ProjectStatus | None = None
    serial: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Unknown top-level keys of upstream's JSON, passed on."""
    meta_extra: dict[str, Any] = field(default_factory=dict)
    """Unknown keys of upstream's `meta`, passed on."""
    revision: str = ""
    """Changes whenever anything that a client could see of this page changes; equal on every replica."""
    dropped: int = 0
    """Entries of upstream's page that were left off because they were hostile or unusable."""

    @property
    def offered(self) -> tuple[File, ...]:
        """The files that clients are told of: none of a quarantined project (PEP 792)."""
        return () if self.status is not None and self.status.status == "quarantined" else self.files

    @cached_property
    def by_path(self) -> dict[str, File]:
        """Files by public path."""
        return {f.path: f for f in self.files}

    @cached_property
    def by_filename(self) -> dict[str, File]:
        """Files by file name."""
        return {f.filename: f for f in self.files}


class Validator(msgspec.Struct, frozen=True, gc=False):
    """What a conditional request sends: the ETag and Last-Modified of the copy that we hold."""

    etag: str | None = None
    last_modified: str | None = None


NO_VALIDATOR: Final = Validator()


class Learned(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What upstream's page does not say of a file and this mirror found out by itself."""

    size: int | None = None
    metadata_sha256: str | None = None
    """sha256 of the core metadata that lies in our store."""
    metadata_refused: bool = False
    """Upstream advertises core metadata whose bytes are not what it promised; this mirror does not advertise it."""


class PageDocument(msgspec.Struct, frozen=True):
    """A project page as upstream sent it, decoded, with the facts of that answer."""

    body: bytes
    content_type: str
    """The media type, without parameters, in lower case."""
    url: str
    """The final URL: relative links are resolved against it."""
    fetched_at: float
    """When upstream last confirmed it: seconds since the epoch."""
    validator: Validator = NO_VALIDATOR
    serial: int | None = None
    """X-PyPI-Last-Serial."""
    max_age: int | None = None
    """Seconds, from upstream's Cache-Control."""
    learned: dict[str, Learned] = {}
    """By file name."""
    withdrawn: dict[str, dict[str, str]] = {}
    """Hashes by public path of files that earlier pages named and this one does not, or with other digests. What
    the store holds of them stays available to lock files; upstream is not asked for them again."""


@dataclass(frozen=True, slots=True)
class NotModified:
    """Upstream confirmed the copy whose validator was sent (304)."""

    max_age: int | None = None
    serial: int | None = None


class Origin(enum.Enum):
    """What answered a request; the value is what logs, metrics and X-Cache say."""

    MEMORY = "memory"
    CACHE = "cache"
    STORE = "store"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """A project page as a repository answers it."""

    page: ProjectPage
    origin: Origin
    max_age: int
    """Remaining freshness in seconds; 0 = the client should ask again each time."""
    stale: bool = False
    """True if it is older than its lifetime: upstream is being asked behind, or could not confirm it."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """What a client asks for by URL: `path` as in `File.path`."""

    path: str

    @property
    def filename(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Span:
    """A byte range as asked for (RFC 9110 §14): `first`–`last` inclusive, or the final `suffix` bytes."""

    first: int = 0
    last: int | None = None
    suffix: int | None = None

    @property
    def is_whole(self) -> bool:
        return self.first == 0 and self.last is None and self.suffix is None

    def resolve(self, size: int) -> tuple[int, int]:
        """`(start, stop)`, half open, within a file of `size` bytes; `UnsatisfiableSpan` if nothing is left."""
        if self.suffix is not None:
            if self.suffix == 0:
                raise UnsatisfiableSpan(size)
            return max(0, size - self.suffix), size
        if self.is_whole:
            return 0, size
        if self.first >= size:
            raise UnsatisfiableSpan(size)
        return self.first, size if self.last is None else min(self.last + 1, size)


WHOLE: Final = Span()


@dataclass(slots=True)
class LocalFile:
    """Verified bytes in an open file of this machine, fit for sendfile; whoever receives it closes it."""

    handle: BinaryIO
    size: int
    """Of the whole file, in bytes."""
    start: int
    stop: int
    """The part asked for, half open."""
    origin: Origin
    digest: Digest | None = None

    def close(self) -> None:
        self.handle.close()


@runtime_checkable
class ByteSource(Protocol):
    """An asynchronous iterator of pieces that can be closed early."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class ByteStream:
    """Bytes on their way; whoever receives it iterates `body` to the end or closes it.

    An error raised by `body` after the first piece means that the answer must be broken off, never ended.
    """

    body: ByteSource
    size: int
    """Of the whole file, in bytes."""
    start: int
    stop: int
    origin: Origin
    digest: Digest | None = None

    async def aclose(self) -> None:
        await self.body.aclose()


@dataclass(frozen=True, slots=True)
class Redirect:
    """Leave to fetch the bytes elsewhere, for a short while; never to be cached."""

    url: str


@dataclass(frozen=True, slots=True)
class Blob:
    """A small object of a store, whole."""

    body: bytes
    version: str
    """Another one whenever the object is replaced; opaque, and compared with nothing but itself."""


class Unchanged(enum.Enum):
    """The answer that an object is still in the version that the asker knows."""

    UNCHANGED = enum.auto()


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What HEAD tells of a file without its bytes."""

    size: int
    origin: Origin
    digest: Digest | None = None


Content = LocalFile | ByteStream


@dataclass(slots=True)
class UpstreamStream:
    """The body of an upstream answer to a request for a file, undecoded and unverified."""

    body: ByteSource
    size: int | None
    """Of the whole file, from Content-Length or Content-Range; None where upstream does not say."""
    start: int
    stop: int | None
    """The part that `body` carries; an upstream that ignores ranges answers the whole file: start 0."""

    async def aclose(self) -> None:
        await self.body.aclose()
