"""The faults that a proxy before an S3 service can be told to have."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from html import unescape
from typing import Final
from urllib.parse import unquote_plus

from tests.support.s3.calls import S3Call

STATUS: Final = {
    "AccessDenied": 403,
    "ConditionalRequestConflict": 409,
    "ExpiredToken": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NotImplemented": 501,
    "PermanentRedirect": 301,
    "PreconditionFailed": 412,
    "RequestTimeTooSkewed": 403,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
}
"""The statuses that Amazon's S3 sends with its codes."""

_CONTENTS: Final = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
_KEY: Final = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)
_COUNT: Final = re.compile(rb"<KeyCount>(\d+)</KeyCount>")


@dataclass(kw_only=True)
class S3Fault:
    """What goes wrong for requests of this method and operation on keys that match the glob; switches may be combined.

    Without a switch it only counts. Times are in seconds; offsets count bytes of the answer's body.
    """

    # whom it hits
    method: str | None = None
    key: str = "*"
    """Matches also what concerns the bucket alone; every other glob does not."""
    operation: str | None = None
    """A name of S3's: GetObject, PutObject, ListObjectsV2, CompleteMultipartUpload, …"""
    conditional: bool = False
    """Only requests with If-Match, If-None-Match and their kin."""
    times: int | None = None
    """How many matching requests it hits; None = all."""
    skip: int = 0
    """How many matching requests it lets pass first."""

    # before the service has it
    delay: float = 0.0
    hang: bool = False
    """A black hole: the request is not read, until `release` or until the client has left."""
    reset: bool = False
    """Resets the connection once the head of the request is there."""
    ignored: Collection[str] = ()
    """Lower-case names of headers that the service does not get to see (signed ones spoil the signature)."""

    # what is answered
    error: str | None = None
    """A code of S3's in an XML body, with the status that belongs to it unless `status` says another."""
    status: int | None = None
    """Without `error` the body is empty; 200 and an `error` make an error in the guise of success."""
    body: bytes | None = None
    """Instead of the XML."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to the answer, or replaced in it."""
    done: bool = False
    """The service gets the request all the same; its answer alone is replaced by the error."""
    lag: float | None = None
    """Listings lack what was written, for so many seconds; `math.inf` = until `release`."""

    # how it is sent
    hang_answer: bool = False
    """The service has done what was asked, and its answer does not come until `release`."""
    hang_after: int | None = None
    """Hangs after so many bytes until `release`."""
    cut_after: int | None = None
    """Closes the connection, in good order, after so many bytes; framed for the whole body."""
    reset_after: int | None = None
    """Resets the connection after so many bytes."""
    flip_bit_at: int | None = None
    """Flips the lowest bit of this byte."""

    hits: int = 0
    """How many requests it has hit."""
    hanging: int = 0
    """How many requests stand still just now."""
    released: bool = False
    seen: int = 0

    def release(self) -> None:
        """Lets go on what hangs, and what comes later not hang; lets listings show everything."""
        self.released = True

    def takes(self, call: S3Call) -> bool:
        """Whether it hits this request; counts it."""
        if not call.matches(self.method, self.key, self.operation) or (self.conditional and not call.conditional):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    def answer(self, call: S3Call) -> tuple[int, dict[str, str], bytes] | None:
        """Status, headers and body of the answer that replaces the service's; None if nothing replaces it."""
        if self.error is None and self.status is None:
            return None
        status = self.status if self.status is not None else STATUS[self.error or ""]
        body = b"" if self.error is None else _error(self.error, call)
        if self.body is not None:
            body = self.body
        return status, {"Content-Type": "application/xml", **self.headers}, body


def without_keys(listing: bytes, hidden: Collection[str]) -> bytes:
    """The XML of a listing as if these objects were not there; a page of it may have become shorter than asked for."""
    quoted = b"<EncodingType>url</EncodingType>" in listing
    removed = 0

    def unless_hidden(match: re.Match[bytes]) -> bytes:
        nonlocal removed
        found = _KEY.search(match[0])
        key = unescape(found[1].decode()) if found else ""
        if (unquote_plus(key) if quoted else key) not in hidden:
            return match[0]
        removed += 1
        return b""

    shown = _CONTENTS.sub(unless_hidden, listing)
    return _COUNT.sub(lambda match: b"<KeyCount>%d</KeyCount>" % (int(match[1]) - removed), shown)


def _error(code: str, call: S3Call) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>This is a fault.</Message>"
        f"<BucketName>{call.bucket}</BucketName><RequestId>0</RequestId></Error>"
    ).encode()
