"""Says in one sentence why a request to an object store came to nothing, and whether asking again may help."""

from __future__ import annotations

import os
import re
from typing import Any, Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from mirror.errors import printable

TRANSPORT_ERRORS: Final = (
    aws.ClientError,
    aws.BotoCoreError,
    aiohttp.ClientError,
    HttpProcessingError,
    ResponseParserError,
    OSError,
)
"""What aiobotocore, aiohttp and the sockets below them raise; TimeoutError is an OSError."""

NO_CREDENTIALS: Final = "NoCredentials"
"""The code of a request that could not be signed because there are no credentials to be found."""
STALE_CREDENTIALS: Final = "CredentialsUnavailable"
"""The code of one that could not be signed because fresh credentials could not be had just now."""
_ELSEWHERE: Final = frozenset(
    {
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
        "IllegalLocationConstraintException",
        "TemporaryRedirect",
    }
)
"""Codes by which a service says that the bucket is not where the request went."""

_ABOUT_CREDENTIALS: Final = frozenset(
    {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", NO_CREDENTIALS, STALE_CREDENTIALS}
)
_PASSING: Final = frozenset({"SlowDown", "InternalError", "RequestTimeout", "ServiceUnavailable", "OperationAborted"})
_REASONS: Final = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "the credentials do not allow it",
    "AllAccessDisabled": "all access to the bucket is switched off",
    "InvalidAccessKeyId": "it does not know the access key",
    "SignatureDoesNotMatch": "the secret does not belong to the access key",
    "ExpiredToken": "the temporary credentials have expired",
    "TokenRefreshRequired": "the temporary credentials have expired",
    "InvalidToken": "the session token is not valid",
    "RequestTimeTooSkewed": "the clocks of this machine and of the service differ by too much",
    "SlowDown": "it is overloaded",
}
_CODE: Final = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,100})\s*</Code>")
_REGION: Final = re.compile(rb"<Region>\s*([a-z0-9-]{1,40})\s*</Region>")


class S3Error(Exception):
    """A request that did not have the effect that was wanted; says no URL, no credential and no text of the service."""

    def __init__(
        self,
        why: str,
        *,
        status: int | None = None,
        code: str = "",
        region: str = "",
        size: int | None = None,
        silent: bool = False,
        passing: bool = False,
    ) -> None:
        self.why = why
        self.status = status
        """Of the answer; None if there was none."""
        self.code = code
        self.region = region
        """The right region, where the service tells it."""
        self.size = size
        """The size of the object, from an answer that a range begins past its end."""
        self.silent = silent
        """A time limit ran out: asking again would cost as much."""
        self.passing = passing
        """Asking again soon may help."""
        super().__init__(why)

    @property
    def is_fault(self) -> bool:
        """Whether it speaks against the service's health: no answer, or one that says that it is not well."""
        return (self.status is None and self.code != NO_CREDENTIALS) or (
            (self.status or 0) >= 500 and self.status != 501
        )

    @property
    def is_elsewhere(self) -> bool:
        """Whether the bucket is in another region."""
        return self.code in _ELSEWHERE or (self.status in (301, 307) and self.region != "")

    @property
    def is_refusal(self) -> bool:
        """Whether the credentials are what is wrong."""
        return self.status in (401, 403) or self.code in _ABOUT_CREDENTIALS


def refused(status: int, code: str = "", *, region: str = "", size: int | None = None) -> S3Error:
    """The failure that the head of an answer and the code in its body mean."""
    if code in _ELSEWHERE or (status in (301, 307) and region):
        why = "the bucket is in another region" + (f": {region}" if region else "")
    else:
        why = _REASONS.get(code, "")
    told = f"it answered {status}" + (f" {printable(code, 60)}" if code and code != str(status) else "")
    passing = status in (429, 500, 502, 503, 504) or code in _PASSING
    return S3Error(
        f"{why} ({told})" if why else told, status=status, code=code, region=region, size=size, passing=passing
    )


def are_expired_keys(error: RuntimeError) -> bool:
    """Whether botocore means by `error` that the keys had expired when they came; it has no better class for that."""
    return "still expired" in str(error)


