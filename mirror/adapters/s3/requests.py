"""The single writing requests to an S3-compatible service: put, copy, delete, the parts of an upload."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any, Final

from mirror.adapters.s3.client import S3Client
from mirror.adapters.s3.options import S3Options
from mirror.adapters.s3.payloads import BodyFailed, SourcePayload, WatchedPayload
from mirror.adapters.s3.reads import MARK, etag

_ARCHIVE_ROOTS: Final = ("files/", "local/")
_BESIDE_ARCHIVES: Final = (".metadata", ".provenance", ".json")
_TYPES: Final = {
    "json": "application/json",
    "txt": "text/plain; charset=utf-8",
    "metadata": "text/plain; charset=utf-8",
}


class Requests:
    """Each method is one request, tried once. They raise `S3Error`, `TRANSPORT_ERRORS` and `BodyFailed`."""

    def __init__(self, client: S3Client, options: S3Options) -> None:
        self._client, self._options = client, options
        self._encryption: dict[str, Any] = {}
        if options.sse != "none":
            self._encryption["ServerSideEncryption"] = options.sse
        if options.sse == "aws:kms":
            self._encryption["BucketKeyEnabled"] = options.bucket_key
            if options.sse_kms_key_id:
                self._encryption["SSEKMSKeyId"] = options.sse_kms_key_id

    async def put(self, key: str, body: bytes, mark: str = "", **conditions: str) -> str:
        """Creates or replaces an object; returns its version. `conditions`: IfMatch, unquoted, or IfNoneMatch.

        `mark`: something that tells this write from all others, kept in the header `MARK`.
        """
        facts = self._facts(key)
        if mark:
            facts["Metadata"] = {MARK.removeprefix("x-amz-meta-"): mark}
        answer = await self._client.api.put_object(**self._at(key), **facts, **conditions, Body=body)
        return etag(answer.get("ETag", ""))

    async def put_stream(self, key: str, payload: WatchedPayload) -> None:
        """The same with a body that is streamed."""
        facts = self._facts(key) | await self._checksum(payload)
        await self._send(payload, "put_object", **self._at(key), **facts)

    async def begin_parts(self, key: str) -> tuple[str, float | None]:
        """Begins an upload in parts: its id, and what time it is where the service is (seconds since the epoch)."""
        facts = self._facts(key)
        answer = await self._client.api.create_multipart_upload(**self._at(key), **facts)
        return str(answer["UploadId"]), _date(answer)

    async def put_part(self, key: str, upload: str, number: int, body: WatchedPayload) -> dict[str, Any]:
        """Sends a part; returns what `end_parts` wants to know of it."""
        place = {**self._at(key), "UploadId": upload, "PartNumber": number}
        answer = await self._send(body, "upload_part", **place, **await self._checksum(body))
        checksums = {name: value for name, value in answer.items() if name == "ChecksumCRC32"}
        return {"PartNumber": number, "ETag": answer["ETag"], **checksums}

    async def end_parts(self, key: str, upload: str, parts: list[dict[str, Any]]) -> None:
        """Makes the object of its parts, all at once."""
        if self._options.checksums == "when_required":
            parts = [{name: value for name, value in part.items() if name != "ChecksumCRC32"} for part in parts]
        await self._client.api.complete_multipart_upload(
            **self._at(key), UploadId=upload, MultipartUpload={"Parts": parts}
        )

    async def abort_parts(self, key: str, upload: str) -> None:
        await self._client.api.abort_multipart_upload(**self._at(key), UploadId=upload)

    async def stands(self, key: str) -> tuple[int, float]:
        """Size and time of change (seconds since the epoch) of an object."""
        answer = await self._client.api.head_object(**self._at(key))
        return int(answer["ContentLength"]), float(answer["LastModified"].timestamp())

    async def copy(self, key: str, to: str) -> None:
        source = {**self._client.names, "Key": self._client.full_key(key)}
        await self._client.api.copy_object(**self._at(to), **self._encryption, CopySource=source)

    async def delete(self, key: str) -> None:
        await self._client.api.delete_object(**self._at(key))

    def _at(self, key: str) -> dict[str, Any]:
        return {**self._client.names, "Key": self._client.full_key(key)}

    def _facts(self, key: str) -> dict[str, Any]:
        """What every new object is given."""
        extension = key.rpartition(".")[2]
        facts: dict[str, Any] = {**self._encryption, "ContentType": _TYPES.get(extension, "application/octet-stream")}
        is_archive = key.startswith(_ARCHIVE_ROOTS) and not key.endswith(_BESIDE_ARCHIVES)
        if is_archive and self._options.storage_class:
            facts["StorageClass"] = self._options.storage_class
        return facts

    async def _checksum(self, payload: WatchedPayload) -> dict[str, Any]:
        """What the AWS library cannot make of a body that is streamed."""
        if self._options.checksums == "when_required" or isinstance(payload, SourcePayload):
            return {}
        try:
            return {"ChecksumCRC32": await payload.crc32()}
        except OSError as error:
            raise BodyFailed(error) from error

    async def _send(self, payload: WatchedPayload, operation: str, **parameters: Any) -> dict[str, Any]:
        call = getattr(self._client.api, operation)
        try:
            async with payload.watch:
                answer: dict[str, Any] = await call(**parameters, Body=payload, ContentLength=payload.length)
        except BaseException as error:
            if payload.error is not None and isinstance(payload.error, Exception):
                raise BodyFailed(payload.error) from error
            raise
        finally:
            await payload.settle()
        return answer


def _date(answer: dict[str, Any]) -> float | None:
    """The Date of an answer, in seconds since the epoch."""
    told = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        return parsedate_to_datetime(told).timestamp()
    except ValueError:
        return None
