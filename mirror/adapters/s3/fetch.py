"""GET requests for stored objects: with URLs that are signed here, or through the AWS library."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from botocore.exceptions import ClientError

from mirror.adapters.s3.client import S3Client
from mirror.adapters.s3.failures import S3Error, explain, refused, size_in, told_in
from mirror.errors import printable

_URL_LIFETIME: Final = 300
"""Seconds; only the start of the request falls into it, but clocks differ."""
_MOST_OF_AN_ERROR: Final = 64 * 1024
_PARAMETERS: Final = {"Range": "Range", "If-None-Match": "IfNoneMatch"}


class Fetch:
    """Asks for objects. One request each time, and never a HEAD."""

    def __init__(self, client: S3Client, *, signed: bool) -> None:
        """`signed`: with signed URLs, at a fifth of what the AWS library takes."""
        self._client = client
        self._get = self._with_signed_url if signed else self._with_library

    async def get(self, key: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The head of an answer 200 or 206 whose body is an object; the caller reads it to its end or closes it.

        `headers`: Range or If-None-Match. Raises `S3Error` for every other status, 304 and 404 among them, and
        `TRANSPORT_ERRORS`.
        """
        response = await self._get(key, headers)
        if "ETag" in response.headers:
            return response
        # Every object has one: this is an error that was found after the status was sent, or no such service at all.
        code, region = await _told(response)
        if code:
            raise refused(500, code, region=region)
        raise S3Error("it answered with something that is no object (it has no ETag)", status=response.status)

    async def _with_signed_url(self, key: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        response = await self._client.get(await self._client.url(key, lifetime=_URL_LIFETIME), headers)
        if response.status in (200, 206):
            return response
        size = size_in(response.headers.get("Content-Range", ""))
        code, region = ("", "") if response.status == 304 else await _told(response)
        response.release()
        region = region or printable(response.headers.get("x-amz-bucket-region", ""), 40)
        raise refused(response.status, code, region=region, size=size)

    async def _with_library(self, key: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        parameters: dict[str, Any] = {_PARAMETERS[name]: value for name, value in headers.items()}
        try:
            answer = await self._client.api.get_object(
                **self._client.names, Key=self._client.full_key(key), **parameters
            )
        except ClientError as e:
            raise explain(e) from None
        response = answer["Body"].raw_stream
        assert isinstance(response, aiohttp.ClientResponse)
        return response


async def _told(response: aiohttp.ClientResponse) -> tuple[str, str]:
    """The code and the region in the body of an error; the response is closed."""
    body = b""
    try:
        while len(body) < _MOST_OF_AN_ERROR and (piece := await response.content.readany()):
            body += piece
    except aiohttp.ClientPayloadError:
        body = body[:_MOST_OF_AN_ERROR]  # the status says enough
    except asyncio.CancelledError:
        response.close()
        raise
    response.close()
    return told_in(body)
