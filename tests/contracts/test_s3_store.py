"""The store in S3 under the one contract, on every service that can be had."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from botocore.exceptions import ClientError

from mirror.adapters.s3.store import S3Options, S3Store
from mirror.adapters.system_clock import SystemClock
from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.ports import Store
from tests.contracts.store_contract import KEY, StoreContract
from tests.support.objects import body_of, is_whole, keys_of, number_of, version
from tests.support.s3.services import S3Service

pytestmark = pytest.mark.asyncio(loop_scope="module")  # the loop of the stores that the classes share

_PREFIXES = itertools.count(1)
_PATIENCE = 60.0


def options_of(service: S3Service, bucket: str, **more: Any) -> S3Options:
    return S3Options(
        bucket=bucket,
        endpoint_url=service.endpoint_url,
        region=service.region,
        access_key_id=service.access_key,
        secret_access_key=service.secret_key,
        **more,
    )


def unfinished(service: S3Service, bucket: str) -> list[str]:
    """The keys of uploads in parts that were begun and neither finished nor given up."""
    try:
        found = service.client().list_multipart_uploads(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchUpload":  # rclone's way to say that there are none
            raise
        return []
    return [upload["Key"] for upload in found.get("Uploads", [])]


def bodies_below(service: S3Service, bucket: str, prefix: str) -> list[bytes]:
    """What lies below `prefix`, seen past the mirror."""
    client = service.client()
    found = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read() for entry in found]


class S3Contract(StoreContract):
    """Subclasses name the service, and say what it is known to do.

    One store serves all tests of a class, in a bucket that is empty again before each.
    """

    examples = 6
    exact: bool
    more: ClassVar[dict[str, Any]] = {}
    """More options of the store."""

    @pytest.fixture(scope="class")
    @classmethod
    def service(cls) -> S3Service:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def bucket(cls, service: S3Service) -> str:
        return service.new_bucket()

    @pytest.fixture
    def make_store(self, service: S3Service) -> Callable[[], Awaitable[Store]]:
        bucket = service.new_bucket()

        async def make() -> Store:
            prefix = f"store-{next(_PREFIXES)}/"
            store = S3Store(options_of(service, bucket, **{**self.more, "prefix": prefix}), Counters(), SystemClock())
            await store.start()
            return store

        return make

    @pytest_asyncio.fixture(scope="class", loop_scope="module")
    @classmethod
    async def started(cls, service: S3Service, bucket: str) -> AsyncIterator[S3Store]:
        store = S3Store(options_of(service, bucket, **cls.more), Counters(), SystemClock())
        await store.start()
        yield store
        await store.aclose()

    @pytest_asyncio.fixture(loop_scope="module")
    async def store(  # type: ignore[override] # of this loop
        self, service: S3Service, bucket: str, started: S3Store
    ) -> AsyncIterator[S3Store]:
        yield started
        client = service.client()
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
        for key in keys:
            if not key.endswith("layout.json"):
                client.delete_object(Bucket=bucket, Key=key)
        assert not [key for key in keys if key.startswith("tmp/") or "/tmp/" in key]
        # Right after its start the store looks for uploads that nobody finished, with one of its own.
        deadline = time.monotonic() + _PATIENCE
        while left := await asyncio.to_thread(unfinished, service, bucket):
            assert time.monotonic() < deadline, left
            await asyncio.sleep(0.02)

    @pytest.fixture
    def quarantined(self, service: S3Service, bucket: str) -> Callable[[], list[bytes]]:
        return lambda: bodies_below(service, bucket, "quarantine/")

    async def test_it_behaves_as_a_dict(  # type: ignore[override] # its event loops need a thread without one
        self, make_store: Callable[[], Awaitable[Store]], tmp_path: Path
    ) -> None:
        await asyncio.to_thread(super().test_it_behaves_as_a_dict, make_store, tmp_path)

    async def test_it_says_whether_it_is_exact(self, store: S3Store) -> None:
        assert store.exact is self.exact
        assert store.remote


class TestRclone(S3Contract):
    """Its objects are files in folders, and it ignores the conditions of a write."""

    exact = False
    test_of_eight_that_create_at_once_exactly_one_succeeds = None  # type: ignore[assignment] # nothing is promised
    test_eight_that_replace_at_once_lose_no_update = None  # type: ignore[assignment]

    @pytest.fixture(scope="class")
    @classmethod
    def service(cls, rclone_service: S3Service) -> S3Service:
        return rclone_service

    async def test_a_folder_is_no_object(self, store: Store) -> None:
        """To delete what is a folder there is answered with 500, and nothing is deleted."""
        await store.put("files/one/a.whl", b"wheel")
        assert await store.open("files/one") is None
        assert await store.read("files/one", 100) is None
        for call in (store.delete, store.quarantine):
            with pytest.raises(StoreFailure):
                await call("files/one")
        assert await keys_of(store) == ["files/one/a.whl"]

    async def test_twenty_writers_of_one_key_and_readers_see_whole_versions_only(
        self, store: Store, tmp_path: Path
    ) -> None:
        """One writer after the other: those that write one key at the same time are refused, or listed twice."""
        written = asyncio.Event()

        async def write() -> None:
            for number in range(1, 20):
                await store.put(KEY, version(number))
            written.set()

        async def read() -> None:
            while not written.is_set():
                assert is_whole(await body_of(await store.open(KEY)))

        await store.put(KEY, version(0))
        await asyncio.gather(write(), read(), read())
        assert number_of(await body_of(await store.open(KEY))) == 19
        assert await keys_of(store) == [KEY]


class TestMoto(S3Contract):
    exact = True

    @pytest.fixture(scope="class")
    @classmethod
    def service(cls, moto_service: S3Service) -> S3Service:
        return moto_service


class TestMotoThroughLibrary(TestMoto):
    """Without signed URLs; and whatever has more than a few bytes is sent in parts."""

    more: ClassVar[dict[str, Any]] = {"signed_reads": False, "multipart_threshold": 5, "prefix": "below/"}

    @pytest.fixture
    def quarantined(self, service: S3Service, bucket: str) -> Callable[[], list[bytes]]:
        return lambda: bodies_below(service, bucket, "below/quarantine/")


@pytest.mark.ceph
class TestCeph(S3Contract):
    exact = True

    @pytest.fixture(scope="class")
    @classmethod
    def service(cls, ceph_service: S3Service) -> S3Service:
        return ceph_service
