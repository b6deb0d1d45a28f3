"""Lists the objects of a store in a bucket, in key order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mirror.adapters.s3.calls import Calls
from mirror.adapters.s3.client import S3Client
from mirror.adapters.s3.options import S3Options
from mirror.adapters.store_keys import checked_key
from mirror.ports import StoredKey


class Listing:
    """Listings, page by page. Raises `StoreFailure`."""

    def __init__(self, client: S3Client, calls: Calls, options: S3Options) -> None:
        self._client, self._calls = client, calls
        self._patience = options.connect_timeout + 2 * options.read_timeout

    async def objects(self, prefix: str) -> AsyncIterator[StoredKey]:
        """Every object whose key is one of a store's and begins with `prefix`."""
        async for found in self._entries(prefix):
            if _is_key(found.key):
                yield found

    async def is_empty(self) -> bool:
        """Whether there is nothing at all, but what probes leave for a moment."""
        async for found in self._entries(""):
            if not found.key.startswith("tmp/"):
                return False
        return True

    async def _entries(self, prefix: str) -> AsyncIterator[StoredKey]:
        more: dict[str, str] = {}
        while True:
            page = await self.page("list_objects_v2", prefix, more)
            for entry in page.get("Contents", ()):
                key = str(entry["Key"]).removeprefix(self._client.full_key(""))
                yield StoredKey(key, int(entry["Size"]), float(entry["LastModified"].timestamp()))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    async def page(self, operation: str, prefix: str, more: dict[str, str]) -> dict[str, Any]:
        """One answer to `operation` of the AWS library's client; `more` says where to go on."""
        call = getattr(self._client.api, operation)

        async def once() -> dict[str, Any]:
            page: dict[str, Any] = await call(**self._client.names, Prefix=self._client.full_key(prefix), **more)
            return page

        return await self._calls.run("list", prefix, once, patience=self._patience)


def _is_key(key: str) -> bool:
    try:
        checked_key(key)
    except ValueError:  # somebody else's object, or one of our own folders that are no keys
        return False
    return True
