"""Traps of aiobotocore that the object store's adapter works round: one that a new release mends is noticed here."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from aiobotocore.response import AioStreamingBody
from aiobotocore.session import get_session
from botocore.exceptions import (
    ClientError,
    ParamValidationError,
    ReadTimeoutError,
    UnseekableStreamError,
)
from botocore.exceptions import (
    ConnectionError as NoConnection,
)

from tests.s3.clients import connected, outcome
from tests.support.s3.proxy import FaultProxy
from tests.support.s3.services import Rclone

STREAMING: dict[str, Any] = {"signed_payload": False, "parameter_validation": False}
"""What a client needs to send an asynchronous generator."""


@pytest.fixture
def proxy(rclone_service: Rclone) -> Iterator[FaultProxy]:
    with FaultProxy(rclone_service) as proxy:
        yield proxy


@pytest.fixture
def at(rclone_service: Rclone) -> dict[str, str]:
    """An object of 500 bytes."""
    place = {"Bucket": rclone_service.new_bucket(), "Key": "files/a"}
    rclone_service.client().put_object(**place, Body=b"12345" * 100)
    return place


def tries(count: int) -> dict[str, Any]:
    return {"retries": {"mode": "standard", "total_max_attempts": count}}


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(10):
        yield b"x" * 1000


async def test_trap_defaults_are_slow_and_few(proxy: FaultProxy, at: dict[str, str]) -> None:
    async with get_session().create_client(
        "s3",
        region_name=proxy.region,
        endpoint_url=proxy.endpoint_url,
        aws_access_key_id=proxy.access_key,
        aws_secret_access_key=proxy.secret_key,
    ) as client:
        config = client.meta.config
        assert (config.connect_timeout, config.read_timeout) == (60, 60)
        assert config.max_pool_connections == 10
        assert config.retries == {"mode": "legacy"}
        await client.put_object(**at, Body=b"1")
    assert "x-amz-checksum-crc32" in proxy.log[-1].headers
    assert inspect.signature(AioStreamingBody.iter_chunks).parameters["chunk_size"].default == 1024


async def test_trap_leave_to_send_a_body_is_waited_for_without_end(proxy: FaultProxy, at: dict[str, str]) -> None:
    """Bytes and files have Expect; no read timeout holds until the service says 100 Continue."""
    fault = proxy.fault(hang=True)
    async with connected(proxy, expects_leave=True, read_timeout=0.2) as client:
        waiting = asyncio.ensure_future(client.put_object(**at, Body=b"1"))
        await asyncio.to_thread(proxy.wait_for, lambda: fault.hanging)
        for _ in range(3):
            with pytest.raises(ReadTimeoutError):
                await client.get_object(**at)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
    async with connected(proxy, read_timeout=0.2) as client:
        with pytest.raises(ReadTimeoutError):
            await client.put_object(**at, Body=b"1")


async def test_trap_a_reset_is_tried_twice_where_one_try_was_allowed(proxy: FaultProxy, at: dict[str, str]) -> None:
    proxy.fault(reset=True)
    async with connected(proxy, **tries(1)) as client:
        with pytest.raises(NoConnection):
            await client.get_object(**at)
    assert proxy.calls("GET") == 2


@pytest.mark.parametrize(("error", "calls"), [("SlowDown", 2), ("InternalError", 2), ("AccessDenied", 1)])
async def test_trap_only_some_errors_are_tried_again(
    error: str, calls: int, proxy: FaultProxy, at: dict[str, str]
) -> None:
    proxy.fault(error=error)
    async with connected(proxy, **tries(2)) as client:
        with pytest.raises(ClientError) as raised:
            await client.get_object(**at)
    assert raised.value.response["Error"]["Code"] == error
    assert proxy.calls("GET") == calls


async def test_trap_silence_is_an_error_of_its_own_kind(proxy: FaultProxy, at: dict[str, str]) -> None:
    proxy.fault(hang=True)
    async with connected(proxy, read_timeout=0.2) as client:
        with pytest.raises(ReadTimeoutError) as raised:
            await client.get_object(**at)
    assert not isinstance(raised.value, ClientError)


@pytest.mark.parametrize("switches", [{"cut_after": 100}, {"reset_after": 100}], ids=str)
async def test_trap_a_body_that_breaks_off_is_no_error_of_botocore(
    switches: dict[str, Any], proxy: FaultProxy, at: dict[str, str]
) -> None:
    proxy.fault(**switches)
    async with connected(proxy, **tries(3)) as client:
        answer = await client.get_object(**at)
        async with answer["Body"] as body:
            with pytest.raises(aiohttp.ClientError):
                await body.read()
    assert proxy.calls("GET") == 1


async def test_trap_a_damaged_body_is_believed(proxy: FaultProxy, at: dict[str, str]) -> None:
    proxy.fault(flip_bit_at=0)
    async with connected(proxy) as client:
        body = await (await client.get_object(**at))["Body"].read()
    assert body == b"0" + (b"12345" * 100)[1:]


async def test_trap_an_error_in_the_guise_of_success_is_data(proxy: FaultProxy, at: dict[str, str]) -> None:
    proxy.fault(error="InternalError", status=200)
    async with connected(proxy) as client:
        body = await (await client.get_object(**at))["Body"].read()
        assert b"<Error><Code>InternalError</Code>" in body
        # Everywhere else it is found out.
        parts = {"Parts": [{"ETag": "0", "PartNumber": 1}]}
        complete = client.complete_multipart_upload(**at, UploadId="1", MultipartUpload=parts)
        assert await outcome(complete) == "500 InternalError"
        assert await outcome(client.put_object(**at, Body=b"1")) == "500 InternalError"
        assert await outcome(client.list_objects_v2(Bucket=at["Bucket"])) == "500 InternalError"


async def test_trap_an_error_that_is_no_xml_has_no_code(proxy: FaultProxy, at: dict[str, str]) -> None:
    proxy.fault(status=404, body=b"<html><body>Not here.</body></html>")
    async with connected(proxy) as client:
        with pytest.raises(ClientError) as raised:
            await client.get_object(**at)
    assert raised.value.response["Error"]["Code"] == ""
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


async def test_trap_head_does_not_tell_a_missing_bucket_from_a_missing_key(
    rclone_service: Rclone, at: dict[str, str]
) -> None:
    nowhere = {"Bucket": rclone_service.unused_name(), "Key": "a"}
    async with connected(rclone_service) as client:
        heads = [await outcome(client.head_object(**place)) for place in (nowhere, {**at, "Key": "b"})]
        gets = [await outcome(client.get_object(**place)) for place in (nowhere, {**at, "Key": "b"})]
    assert heads == ["404", "404"]
    assert gets == ["404 NoSuchBucket", "404 NoSuchKey"]


async def test_trap_a_redirect_costs_a_call_for_the_region(proxy: FaultProxy, at: dict[str, str]) -> None:
    proxy.fault(method="GET", error="PermanentRedirect")
    async with connected(proxy) as client:
        assert await outcome(client.get_object(**at)) == "301 PermanentRedirect"
    assert [call.operation for call in proxy.log] == ["GetObject", "HeadBucket"]


async def test_trap_a_generator_needs_options(proxy: FaultProxy, at: dict[str, str]) -> None:
    async with connected(proxy) as client:
        with pytest.raises(ParamValidationError):
            await client.put_object(**at, Body=pieces(), ContentLength=10_000)
    async with connected(proxy, parameter_validation=False) as client:
        with pytest.raises(TypeError):
            await client.put_object(**at, Body=pieces(), ContentLength=10_000)
    assert not proxy.log
    async with connected(proxy, **STREAMING) as client:
        assert await outcome(client.put_object(**at, Body=pieces(), ContentLength=10_000)) == "200"


async def test_trap_a_second_try_of_a_generator_hides_why_the_first_failed(
    proxy: FaultProxy, at: dict[str, str]
) -> None:
    proxy.fault(error="SlowDown")
    async with connected(proxy, **STREAMING, **tries(2)) as client:
        with pytest.raises(UnseekableStreamError):
            await client.put_object(**at, Body=pieces(), ContentLength=10_000)
    async with connected(proxy, **STREAMING, **tries(1)) as client:
        assert await outcome(client.put_object(**at, Body=pieces(), ContentLength=10_000)) == "503 SlowDown"


async def test_trap_what_a_generator_raises_looks_like_a_fault_of_the_network(
    proxy: FaultProxy, at: dict[str, str]
) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        raise OSError("the spool is gone")

    async with connected(proxy, **STREAMING) as client:
        with pytest.raises(NoConnection) as raised:
            await client.put_object(**at, Body=failing(), ContentLength=10_000)
        assert "the spool is gone" not in str(raised.value)
        # The good of it: it ends at once, and nothing is stored.
        assert (await client.head_object(**at))["ContentLength"] == 500


async def test_trap_a_generator_that_gives_too_much_is_cut_off_in_silence(
    proxy: FaultProxy, at: dict[str, str]
) -> None:
    async with connected(proxy, **STREAMING) as client:
        assert await outcome(client.put_object(**at, Body=pieces(), ContentLength=9_999)) == "200"
        assert (await client.head_object(**at))["ContentLength"] == 9_999


async def test_trap_a_generator_that_gives_too_little_is_waited_for(proxy: FaultProxy, at: dict[str, str]) -> None:
    async with connected(proxy, **STREAMING, read_timeout=0.2) as client:
        with pytest.raises(ReadTimeoutError):
            await client.put_object(**at, Body=pieces(), ContentLength=10_001)
    assert proxy.service.client().head_object(**at)["ContentLength"] == 500
