"""What the S3 services do that the tests run against: a service or a library that changes is noticed here.

The object store's adapter relies on what is the same everywhere, and finds out at start about conditional writes.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio

from tests.s3 import probes
from tests.s3.clients import connected
from tests.s3.probes import Probed
from tests.support.s3.services import S3Service

Probe = Callable[[Probed], Awaitable[str]]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a probe finds in each service; None where it is not asked."""

    ceph: str | None
    rclone: str | None
    moto: str | None


def _everywhere(found: str) -> Expected:
    return Expected(ceph=found, rclone=found, moto=found)


TABLE: Final[dict[Probe, Expected]] = {
    # Objects and keys
    probes.put_head_get_delete: _everywhere("ETag md5; deleted 204; missing 404 NoSuchKey; deleted again 204"),
    probes.list_pages: _everywhere("pages [10, 10, 5], ordered True, after ['21', '22', '23', '24'], prefixes [True]"),
    probes.list_by_a_prefix_inside_a_name: _everywhere("['c']"),
    probes.list_right_after_puts: _everywhere("0 stale"),
    probes.odd_keys: _everywhere("ok"),
    probes.key_that_ends_in_a_slash: Expected(
        ceph="200; listed ['']", rclone="200; listed []", moto="200; listed ['']"
    ),
    probes.key_with_two_slashes: Expected(
        ceph="200; listed ['a//b']", rclone="400 InvalidArgument; listed []", moto="200; listed ['a//b']"
    ),
    probes.key_below_a_key: Expected(ceph="200", rclone="500 InternalError", moto="200"),
    # Ranges and conditions
    probes.ranges: Expected(ceph="206; 416 InvalidRange", rclone="200; 416 InvalidRange", moto="206; 416 InvalidRange"),
    probes.get_if_none_match: _everywhere("304; 304"),
    probes.get_if_modified_since_or_match: Expected(
        ceph="304; 412 PreconditionFailed", rclone="200; 200", moto="304; 412 PreconditionFailed"
    ),
    probes.create_twice: Expected(
        ceph="200; 412 PreconditionFailed", rclone="200; 200", moto="200; 412 PreconditionFailed"
    ),
    probes.create_in_ten_races: Expected(ceph="one winner each", rclone="several winners", moto="one winner each"),
    probes.replace_if_match_quoted: Expected(
        ceph="right 412 PreconditionFailed; wrong 412 PreconditionFailed; missing 412 PreconditionFailed",
        rclone="right 200; wrong 200; missing 200",
        moto="right 200; wrong 412 PreconditionFailed; missing 404 NoSuchKey",
    ),
    probes.replace_if_match_unquoted: Expected(
        ceph="right 200; wrong 412 PreconditionFailed; missing 412 PreconditionFailed",
        rclone="right 200; wrong 200; missing 200",
        moto="right 200; wrong 412 PreconditionFailed; missing 404 NoSuchKey",
    ),
    probes.count_together_if_match: Expected(ceph="exact", rclone=None, moto="exact"),
    probes.delete_if_match: Expected(
        ceph="204; then 404", rclone="204; then 404", moto="412 PreconditionFailed; then 200"
    ),
    # Several parts, copies, many at once
    probes.multipart: _everywhere("before 404; parts [1, 2]; open True; metadata {'a': 'b'}"),
    probes.multipart_in_reverse: _everywhere("ok"),
    probes.multipart_abort: Expected(
        ceph="204; a part afterwards 404 NoSuchUpload",
        rclone="204; a part afterwards 404 NoSuchUpload",
        moto="204; a part afterwards 500",
    ),
    probes.complete_if_none_match: Expected(ceph="200", rclone="200", moto="412 PreconditionFailed"),
    probes.copy: _everywhere("metadata kept; 200, metadata replaced"),
    probes.delete_many_one_missing: _everywhere("2 deleted, 0 errors"),
    # Checksums and signatures
    probes.default_checksums: Expected(
        ceph="not returned; not returned on ranges",
        rclone="returned; returned on ranges, and refused by the client",
        moto="returned; not returned on ranges",
    ),
    probes.checksum_sha256: Expected(
        ceph="wrong 200; not returned", rclone="wrong 200; returned", moto="wrong 200; not returned"
    ),
    probes.wrong_content_md5: Expected(ceph="400 BadDigest", rclone="400 BadDigest", moto="200"),
    probes.wrong_content_sha256: Expected(ceph="400", rclone="200", moto="200"),
    probes.signed_urls: Expected(
        ceph="put 200; range 206; type text/x-own; bad 403; expired 403",
        rclone="put 200; range 200; type text/x-own; bad 403; expired 400",
        moto="put 200; range 206; type text/x-own; bad 200; expired 200",
    ),
    probes.head_with_a_url_for_get: Expected(ceph="403", rclone="403", moto="200"),
    probes.wrong_secret_or_none: Expected(
        ceph="403 SignatureDoesNotMatch; anonymous 403",
        rclone="403 SignatureDoesNotMatch; anonymous 400",
        moto="200; anonymous 403",
    ),
    # What not every service has
    probes.server_side_encryption: Expected(ceph="400 InvalidRequest", rclone="200", moto="200"),
    probes.storage_class_and_acl: Expected(ceph="400 InvalidArgument; 200", rclone="200; 200", moto="200; 200"),
    probes.tags: _everywhere("ok"),
    probes.lifecycle: Expected(ceph="200", rclone="409 BucketAlreadyExists", moto="200"),
    probes.metadata: _everywhere("ok"),
    probes.metadata_beyond_ascii: _everywhere("ParamValidationError"),
    probes.versioning: Expected(ceph="200", rclone="501 NotImplemented", moto="200"),
    probes.missing_bucket: Expected(
        ceph="get 404 NoSuchBucket; head 404; made again 200",
        rclone="get 404 NoSuchBucket; head 404; made again 409 BucketAlreadyExists",
        moto="get 404 NoSuchBucket; head 404; made again 200",
    ),
    # Bodies on their way
    probes.stream_of_known_length: _everywhere("ok"),
    probes.body_with_an_async_read: _everywhere("HTTPClientError"),
    probes.chunked_without_length: Expected(ceph="411", rclone="411", moto="200"),
    probes.writer_dies_in_an_overwrite: _everywhere("old"),
    probes.readers_during_overwrites: _everywhere("0 torn"),
    # How listings look
    probes.last_modified: _everywhere("HEAD seconds; same second in LIST"),
    probes.etag_in_list: Expected(ceph="quoted", rclone="unquoted", moto="quoted"),
}


