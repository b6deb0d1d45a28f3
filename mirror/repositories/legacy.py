"""The parts of the legacy JSON API that no project page has: upstream's where it has that API, else out of an archive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar, TypeVarTuple

import msgspec
import structlog
from packaging.metadata import parse_email
from packaging.version import InvalidVersion, Version

from mirror.counters import Counters
from mirror.errors import MirrorError, NoSuchProject, StoreFailure, UpstreamFailure, UpstreamMisbehaved
from mirror.flight import Flights, Tasks
from mirror.freshness import Freshness, Lifetime
from mirror.lru import LRU
from mirror.model import File, ProjectPage
from mirror.names import ProjectName, page_key
from mirror.ports import Clock, Store, Upstream
from mirror.repositories.metadata import Metadata
from mirror.repositories.pages import Pages
from mirror.simple.versions import file_version

MAX_RECORD: Final = 16 * 1024 * 1024
REMEMBERED: Final = 10_000
"""Documents of which it is remembered that upstream has none; few indexes have this API at all."""
LARGE: Final = 200
"""Files from which on their versions are told apart in a thread: some milliseconds."""
LARGE_BODY: Final = 256 * 1024
"""Bytes of a document from which on it is decoded in a thread."""
LARGE_METADATA: Final = 8 * 1024
"""Bytes of core metadata from which on they are parsed in a thread; a megabyte takes a third of a second."""

T = TypeVar("T")
Args = TypeVarTuple("Args")

_FIELDS: Final = {
    "name": "name",
    "version": "version",
    "summary": "summary",
    "description": "description",
    "description_content_type": "description_content_type",
    "keywords": "keywords",
    "home_page": "home_page",
    "download_url": "download_url",
    "author": "author",
    "author_email": "author_email",
    "maintainer": "maintainer",
    "maintainer_email": "maintainer_email",
    "license": "license",
    "license_expression": "license_expression",
    "license_files": "license_files",
    "classifiers": "classifiers",
    "requires_dist": "requires_dist",
    "requires_python": "requires_python",
    "project_urls": "project_urls",
    "provides_extra": "provides_extra",
    "dynamic": "dynamic",
}
"""Core metadata as `packaging` names it → the API's `info`."""

log = structlog.get_logger()


class _Record(msgspec.Struct):
    """What is kept of upstream's document; its files are left out, because ours come from the project page."""

    info: dict[str, Any]
    vulnerabilities: list[Any] = []
    last_serial: int | None = None
    fetched_at: float = 0


