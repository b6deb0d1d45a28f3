"""Conditional and range requests (RFC 9110 §13 and §14) as pure functions of header values."""

from __future__ import annotations

import re
from typing import Final

from mirror.model import Span

_ENTITY_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\U0010ffff]*")')
_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*", re.ASCII | re.IGNORECASE)

_BEYOND: Final = 10**18
"""Stands for every longer number: past the end of any file, and far below the digits that `int` refuses."""


def none_match(header: str | None, etag: str | None) -> bool:
    """Whether If-None-Match names the current representation, so that 304 is the answer.

    Compares weakly (RFC 9110 §13.1.2). `*` names every representation; of a malformed list, what can be read counts.
    """
    if header is None:
        return False
    if header.strip(" \t") == "*":
        return True
    return etag is not None and etag.removeprefix("W/") in _ENTITY_TAG.findall(header)


def range_holds(if_range: str | None, etag: str | None) -> bool:
    """Whether a Range may be honoured in view of If-Range.

    Only a strong entity tag can match (RFC 9110 §13.1.5): a date never does, because no Last-Modified is sent.
    """
    if if_range is None:
        return True
    return etag is not None and not etag.startswith("W/") and if_range.strip(" \t") == etag


def parse_range(header: str | None) -> Span | None:
    """The single byte range that `header` asks for.

    None, which means the whole file, if there is no header, or it is malformed, of another unit, or holds
    several ranges; a server may ignore any Range (RFC 9110 §14.2).
    """
    if header is None or not (match := _RANGE.fullmatch(header)):
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return Span(suffix=_number(suffix))
    span = Span(_number(first), _number(last) if last else None)
    return None if span.last is not None and span.last < span.first else span


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else _BEYOND