def _cases(name: str) -> list[Any]:
    found = [(probe, getattr(expected, name)) for probe, expected in TABLE.items()]
    return [pytest.param(probe, answer, id=probe.__name__) for probe, answer in found if answer is not None]


@asynccontextmanager
async def _probed(service: S3Service) -> AsyncIterator[Probed]:
    async with connected(service) as client, aiohttp.ClientSession() as http:
        yield Probed(service, client, http, service.new_bucket())


# One client and one bucket for all probes of a service.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rclone(rclone_service: S3Service) -> AsyncIterator[Probed]:
    async with _probed(rclone_service) as probed:
        yield probed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def moto(moto_service: S3Service) -> AsyncIterator[Probed]:
    async with _probed(moto_service) as probed:
        yield probed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ceph(ceph_service: S3Service) -> AsyncIterator[Probed]:
    async with _probed(ceph_service) as probed:
        yield probed


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("probe", "expected"), _cases("rclone"))
async def test_rclone_does_what_it_did(rclone: Probed, probe: Probe, expected: str) -> None:
    assert await probe(rclone) == expected


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("probe", "expected"), _cases("moto"))
async def test_moto_does_what_it_did(moto: Probed, probe: Probe, expected: str) -> None:
    assert await probe(moto) == expected


@pytest.mark.ceph
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("probe", "expected"), _cases("ceph"))
async def test_ceph_does_what_it_did(ceph: Probed, probe: Probe, expected: str) -> None:
    assert await probe(ceph) == expected


def test_every_probe_is_in_the_table() -> None:
    public = {
        name
        for name, each in inspect.getmembers(probes, inspect.iscoroutinefunction)
        if each.__module__ == probes.__name__
    }
    assert {name for name in public if not name.startswith("_")} == {probe.__name__ for probe in TABLE}
