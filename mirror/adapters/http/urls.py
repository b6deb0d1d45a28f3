"""URLs as they go out, and as they may stand in logs."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from yarl import URL

from mirror.errors import printable

_SECRET: Final = re.compile(
    r"(?i)^(x-(amz|goog|oss)-|se$|sp$|sv$)|token|sig|secret|passw|pwd|auth|cred|key|policy|hdnts|jwt"
)


def redact_url(url: str) -> str:
    """`url` without user name, password, fragment and the values of query parameters that look like secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a malformed URL"
    query = "&".join(_shown(pair) for pair in parts.query.split("&")) if parts.query else ""
    return printable(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment="")), 300)


def _shown(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    if not equals:
        return "***"
    return f"{name}=***" if _SECRET.search(name) else pair


def as_sent(text: str) -> URL:
    """`text` as a URL that goes out exactly as it stands (a signed URL must not change); `ValueError` if malformed.

    What is not plain ASCII is quoted first, so that no control character reaches the wire.
    """
    checked = URL(text)
    if not text.isascii() or not text.isprintable() or " " in text:
        return checked
    exact = URL(text, encoded=True)
    same = (exact.scheme, exact.raw_authority) == (checked.scheme, checked.raw_authority)
    return exact if same else checked
