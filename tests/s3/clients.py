"""Clients of aiobotocore's for tests, and requests that are signed by hand where it will not send them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.support.s3.services import Endpoint

DEFAULT_CHECKSUMS = "when_supported"
"""Of botocore; everything else here asks for `when_required`."""


@asynccontextmanager
async def connected(
    endpoint: Endpoint,
    *,
    secret_key: str | None = None,
    signed_payload: bool = True,
    expects_leave: bool = False,
    **config: Any,
) -> AsyncIterator[Any]:
    """A client with path-style addresses that asks once, unless `config` says otherwise (arguments of `AioConfig`).

    `expects_leave` keeps the header Expect, which the library gives to bytes and files of its own accord; no time limit
    of the library's holds while it waits for 100 Continue. rclone never sends that for a key that it refuses.
    """
    settings: dict[str, Any] = {
        "signature_version": "s3v4",
        "s3": {"addressing_style": "path", "payload_signing_enabled": signed_payload},
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "max_pool_connections": 64,
        "proxies": {},
    }
    async with get_session().create_client(
        "s3",
        region_name=endpoint.region,
        endpoint_url=endpoint.endpoint_url,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=secret_key or endpoint.secret_key,
        config=AioConfig(**settings | config),
    ) as client:
        if not expects_leave:
            client.meta.events.register_last("before-call.s3", _without_expect)
        yield client


async def outcome(call: Any) -> str:
    """The status of a call, and the code of its error if it has one."""
    try:
        answer = await call
    except ClientError as error:
        status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"].get("Code", "")
        return str(status) if code in ("", str(status)) else f"{status} {code}"
    if "Body" in answer:
        await answer["Body"].read()
    return str(answer["ResponseMetadata"]["HTTPStatusCode"])


class _Stated(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """Signs what it is told of the payload."""

    stated = ""

    def payload(self, request: Any) -> str:
        return self.stated


class _Expired(S3SigV4QueryAuth):  # type: ignore[misc]  # botocore has no types
    """Signs as if it were long ago."""

    def _modify_request_before_signing(self, request: Any) -> None:
        request.context["timestamp"] = "20240101T000000Z"
        super()._modify_request_before_signing(request)


def headers_for(endpoint: Endpoint, method: str, bucket: str, key: str, payload_sha256: str) -> Mapping[str, str]:
    """The signed headers of a request with a payload that is said to have this digest."""
    request = AWSRequest(method, url_of(endpoint, bucket, key))
    signer = _Stated(_credentials(endpoint), "s3", endpoint.region)
    signer.stated = payload_sha256
    signer.add_auth(request)
    return dict(request.headers.items())


def expired_url(endpoint: Endpoint, bucket: str, key: str) -> str:
    """A URL for GET that was signed well, and for a minute long past."""
    request = AWSRequest("GET", url_of(endpoint, bucket, key))
    _Expired(_credentials(endpoint), "s3", endpoint.region, expires=60).add_auth(request)
    return str(request.url)


def url_of(endpoint: Endpoint, bucket: str, key: str) -> str:
    """The unsigned URL of an object."""
    return f"{endpoint.endpoint_url}/{bucket}/{quote(key)}"


def _without_expect(params: dict[str, Any], **_: Any) -> None:
    params["headers"].pop("Expect", None)


def _credentials(endpoint: Endpoint) -> Credentials:
    return Credentials(endpoint.access_key, endpoint.secret_key)
