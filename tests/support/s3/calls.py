"""Requests to S3 as the proxy sees them: which operation on which bucket and key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import parse_qsl, unquote

from tests.support.s3.http1 import Head

CONDITIONS: Final = frozenset({"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"})
"""The headers of conditional requests."""

# The first of these that is in the query says what is asked; by method, for a bucket and for an object in one.
_OF_BUCKET: Final = {
    "GET": {"list-type": "ListObjectsV2", "uploads": "ListMultipartUploads", "": "ListObjects"},
    "HEAD": {"": "HeadBucket"},
    "PUT": {"": "CreateBucket"},
    "POST": {"delete": "DeleteObjects"},
    "DELETE": {"": "DeleteBucket"},
}
_OF_OBJECT: Final = {
    "GET": {"uploadId": "ListParts", "": "GetObject"},
    "HEAD": {"": "HeadObject"},
    "PUT": {"partNumber": "UploadPart", "": "PutObject"},
    "POST": {"uploads": "CreateMultipartUpload", "uploadId": "CompleteMultipartUpload"},
    "DELETE": {"uploadId": "AbortMultipartUpload", "": "DeleteObject"},
}
_SETTINGS: Final = frozenset(
    {"acl", "cors", "encryption", "lifecycle", "location", "object-lock", "policy", "tagging", "versioning", "versions"}
)
"""What has an operation of its own, which the mirror does not use."""


@dataclass
class S3Call:
    """One request, with the bucket in its path, and what became of it."""

    method: str
    bucket: str
    key: str
    """"" for what concerns the bucket; a listing's prefix is in its `query`."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case names."""
    operation: str
    """As S3 names it: GetObject, also with a presigned URL; "Other" for what the mirror has no use for."""
    status: int | None = None
    """What was answered; None: nothing, or nothing yet."""
    fulfilled_at: float | None = None
    """When the service itself answered with success, on the monotonic clock; the client may not have heard of it."""
    received: int = 0
    """Bytes of the request's body."""
    sent: int = 0
    """Bytes of the answer's body."""

    def matches(self, method: str | None, key: str, operation: str | None) -> bool:
        """Whether method and operation are these, if they are given, and the key matches the glob."""
        return method in (None, self.method) and operation in (None, self.operation) and fnmatchcase(self.key, key)

    @property
    def conditional(self) -> bool:
        return not CONDITIONS.isdisjoint(self.headers)


def call_of(head: Head) -> S3Call:
    """Reads the head of a request."""
    method, target, _ = head.start.split(" ")
    path, _, rest = target.partition("?")
    bucket, _, key = path.removeprefix("/").partition("/")
    query = dict(parse_qsl(rest, keep_blank_values=True))
    headers = {name.lower(): value for name, value in head.fields}
    operation = _operation(method, bucket, key, query, headers)
    return S3Call(method, unquote(bucket), unquote(key), query, headers, operation)


def _operation(method: str, bucket: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    if not bucket:
        return "ListBuckets"
    if not _SETTINGS.isdisjoint(query):
        return "Other"
    known = (_OF_OBJECT if key else _OF_BUCKET).get(method, {})
    operation = next((name for sign, name in known.items() if not sign or sign in query), "Other")
    if "x-amz-copy-source" in headers:
        return {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}.get(operation, operation)
    return operation
