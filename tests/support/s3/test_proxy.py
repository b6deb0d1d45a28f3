"""The proxy passes everything through, notes it, and does exactly what it is told to do wrong."""

from __future__ import annotations

import http.client
import math
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.s3.proxy import FaultProxy
from tests.support.s3.services import Moto, Rclone, client_of

BODY = bytes(range(256)) * 4096
"""1 MiB: more than the sockets' buffers take at once."""


@pytest.fixture
def proxy(rclone_service: Rclone) -> Iterator[FaultProxy]:
    with FaultProxy(rclone_service) as proxy:
        yield proxy


@pytest.fixture
def bucket(rclone_service: Rclone) -> str:
    return rclone_service.new_bucket()


@pytest.fixture
def client(proxy: FaultProxy) -> Any:
    return client_of(proxy)


def test_requests_pass_and_are_noted_by_operation(proxy: FaultProxy, bucket: str, client: Any) -> None:
    at: dict[str, Any] = {"Bucket": bucket, "Key": "files/a b+ü.whl"}
    client.put_object(**at, Body=BODY)
    assert client.get_object(**at)["Body"].read() == BODY
    assert client.head_object(**at)["ContentLength"] == len(BODY)
    assert [found["Key"] for found in client.list_objects_v2(Bucket=bucket)["Contents"]] == [at["Key"]]
    upload = client.create_multipart_upload(Bucket=bucket, Key="large")["UploadId"]
    tag = client.upload_part(Bucket=bucket, Key="large", UploadId=upload, PartNumber=1, Body=BODY)["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
    client.complete_multipart_upload(Bucket=bucket, Key="large", UploadId=upload, MultipartUpload=parts)
    client.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "large"})
    client.delete_object(**at)
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "copy"})
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == BODY

    assert [(call.operation, call.key, call.status) for call in proxy.log] == [
        ("PutObject", at["Key"], 200),
        ("GetObject", at["Key"], 200),
        ("HeadObject", at["Key"], 200),
        ("ListObjectsV2", "", 200),
        ("CreateMultipartUpload", "large", 200),
        ("UploadPart", "large", 200),
        ("CompleteMultipartUpload", "large", 200),
        ("CopyObject", "copy", 200),
        ("DeleteObject", at["Key"], 204),
        ("GetObject", "copy", 200),
    ]
    assert {call.bucket for call in proxy.log} == {bucket}
    assert proxy.requests("PUT", "files/*")[0].received == len(BODY)
    assert proxy.requests("GET", "files/*")[0].sent == len(BODY)
    assert proxy.calls("GET") == 3
    assert proxy.calls(operation="GetObject") == 2


def test_an_error_hits_whom_it_is_meant_for_and_as_often(proxy: FaultProxy, bucket: str, client: Any) -> None:
    fault = proxy.fault("files/*", method="PUT", error="SlowDown", skip=1, times=1)
    client.put_object(Bucket=bucket, Key="files/a", Body=b"1")
    client.put_object(Bucket=bucket, Key="meta/a", Body=b"1")
    with pytest.raises(ClientError) as raised:
        client.put_object(Bucket=bucket, Key="files/b", Body=b"1")
    assert raised.value.response["Error"]["Code"] == "SlowDown"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    client.put_object(Bucket=bucket, Key="files/b", Body=b"2")
    assert fault.hits == 1
    assert [call.status for call in proxy.requests("PUT")] == [200, 200, 503, 200]
    proxy.fault(error="NoSuchBucket", method="HEAD")
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket=bucket, Key="files/b")


