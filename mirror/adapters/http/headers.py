"""Read the header fields of upstream's answers; what is malformed counts as absent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from mirror.model import Span, Validator

MAX_RETRY_AFTER: Final = 60.0
_DEFAULT_RETRY_AFTER: Final = 5.0

_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes +(?:([0-9]{1,15})-([0-9]{1,15})|\*)/(?:([0-9]{1,15})|\*)", re.ASCII | re.IGNORECASE)
_PRINTABLE = re.compile(r"[\x20-\x7e\x80-\U0010ffff]+")

Headers = Mapping[str, str]
"""Field values by name; looked up without regard to case."""


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Content-Range (RFC 9110 §14.4): the part `start`–`stop`, half open; both None in an answer 416."""

    start: int | None
    stop: int | None
    size: int | None
    """Of the whole file; None where upstream does not say."""


def content_range(headers: Headers) -> ContentRange | None:
    """Content-Range, if it is there and makes sense."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None:
        return None
    first, last, total = (None if group is None else int(group) for group in match.groups())
    if first is None or last is None:
        return ContentRange(None, None, total)
    if last < first or (total is not None and last >= total):
        return None
    return ContentRange(first, last + 1, total)


def range_field(span: Span) -> str:
    """The Range field that asks for `span`."""
    if span.suffix is not None:
        return f"bytes=-{span.suffix}"
    return f"bytes={span.first}-{'' if span.last is None else span.last}"


def content_length(headers: Headers) -> int | None:
    """Content-Length in bytes."""
    return _number(headers.get("Content-Length"))


def media_type(headers: Headers) -> str:
    """Content-Type in lower case and without parameters; empty if there is none."""
    value = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return value if _MEDIA_TYPE.fullmatch(value) else ""


def content_coding(headers: Headers) -> str | None:
    """Content-Encoding; None if the body is as it is."""
    value = headers.get("Content-Encoding", "").strip().lower()
    return None if value in ("", "identity") else value


def validator(headers: Headers) -> Validator:
    """What a later conditional request sends back; values that hold control characters are dropped."""
    return Validator(_plain(headers.get("ETag")), _plain(headers.get("Last-Modified")))


def serial(headers: Headers) -> int | None:
    """X-PyPI-Last-Serial."""
    return _number(headers.get("X-PyPI-Last-Serial"))


def max_age(headers: Headers) -> int | None:
    """Seconds for which a shared cache may use the answer without asking again (RFC 9111 §4.2); None: not said."""
    directives: dict[str, str] = {}
    for part in headers.get("Cache-Control", "").lower().split(","):
        name, _, value = part.strip().partition("=")
        directives.setdefault(name, value.strip('"'))
    if "no-store" in directives or "no-cache" in directives:
        return 0
    lifetime = _number(directives.get("s-maxage")) if "s-maxage" in directives else _number(directives.get("max-age"))
    if lifetime is None:
        return None
    return max(0, lifetime - (_number(headers.get("Age")) or 0))


def retry_after(headers: Headers, now: float) -> float | None:
    """Retry-After in seconds from `now` (since the epoch), between 1 and `MAX_RETRY_AFTER`; None: not said."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if _DIGITS.fullmatch(value):
        seconds = float(value)
    else:
        try:
            when = parsedate_to_datetime(value)
            seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, OverflowError):
            seconds = _DEFAULT_RETRY_AFTER
    return min(MAX_RETRY_AFTER, max(1.0, seconds))


def pause_wanted(status: int, headers: Headers, now: float) -> float | None:
    """Seconds for which an answer asks to be left alone: 429, or 503 with Retry-After (RFC 6585 §4, RFC 9110 §10.2.3)."""
    match status:
        case 429:
            return retry_after(headers, now) or _DEFAULT_RETRY_AFTER
        case 503:
            return retry_after(headers, now)
    return None


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and _NUMBER.fullmatch(value.strip()) else None


def _plain(value: str | None) -> str | None:
    return value if value and _PRINTABLE.fullmatch(value) else None
