"""Uploads that nobody finished are ended, and those on their way are not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from mirror.adapters.s3.store import S3Store
from mirror.adapters.system_clock import SystemClock
from mirror.counters import Counters
from tests.adapters.s3_scene import options_for
from tests.support.s3.proxy import FaultProxy
from tests.support.s3.services import Moto


@pytest.fixture
def proxy(moto_service: Moto) -> Iterator[FaultProxy]:
    with FaultProxy(moto_service) as proxy:
        yield proxy


def listing(bucket: str, uploads: dict[str, timedelta]) -> bytes:
    """The answer of a service whose uploads in parts have the given ages by key; their numbers are their keys."""
    entries = "".join(
        f"<Upload><Key>{key}</Key><UploadId>{key}</UploadId>"
        f"<Initiated>{datetime.now(UTC) - age:%Y-%m-%dT%H:%M:%SZ}</Initiated></Upload>"
        for key, age in uploads.items()
    )
    return (
        f'<?xml version="1.0"?><ListMultipartUploadsResult><Bucket>{bucket}</Bucket>'
        f"<IsTruncated>false</IsTruncated>{entries}</ListMultipartUploadsResult>"
    ).encode()


async def aborted(proxy: FaultProxy, bucket: str, uploads: dict[str, timedelta], own_age: timedelta) -> list[str]:
    """The keys of the uploads that a start ends, at a service that says of every new one that it is `own_age` old."""
    proxy.fault(operation="AbortMultipartUpload", status=204)
    own = proxy.fault(operation="ListMultipartUploads", status=200, body=listing(bucket, {"mirror/tmp/sweep": own_age}))
    proxy.fault(operation="ListMultipartUploads", times=1, status=200, body=listing(bucket, uploads))
    store = S3Store(options_for(proxy, bucket, prefix="mirror/"), Counters(), SystemClock())
    await store.start()
    await store._tasks.drain(60)
    await store.aclose()
    assert own.hits == 1  # one upload of its own has told whether ages are to be believed
    return [call.key for call in proxy.requests(operation="AbortMultipartUpload") if "tmp/sweep" not in call.key]


async def test_s7_only_old_uploads_below_the_prefix_are_ended(proxy: FaultProxy, moto_service: Moto) -> None:
    day = timedelta(hours=24)
    uploads = {
        "mirror/files/old": day + timedelta(minutes=5),
        "mirror/files/young": day - timedelta(minutes=5),
        "other/files/old": 2 * day,
    }
    assert await aborted(proxy, moto_service.new_bucket(), uploads, timedelta()) == ["mirror/files/old"]


async def test_a_service_that_does_not_know_when_uploads_began(proxy: FaultProxy, moto_service: Moto) -> None:
    decade = timedelta(days=3650)
    assert await aborted(proxy, moto_service.new_bucket(), {"mirror/files/a": decade}, decade) == []