def test_an_error_may_come_though_all_was_done(proxy: FaultProxy, bucket: str, client: Any) -> None:
    fault = proxy.fault(method="PUT", error="InternalError", done=True)
    for key in ("a", "b"):
        with pytest.raises(ClientError, match="InternalError"):
            client.put_object(Bucket=bucket, Key=key, Body=b"1")
        fault.done = False
    assert [found["Key"] for found in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a"]


def test_bodies_are_cut_reset_and_damaged_at_the_byte(proxy: FaultProxy, bucket: str, client: Any) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=BODY)

    def received() -> bytes:
        url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a"})
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
        try:
            connection.request("GET", url.removeprefix(proxy.endpoint_url))
            answer = connection.getresponse()
            assert answer.getheader("Content-Length") == str(len(BODY))
            return answer.read()
        finally:
            connection.close()

    proxy.fault("a", cut_after=300_000)
    with pytest.raises(http.client.IncompleteRead) as cut:
        received()
    assert cut.value.partial == BODY[:300_000]
    proxy.fault("a", reset_after=0)
    with pytest.raises(ConnectionResetError):
        received()
    proxy.fault("a", reset=True)
    with pytest.raises(ConnectionResetError):
        received()
    proxy.fault("a", flip_bit_at=300_000)
    damaged = received()
    assert [at for at, pair in enumerate(zip(damaged, BODY, strict=True)) if pair[0] != pair[1]] == [300_000]


@pytest.mark.parametrize("switches", [{"hang": True}, {"hang_answer": True}, {"hang_after": 1000}], ids=str)
def test_what_hangs_goes_on_when_it_is_released(
    switches: dict[str, Any], proxy: FaultProxy, bucket: str, client: Any
) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=BODY)
    fault = proxy.fault("a", method="GET", **switches)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(lambda: client.get_object(Bucket=bucket, Key="a")["Body"].read())
        proxy.wait_for(lambda: fault.hanging)
        assert proxy.log[-1].sent == switches.get("hang_after", 0)
        fault.release()
        assert read.result() == BODY


def test_who_hangs_and_leaves_is_forgotten(proxy: FaultProxy, bucket: str, client: Any) -> None:
    fault = proxy.fault("a", method="PUT", hang=True)
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
    connection.request("PUT", f"/{bucket}/a", body=b"1")
    proxy.wait_for(lambda: fault.hanging)
    connection.close()
    proxy.wait_for(lambda: not fault.hanging)
    proxy.heal()
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


def test_it_refuses_connections_and_accepts_them_again(proxy: FaultProxy, bucket: str, client: Any) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    proxy.refuse()
    with pytest.raises(BotoCoreError, match="Could not connect"):
        client.get_object(Bucket=bucket, Key="a")
    proxy.accept()
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"1"


def test_conditions_are_ignored_or_refused(moto_service: Moto) -> None:
    bucket = moto_service.new_bucket()
    with FaultProxy(moto_service) as proxy:
        client = client_of(proxy)

        def create() -> None:
            client.put_object(Bucket=bucket, Key="a", Body=b"1", IfNoneMatch="*")

        create()
        with pytest.raises(ClientError, match="PreconditionFailed"):
            create()
        fault = proxy.fault(ignored=["if-none-match"])
        create()
        assert proxy.log[-1].conditional
        fault.ignored, fault.conditional, fault.error = (), True, "NotImplemented"
        with pytest.raises(ClientError, match="NotImplemented"):
            create()
        client.put_object(Bucket=bucket, Key="a", Body=b"1")


def test_listings_lag_behind_what_was_written(proxy: FaultProxy, bucket: str, client: Any) -> None:
    def listed() -> list[str]:
        answer = client.list_objects_v2(Bucket=bucket)
        assert answer["KeyCount"] == len(answer.get("Contents", []))
        return [found["Key"] for found in answer.get("Contents", [])]

    proxy.service.client().put_object(Bucket=bucket, Key="old", Body=b"1")
    client.put_object(Bucket=bucket, Key="new&ü b", Body=b"1")
    fault = proxy.fault(operation="ListObjectsV2", lag=math.inf)
    assert listed() == ["old"]
    fault.lag = 0
    assert listed() == ["new&ü b", "old"]
    fault.lag = math.inf
    fault.release()
    assert listed() == ["new&ü b", "old"]
