"""Say in one sentence why a request to upstream failed, and whether asking again at once may help."""

from __future__ import annotations

import os
import ssl
from typing import Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from mirror.adapters.http.destinations import ForbiddenAddress
from mirror.errors import UpstreamBusy, UpstreamDown, UpstreamFailure, UpstreamMisbehaved, printable

TRANSPORT_ERRORS: Final = (aiohttp.ClientError, HttpProcessingError, OSError)
"""What aiohttp and the sockets below it raise; TimeoutError is an OSError."""

PATIENCE: Final = 2.0
"""Seconds that a caller is made to wait for an upstream that has asked for a pause; longer ones are passed on."""


def explain(upstream: str, error: Exception) -> UpstreamFailure:
    """The failure that `error`, one of `TRANSPORT_ERRORS`, means; to be raised from it."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return UpstreamDown(upstream, "no connection within the time allowed")
        case TimeoutError():
            return UpstreamDown(upstream, "no answer within the time allowed")
        case aiohttp.ClientConnectorDNSError(os_error=ForbiddenAddress() as refused):
            return UpstreamMisbehaved(upstream, f"it names a host that must not be asked: {refused}")
        case aiohttp.ClientConnectorDNSError():
            return UpstreamDown(upstream, "the name of the host cannot be resolved")
        case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
            why = getattr(cause, "verify_message", "") or "it does not prove who it is"
            return UpstreamDown(upstream, f"the certificate is not trusted: {printable(why)}")
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return UpstreamDown(upstream, "no TLS connection could be agreed on")
        case aiohttp.ClientProxyConnectionError():
            return UpstreamDown(upstream, "the proxy that leads to it cannot be reached")
        case aiohttp.ClientHttpProxyError(status=status):
            return UpstreamDown(upstream, f"the proxy that leads to it answered {status}")
        case aiohttp.ClientConnectorError(os_error=cause):
            # The system's words for the number only: its full message names addresses.
            why = os.strerror(cause.errno).lower() if cause.errno else "it was lost while being made"
            return UpstreamDown(upstream, f"no connection: {why}")
        case aiohttp.ServerDisconnectedError():
            return UpstreamDown(upstream, "the connection was closed without an answer")
        case aiohttp.ClientPayloadError() | HttpProcessingError():
            return UpstreamDown(upstream, "the body broke off")
        case aiohttp.ClientResponseError():
            return UpstreamMisbehaved(upstream, "the answer is not proper HTTP")
        case aiohttp.InvalidURL():
            return UpstreamMisbehaved(upstream, "it names a malformed URL")
        case _:
            return UpstreamDown(upstream, "the connection was lost")


def wait_before_retry(error: Exception) -> bool | float:
    """For stamina: False to give up, True for its own wait, or seconds.

    A timeout has cost enough already, a certificate does not become right, and a breaker that is open says
    when to come back. A short pause that upstream asked for is waited out here, for not every installer does
    (PDM never asks twice for a page).
    """
    match error:
        case UpstreamBusy(retry_after=float() as seconds):
            return seconds if seconds <= PATIENCE else False
        case UpstreamDown(retry_after=None, __cause__=cause):
            return not isinstance(cause, TimeoutError | aiohttp.ClientSSLError | ssl.SSLError)
        case _:
            return False
