"""Finds out what an S3-compatible service does with what not all of them do alike."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from secrets import token_hex
from typing import Any, Final, TypeVar

import structlog

from mirror.adapters.http.headers import content_range
from mirror.adapters.s3.client import S3Client
from mirror.adapters.s3.failures import TRANSPORT_ERRORS, S3Error, explain
from mirror.adapters.s3.fetch import Fetch
from mirror.adapters.s3.reads import NO_SUCH_KEY, Absence, etag
from mirror.adapters.s3.requests import Requests

T = TypeVar("T")
_NO_TAG: Final = "0" * 32
"""An entity tag that no object has."""
_BODY: Final = b"0123456789"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a service was seen to do."""

    conditional_create: bool = False
    """PUT with If-None-Match: * creates, and refuses to replace."""
    conditional_replace: bool = False
    """PUT with If-Match replaces the right version, and nothing else."""
    conditional_reads: bool = False
    """GET with If-None-Match answers 304."""
    ranges: int | None = None
    """The status of an answer with Content-Range, which some services say is 200; None if there is no such answer."""
    lists: bool = False
    """A listing shows what was written a moment ago."""
    deletes: bool = False
    absence: Absence = NO_SUCH_KEY
    """How it says that there is no such object."""

    @property
    def exact(self) -> bool:
        return self.conditional_create and self.conditional_replace

    def as_dict(self) -> dict[str, Any]:
        absent = f"{self.absence.status} {self.absence.code}".strip()
        return {"exact": self.exact, **asdict(self), "absence": absent}


class Probe:
    """Tries everything once, on an object of its own below `tmp/`, which it removes."""

    def __init__(self, client: S3Client, fetch: Fetch, requests: Requests) -> None:
        self._client, self._fetch, self._requests = client, fetch, requests
        self._key = f"tmp/probe-{token_hex(8)}"

    async def run(self) -> Capabilities:
        """Raises `S3Error` or `TRANSPORT_ERRORS` if the object cannot be written or the service does not answer."""
        absence = await self._absence()
        try:
            found = await self._with_object()
        finally:
            deletes = await self._delete()
        return Capabilities(**found, deletes=deletes, absence=absence)

    async def _with_object(self) -> dict[str, Any]:
        creates = await self._creates()
        version = await self._requests.put(self._key, _BODY)
        return {
            "conditional_create": creates,
            "conditional_replace": await self._replaces(version),
            "conditional_reads": await self._rereads(),
            "ranges": await self._ranges(),
            "lists": await self._lists(),
        }

    async def _absence(self) -> Absence:
        found = await _asked(self._fetch.get(self._key, {}))
        if not isinstance(found, S3Error):
            found.close()
            raise S3Error("it answers with an object that was never written", status=found.status)
        if (found.status, found.code) in ((404, "NoSuchKey"), (403, "AccessDenied")):
            return Absence(found.status or 0, found.code)
        if found.status != 404 or found.code == "NoSuchBucket":
            raise found
        return Absence(404, found.code)

    async def _creates(self) -> bool:
        first = await _asked(self._requests.put(self._key, _BODY, IfNoneMatch="*"))
        second = await _asked(self._requests.put(self._key, _BODY, IfNoneMatch="*"))
        return isinstance(first, str) and isinstance(second, S3Error) and second.status == 412

    async def _replaces(self, version: str) -> bool:
        wrong = await _asked(self._requests.put(self._key, _BODY, IfMatch=_NO_TAG))
        if not (isinstance(wrong, S3Error) and wrong.status == 412):
            return False
        right = await _asked(self._requests.put(self._key, _BODY[::-1], IfMatch=version))
        late = await _asked(self._requests.put(self._key, _BODY, IfMatch=version))
        if not (isinstance(right, str) and isinstance(late, S3Error) and late.status == 412):
            return False
        await self._requests.delete(self._key)
        absent = await _asked(self._requests.put(self._key, _BODY, IfMatch=right))
        if isinstance(absent, str):
            return False
        await self._requests.put(self._key, _BODY)
        return True

    async def _rereads(self) -> bool:
        response = await self._fetch.get(self._key, {})
        response.close()
        tag = etag(response.headers["ETag"])
        again = await _asked(self._fetch.get(self._key, {"If-None-Match": f'"{tag}"'}))
        if isinstance(again, S3Error):
            return again.status == 304
        again.close()
        return False

    async def _ranges(self) -> int | None:
        found = await _asked(self._fetch.get(self._key, {"Range": "bytes=2-3"}))
        if isinstance(found, S3Error):
            return None
        found.close()
        part = content_range(found.headers)
        return found.status if part is not None and (part.start, part.stop) == (2, 4) else None

    async def _lists(self) -> bool:
        key = self._client.full_key(self._key)
        found = await _asked(self._client.api.list_objects_v2(**self._client.names, Prefix=key))
        return not isinstance(found, S3Error) and any(entry["Key"] == key for entry in found.get("Contents", ()))

    async def _delete(self) -> bool:
        try:
            await self._requests.delete(self._key)
        except TRANSPORT_ERRORS as e:
            _log.warning("object store kept what it was probed with", key=self._key, reason=explain(e).why)
            return False
        return True


async def _asked(request: Awaitable[T]) -> T | S3Error:
    """The outcome of a request, or how it was refused. Raises where there was no answer, or the service is not well.

    501 is a refusal: so some say that they do not know a condition.
    """
    try:
        return await request
    except (S3Error, *TRANSPORT_ERRORS) as e:
        error = e if isinstance(e, S3Error) else explain(e)
        if error.is_fault:
            raise
        return error
