"""Small helpers round header fields: reading a repeated one, the host a client used, and security headers."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from mirror.errors import BadRequest

_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII
)

EVERY_HEAD: Final = {"Server": "mirror", "X-Content-Type-Options": "nosniff"}
"""What every head says, whoever made it."""

NO_CONTENT_POLICY: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""An HTML page of the Simple API needs nothing: no script, style, image or form."""


def header(request: web.Request, name: str) -> str | None:
    """A list-valued field as one line, however many lines it came in (RFC 9110 §5.3); None where it is absent."""
    values = request.headers.getall(name, ())
    return ", ".join(values) if values else None


def single_header(request: web.Request, name: str) -> str | None:
    """A field that may come once only; None where it is absent, and where it is repeated and so means nothing."""
    values = request.headers.getall(name, ())
    return values[0] if len(values) == 1 else None


def security_headers(*, html: bool) -> dict[str, str]:
    """What keeps a browser from taking an answer for more than it is."""
    if not html:
        return {}
    return {"Content-Security-Policy": NO_CONTENT_POLICY, "Referrer-Policy": "no-referrer"}


def base_url(request: web.Request, public_url: str | None) -> str:
    """Absolute URL of our root, with a final slash: the setting, or else as this client addressed us.

    The client's Host goes into what only this client receives; one that is no host and port is a `BadRequest`.
    Forwarded headers are not looked at: whoever runs a proxy in front sets the public URL.
    """
    if public_url:
        return public_url.rstrip("/") + "/"
    host = single_header(request, "Host")
    if host is None or not _HOST.fullmatch(host):
        raise BadRequest("The request's Host is missing or is no host name.")
    return f"{request.scheme}://{host}/"