def told_in(body: bytes) -> tuple[str, str]:
    """The code and the region in an error's body; empty where there are none."""
    code, region = _CODE.search(body), _REGION.search(body)
    return (code[1].decode() if code else "", region[1].decode() if region else "")


def explain(error: Exception) -> S3Error:
    """The failure that `error` means: one of `TRANSPORT_ERRORS`, or such that `are_expired_keys`."""
    match error:
        case aws.ClientError():
            return _answered(error.response)
        case aws.NoCredentialsError() | aws.PartialCredentialsError():
            return S3Error("no credentials for it were found", code=NO_CREDENTIALS)
        case (
            RuntimeError()
            | aws.CredentialRetrievalError()
            | aws.TokenRetrievalError()
            | aws.RefreshWithMFAUnsupportedError()
        ):
            return S3Error("fresh credentials could not be had", code=STALE_CREDENTIALS)
        case aws.ConnectTimeoutError() | aiohttp.ConnectionTimeoutError():
            return S3Error("no connection within the time allowed", silent=True)
        case aws.ReadTimeoutError() | TimeoutError():
            return S3Error("no answer within the time allowed", silent=True)
        case aws.SSLError() | aiohttp.ClientSSLError():
            return S3Error(_tls(error))
        case aws.ProxyConnectionError() | aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return S3Error("the proxy that leads to it cannot be reached", passing=True)
        case aws.EndpointConnectionError() | aiohttp.ClientConnectorError():
            return S3Error(_connecting(error), passing=True)
        case aiohttp.ClientPayloadError():
            return S3Error("the body broke off", passing=True)
        case aws.ConnectionClosedError() | aiohttp.ServerDisconnectedError():
            return S3Error("the connection was closed without an answer", passing=True)
        case HttpProcessingError() | aiohttp.ClientResponseError() | ResponseParserError():
            return S3Error("the answer is not what such a service sends", passing=True)
        case aws.HTTPClientError() | aiohttp.ClientError() | OSError():
            return S3Error("the connection was lost", passing=True)
        case _:
            return S3Error(f"the AWS library refuses the request ({type(error).__name__})", code="Unusable")


def _answered(response: dict[str, Any]) -> S3Error:
    """From the response of a `ClientError`."""
    error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    headers = meta.get("HTTPHeaders", {})
    code = str(error.get("Code", ""))
    region = str(error.get("Region") or headers.get("x-amz-bucket-region") or "")
    status = int(meta.get("HTTPStatusCode", 0))
    if status == 200:
        status = 500  # an error in the body of what began as a success
    return refused(status, code, region=printable(region, 40), size=size_in(headers.get("content-range", "")))


def size_in(content_range: str) -> int | None:
    """The size of the whole object in a Content-Range (RFC 9110 §14.4); None where it does not tell."""
    size = content_range.rpartition("/")[2].strip()
    return int(size) if size.isascii() and size.isdigit() else None


def _cause(error: BaseException) -> BaseException:
    """What aiohttp says below botocore's wrapping, or the error itself."""
    inner = error.kwargs.get("error") if isinstance(error, aws.BotoCoreError) else None
    return inner if isinstance(inner, BaseException) else error


def _tls(error: Exception) -> str:
    cause = _cause(error)
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        why = getattr(cause.certificate_error, "verify_message", "") or "it does not prove who it is"
        return f"the certificate is not trusted: {printable(why)}"
    return "no TLS connection could be agreed on"


def _connecting(error: Exception) -> str:
    match _cause(error):
        case aiohttp.ClientConnectorDNSError():
            return "the name of the host cannot be resolved"
        case aiohttp.ClientConnectorError(os_error=cause) if cause.errno:
            # The system's words for the number only: its full message names addresses.
            return f"no connection: {os.strerror(cause.errno).lower()}"
        case aiohttp.ClientConnectionError() as inner if not isinstance(inner, aiohttp.ClientConnectorError):
            return "the connection was lost"
        case _:
            return "no connection could be made"
