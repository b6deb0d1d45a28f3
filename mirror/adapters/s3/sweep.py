"""Ends uploads in parts that nobody finished: their writer was killed, and their parts cost money."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Final

import structlog

from mirror.adapters.s3.calls import Calls
from mirror.adapters.s3.client import S3Client
from mirror.adapters.s3.failures import S3Error
from mirror.adapters.s3.listing import Listing
from mirror.adapters.s3.requests import Requests
from mirror.errors import StoreFailure

STALE_AFTER: Final = timedelta(hours=24)
"""An upload that has gone on for so long is nobody's."""
_UNKNOWN: Final = (400, 403, 404, 405, 501)
"""Statuses by which a service says that it does not know the request, or does not allow it."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Upload:
    key: str
    number: str
    began: datetime


class Sweep:
    """Once after each start, behind everything else; what fails is left to the next one."""

    def __init__(self, client: S3Client, requests: Requests, listing: Listing, calls: Calls) -> None:
        self._client, self._requests, self._listing, self._calls = client, requests, listing, calls

    async def run(self) -> None:
        ended = 0
        try:
            oldest = datetime.now(UTC) - STALE_AFTER
            stale = [upload async for upload in self._below("") if upload.began < oldest]
            if stale and not await self._tells_the_time(oldest):
                _log.info("unfinished uploads are for the object store to end", reason="it does not tell their age")
                return
            for upload in stale:
                await self._end(upload.key, upload.number)
                ended += 1
        except StoreFailure as failure:
            cause = failure.__cause__
            if not (isinstance(cause, S3Error) and cause.status in _UNKNOWN):
                _log.warning("unfinished uploads in the object store not swept", reason=failure.why)
            elif cause.code != "NoSuchUpload":  # rclone's way to say that there are none
                _log.info("unfinished uploads are for the object store to end", reason=failure.why)
        if ended:
            _log.info("unfinished uploads ended", uploads=ended)

    async def _tells_the_time(self, oldest: datetime) -> bool:
        """Whether an upload that begins now is listed as one that begins now; not every service knows when it was."""
        key = f"tmp/sweep-{token_hex(8)}"
        number, _ = await self._calls.run("sweep", key, lambda: self._requests.begin_parts(key))
        try:
            return [upload.began >= oldest async for upload in self._below(key)] == [True]
        finally:
            await self._end(key, number)

    async def _below(self, prefix: str) -> AsyncIterator[_Upload]:
        root = self._client.full_key("")
        more: dict[str, str] = {}
        while True:
            page = await self._listing.page("list_multipart_uploads", prefix, more)
            for entry in page.get("Uploads", ()):
                if (key := str(entry["Key"])).startswith(root):
                    yield _Upload(key.removeprefix(root), str(entry["UploadId"]), entry["Initiated"])
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    async def _end(self, key: str, number: str) -> None:
        await self._calls.run("sweep", key, lambda: self._requests.abort_parts(key, number))