class LegacyJson:
    """Answers `Repository.legacy_json` for one upstream."""

    def __init__(
        self,
        upstream: Upstream,
        pages: Pages,
        metadata: Metadata,
        store: Store,
        clock: Clock,
        tasks: Tasks,
        counters: Counters,
        lifetime: Lifetime,
        *,
        offline: bool,
    ) -> None:
        self._upstream, self._pages, self._metadata, self._store = upstream, pages, metadata, store
        self._clock, self._counters, self._lifetime, self._offline = clock, counters, lifetime, offline
        self._fetches: Flights[str, _Record] = Flights(tasks, "legacy json")
        self._missing: LRU[str, float] = LRU(REMEMBERED)

    async def answer(self, project: ProjectName, version: str | None) -> dict[str, Any]:
        """`info`, `vulnerabilities` and `last_serial` of a project or one release. Raises `NoSuchProject`."""
        page = (await self._pages.answer(project)).page
        files = await _unhurried(len(page.files) > LARGE, _files_of, page, version)
        if version is not None and not files:
            raise NoSuchProject(f"{project} {version}")
        release = None if version is None else str(_version(files[0], project))
        key = page_key(self._upstream.name, project, ".legacy" if release is None else f".legacy-{release}")
        record = await self._record(project, release, key)
        if record is None:
            info = await self._out_of_archive(project, files)
            record = _Record(info, [], page.serial)
        return {"info": record.info, "vulnerabilities": record.vulnerabilities, "last_serial": record.last_serial}

    async def _record(self, project: ProjectName, version: str | None, key: str) -> _Record | None:
        """Upstream's record, None where it has none; the copy held if upstream fails."""
        held = await self._held(key)
        if held is not None:
            age = self._clock.now() - held.fetched_at
            if self._offline or self._lifetime.judge(age, None) is Freshness.FRESH:
                return held
        if self._offline or (self._missing.get(key) or 0) > self._clock.monotonic():
            return None
        try:
            return await self._fetches.run(key, lambda: self._fetch(project, version, key))
        except NoSuchProject:
            self._missing.put(key, self._clock.monotonic() + self._lifetime.ttl)
            return None
        except UpstreamFailure as e:
            log.warning("legacy JSON not confirmed", project=project, reason=str(e))
            return held

    async def _held(self, key: str) -> _Record | None:
        try:
            blob = await self._store.read(key, MAX_RECORD)
            return None if blob is None else await _unhurried(len(blob) > LARGE_BODY, _decode, blob)
        except StoreFailure as e:
            self._counters.count("store_failures")
            log.error("stored legacy JSON not read", key=key, reason=str(e))
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            log.error("stored legacy JSON damaged", key=key, reason=str(e))
        return None

    async def _fetch(self, project: ProjectName, version: str | None, key: str) -> _Record:
        body = await self._upstream.fetch_legacy_json(project, version)
        try:
            record = await _unhurried(len(body) > LARGE_BODY, _decode, body)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise UpstreamMisbehaved(self._upstream.name, f"its legacy JSON cannot be read: {e}") from e
        record.fetched_at = self._clock.now()
        try:
            await self._store.put(key, msgspec.json.encode(record))
        except StoreFailure as e:
            self._counters.count("store_failures")
            log.error("legacy JSON not kept", project=project, reason=str(e))
        return record

    async def _out_of_archive(self, project: ProjectName, files: list[File]) -> dict[str, Any]:
        newest, of_newest = await _unhurried(len(files) > LARGE, _newest, files, project)
        info: dict[str, Any] = dict.fromkeys(_FIELDS.values())
        info |= {"name": project, "version": str(newest) if newest else None, "yanked": False, "yanked_reason": None}
        for file in of_newest:
            try:
                body = await self._core_metadata(project, file)
                raw, _ = await _unhurried(len(body) > LARGE_METADATA, parse_email, body)
            except MirrorError as e:
                log.info("no core metadata for legacy JSON", file=file.filename, reason=str(e))
                continue
            return info | {_FIELDS[k]: v for k, v in raw.items() if k in _FIELDS}
        if of_newest:
            info["requires_python"] = of_newest[0].requires_python
        return info

    async def _core_metadata(self, project: ProjectName, file: File) -> bytes:
        if not file.core_metadata and file.filename.endswith(".tar.gz"):
            return await self._metadata.of_source(project, file)
        return await self._metadata.core_metadata(project, file)


async def _unhurried(large: bool, call: Callable[[*Args], T], *args: *Args) -> T:
    """`call(*args)`, in a thread if it would hold up the event loop."""
    return await asyncio.to_thread(call, *args) if large else call(*args)


def _decode(body: bytes) -> _Record:
    return msgspec.json.decode(body, type=_Record)


def _newest(files: list[File], project: ProjectName) -> tuple[Version | None, list[File]]:
    versions = [_version(file, project) for file in files]
    newest = max((v for v in versions if v), default=None)
    return newest, [file for file, version in zip(files, versions, strict=True) if version == newest]


def _version(file: File, project: ProjectName) -> Version | None:
    text = file_version(file.filename, project)
    return None if text is None else Version(text)


def _files_of(page: ProjectPage, version: str | None) -> list[File]:
    """The files of that release; without one those of which the newest is the project's face."""
    if version is None:
        stable = [f for f in page.files if (v := _version(f, page.name)) and not v.is_prerelease and not f.yanked]
        return stable or list(page.files)
    try:
        wanted = Version(version)
    except InvalidVersion:
        return []
    return [f for f in page.files if _version(f, page.name) == wanted]
