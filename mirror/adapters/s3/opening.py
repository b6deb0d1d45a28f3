"""Opens a store in a bucket: is it there, may we write, is it ours, and what can the service do."""

from __future__ import annotations

import structlog

from mirror.adapters.s3.calls import Calls
from mirror.adapters.s3.client import S3Client
from mirror.adapters.s3.failures import NO_CREDENTIALS, STALE_CREDENTIALS, S3Error
from mirror.adapters.s3.listing import Listing
from mirror.adapters.s3.options import S3Options
from mirror.adapters.s3.probe import Capabilities, Probe
from mirror.adapters.s3.reads import Reads
from mirror.adapters.s3.writes import Writes
from mirror.adapters.store_layout import LAYOUT_FILE, check_layout, new_layout
from mirror.errors import StartError, StoreFailure
from mirror.model import Blob

LAYOUT_LIMIT = 64 * 1024

_log = structlog.get_logger(__name__)


class Opening:
    """The steps that come before the first object. Raises `StartError` for what only people can put right.

    `StoreFailure` is raised where the service does not answer, or is not well: that may pass.
    """

    def __init__(
        self,
        client: S3Client,
        reads: Reads,
        writes: Writes,
        listing: Listing,
        probe: Probe,
        calls: Calls,
        options: S3Options,
    ) -> None:
        self._client, self._options = client, options
        self._reads, self._writes, self._listing, self._probe = reads, writes, listing, probe
        self._calls = calls
        self._patience = 10 * (options.connect_timeout + options.read_timeout)
        """For all that is tried out; each step has its own, shorter limit."""

    async def run(self) -> Capabilities:
        try:
            return await self._run()
        except StoreFailure as failure:
            if isinstance(cause := failure.__cause__, S3Error) and (why := self._for_people(cause)):
                raise StartError(why) from failure
            raise

    async def _run(self) -> Capabilities:
        is_new = False
        try:
            is_new = not await self._layout_is_there()
        except StoreFailure as failure:
            # 403 may mean that it is not there, where listing is not allowed: the probe will tell.
            cause = failure.__cause__
            if not (isinstance(cause, S3Error) and (cause.status, cause.code) == (403, "AccessDenied")):
                raise
            is_new = True
        if is_new:
            await self._expect_nothing()
        found = await self._calls.run("probe", LAYOUT_FILE, self._probe.run, patience=self._patience)
        self._reads.absence = found.absence
        if is_new and not await self._layout_is_there():
            await self._create_layout(found)
        self._tell(found)
        return found

    def _tell(self, found: Capabilities) -> None:
        follows = []
        if not found.exact:
            follows.append("of several replicas that write one object at once, each may believe that it was the first")
        if found.ranges is None:
            follows.append("ranges are cut out of whole objects")
        if found.absence.status == 403:
            follows.append("403 counts as a miss")
        if not found.lists:
            follows.append("listings lag, or are not allowed: no published packages, no garbage collection")
        _log.info(
            "object store opened",
            where=self._options.where,
            endpoint=self._client.endpoint,
            region=self._client.region,
            **found.as_dict(),
            follows="; ".join(follows) or "nothing is missing",
        )

    async def _layout_is_there(self) -> bool:
        found = await self._reads.small(LAYOUT_FILE, LAYOUT_LIMIT, "")
        if not isinstance(found, Blob):
            return False
        check_layout(found.body, self._options.where)
        return True

    async def _expect_nothing(self) -> None:
        """Raises `StartError` if the place is in use, and not by a store."""
        try:
            is_empty = await self._listing.is_empty()
        except StoreFailure as failure:
            cause = failure.__cause__
            if not (isinstance(cause, S3Error) and (cause.status, cause.code) == (403, "AccessDenied")):
                raise
            _log.warning("object store may not be listed, so it is taken to be empty", where=self._options.where)
            return
        # Another replica may have begun the store in between.
        if not is_empty and not await self._layout_is_there():
            raise StartError(
                f"There are objects in {self._options.where}, but no {LAYOUT_FILE}: it is no store of this mirror. "
                "Choose an empty bucket or another s3-prefix, or bring the file back from a backup."
            )

    async def _create_layout(self, found: Capabilities) -> None:
        body = new_layout()
        if found.conditional_create:
            await self._writes.put_if(LAYOUT_FILE, body, IfNoneMatch="*")  # or another replica has done it
        else:
            await self._writes.put(LAYOUT_FILE, body)

    def _for_people(self, error: S3Error) -> str:
        """What somebody has to do about `error`, in a sentence; empty if it may pass by itself."""
        where, endpoint = self._options.where, self._client.endpoint
        if error.code == NO_CREDENTIALS:
            return (
                f"No credentials for {where} were found: set s3-access-key-id and s3-secret-access-key, "
                "or one of the ways that the AWS tools know."
            )
        if error.code == "NoSuchBucket":
            return f"There is no bucket {self._options.bucket} at {endpoint}: make it (`mirror store init`), or set s3-bucket."
        if error.is_elsewhere:
            right = f"set s3-region to {error.region}" if error.region else "set s3-region to the bucket's"
            return f"The region {self._client.region} is not that of the bucket {self._options.bucket}: {right}."
        if error.is_fault or error.code in ("RequestTimeTooSkewed", STALE_CREDENTIALS) or error.status == 429:
            return ""
        if error.is_refusal:
            return f"The service at {endpoint} refuses the credentials for {where}: {error.why}. Check the keys and their policy."
        return f"What answers at {endpoint} does not serve {where} as S3 does: {error.why}. Check s3-endpoint-url and s3-addressing."
