"""Replicas of a mirror on one bucket of a real service, with a proxy between them that can be told to fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from tests.faults.scene import SETTINGS, Scene, eventually, eventually_async
from tests.support.mirror import MirrorProcess
from tests.support.packages import Archive, Project
from tests.support.s3.proxy import FaultProxy
from tests.support.s3.services import S3Service
from tests.support.upstream import ThreadedUpstream

IMPATIENT: Final[dict[str, Any]] = {"s3_connect_timeout": 1, "s3_read_timeout": 2, "cluster_wait": 0}
"""Nobody waits long for the service."""


class Replica(Scene):
    """One mirror process on the bucket; what `Scene` says of folders does not hold for it."""

    def __init__(self, upstream: ThreadedUpstream, mirror: MirrorProcess, bucket: Bucket) -> None:
        super().__init__(upstream, mirror, bucket.folder_that_is_not_there)
        self.bucket = bucket

    async def ready(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /readyz."""
        answer = await self.get("readyz")
        return answer.status, json.loads(answer.body)

    async def source_of(self, archive: Archive) -> str:
        """What answered the archive, whose bytes have to be right."""
        return (await self.get_whole(archive)).headers["x-cache"]


class Bucket:
    """A bucket, the proxy before its service, and the replicas on it."""

    folder_that_is_not_there: Any = None

    def __init__(self, service: S3Service, proxy: FaultProxy, upstream: ThreadedUpstream, stack: ExitStack) -> None:
        self.service, self.proxy, self.upstream = service, proxy, upstream
        self.name = service.new_bucket()
        self._client = service.client()
        self._stack = stack
        self.mirrors: list[MirrorProcess] = []

    def settings(self) -> dict[str, Any]:
        """What a mirror has to be told of the bucket."""
        return {
            "storage": "s3",
            "s3_bucket": self.name,
            "s3_endpoint_url": self.proxy.endpoint_url,
            "s3_region": self.proxy.region,
            "s3_access_key_id": self.proxy.access_key,
            "s3_secret_access_key": self.proxy.secret_key,
        }

    def replica(self, *, prefix: Iterable[str] = (), **settings: Any) -> Replica:
        """Another mirror on the bucket; it ends with the scene."""
        mirror = MirrorProcess(
            prefix=list(prefix),
            upstream_url=self.upstream.url,
            **(SETTINGS | IMPATIENT | self.settings() | settings),
        )
        self._stack.enter_context(mirror)
        self.mirrors.append(mirror)
        return Replica(self.upstream, mirror, self)

    async def upstream_gone(self) -> None:
        """From now on upstream refuses connections."""
        await asyncio.to_thread(self.upstream.stop_now)

    # --- behind the mirrors' back ----------------------------------------------------------------

    def stored_keys(self, below: str = "") -> list[str]:
        """What lies in the bucket, in key order."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=below)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def key_of(self, archive: Archive) -> str:
        """The key of a stored archive."""
        [key] = [key for key in self.stored_keys("files/") if key.endswith(f"/{archive.filename}")]
        return key

    def body(self, key: str) -> bytes:
        body: bytes = self._client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def put(self, key: str, body: bytes) -> None:
        self._client.put_object(Bucket=self.name, Key=key, Body=body)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self.name, Key=key)

    def unfinished(self) -> list[str]:
        """The keys of multipart uploads that have neither been completed nor aborted."""
        return [each["Key"] for each in self._client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]

    async def holds(self, archive: Archive) -> None:
        """Returns once the archive is in the bucket, whole."""

        def there() -> bool:
            return any(key.endswith(f"/{archive.filename}") for key in self.stored_keys("files/"))

        await eventually_async(lambda: asyncio.to_thread(there))
        assert await asyncio.to_thread(lambda: self.body(self.key_of(archive))) == archive.content

    async def holds_page(self, name: str) -> None:
        """Returns once the page of that project is in the bucket."""
        await eventually(lambda: any(key.endswith(f"/{name}.json") for key in self.stored_keys("meta/")))


@contextmanager
def on_bucket(service: S3Service, projects: Iterable[Project] = ()) -> Iterator[Bucket]:
    """A bucket, an upstream and a proxy; a mirror that logs an unforeseen failure fails the test."""
    with ExitStack() as stack:
        upstream = stack.enter_context(ThreadedUpstream(projects))
        proxy = stack.enter_context(FaultProxy(service))
        bucket = Bucket(service, proxy, upstream, stack)
        yield bucket
        upstream.heal()
        proxy.heal()
    unforeseen = [e for mirror in bucket.mirrors for e in (*(x for x in mirror.log if "exception" in x), *mirror.text)]
    assert not unforeseen, unforeseen
