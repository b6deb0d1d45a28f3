"""Header fields of upstream, right and wrong."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from multidict import CIMultiDict

from mirror.adapters.http import headers as http_headers
from mirror.adapters.http.headers import ContentRange
from mirror.model import Span, Validator

NOW = 1_700_000_000.0


def _fields(**values: str) -> CIMultiDict[str]:
    return CIMultiDict({name.replace("_", "-"): value for name, value in values.items()})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 0-0/10", ContentRange(0, 1, 10)),
        ("bytes 5-9/10", ContentRange(5, 10, 10)),
        ("Bytes  5-9/*", ContentRange(5, 10, None)),
        ("bytes */10", ContentRange(None, None, 10)),
        ("bytes 5-10/10", None),
        ("bytes 5-4/10", None),
        ("bytes 5-/10", None),
        ("bytes -5/10", None),
        ("items 0-1/10", None),
        ("bytes 0-1/10, 3-4/10", None),
        ("bytes 0-1/9999999999999999999", None),
        ("bytes ٠-١/١٠", None),
        ("", None),
    ],
)
def test_content_range(value: str, expected: ContentRange | None) -> None:
    assert http_headers.content_range(_fields(content_range=value)) == expected


@pytest.mark.parametrize(
    ("span", "field"),
    [(Span(5), "bytes=5-"), (Span(0, 0), "bytes=0-0"), (Span(2, 9), "bytes=2-9"), (Span(suffix=7), "bytes=-7")],
)
def test_range_field(span: Span, field: str) -> None:
    assert http_headers.range_field(span) == field


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0", 1),
        ("1000000000", 60),
        ("9" * 5000, 60),
        (formatdate(NOW + 30, usegmt=True), 30),
        (formatdate(NOW - 3600, usegmt=True), 1),
        (formatdate(NOW + 10**9, usegmt=True), 60),
        ("Tue, 14 Nov 2023 22:13:50 -0000", 30),
        ("soon", 5),
        ("-5", 5),
        ("1.5", 5),
        ("", None),
    ],
)
def test_u7_retry_after(value: str, seconds: float | None) -> None:
    assert http_headers.retry_after(_fields(retry_after=value), NOW) == seconds


def test_pause_wanted_only_by_429_and_by_503_that_says_when() -> None:
    assert http_headers.pause_wanted(429, {}, NOW) == 5
    assert http_headers.pause_wanted(503, {}, NOW) is None
    assert http_headers.pause_wanted(503, _fields(retry_after="3"), NOW) == 3
    assert http_headers.pause_wanted(500, _fields(retry_after="3"), NOW) is None


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, None),
        ({"cache_control": "public"}, None),
        ({"cache_control": "max-age=600, public"}, 600),
        ({"cache_control": 'Public, Max-Age="600"'}, 600),
        ({"cache_control": "max-age=600, s-maxage=60"}, 60),
        ({"cache_control": "max-age=600", "age": "200"}, 400),
        ({"cache_control": "max-age=600", "age": "900"}, 0),
        ({"cache_control": "max-age=600, no-cache"}, 0),
        ({"cache_control": "no-store"}, 0),
        ({"cache_control": "max-age=-1"}, None),
        ({"cache_control": "max-age=ten"}, None),
    ],
)
def test_max_age(fields: dict[str, str], seconds: int | None) -> None:
    assert http_headers.max_age(_fields(**fields)) == seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Text/HTML; charset=utf-8", "text/html"),
        ("application/vnd.pypi.simple.v1+json", "application/vnd.pypi.simple.v1+json"),
        ("text", ""),
        ("text/ht ml", ""),
        ("", ""),
    ],
)
def test_media_type(value: str, expected: str) -> None:
    assert http_headers.media_type(_fields(content_type=value)) == expected


def test_values_with_control_characters_are_dropped() -> None:
    fields = _fields(etag='"a\x01b"', last_modified="Tue, 02 Jan 2024 03:04:05 GMT")
    assert http_headers.validator(fields) == Validator(None, "Tue, 02 Jan 2024 03:04:05 GMT")


@pytest.mark.parametrize(("value", "serial"), [("12", 12), ("-1", None), ("1e3", None), ("9" * 40, None)])
def test_serial(value: str, serial: int | None) -> None:
    assert http_headers.serial(_fields(x_pypi_last_serial=value)) == serial
