from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import NotAcceptable
from mirror.simple.negotiate import Coding, Format, negotiate, negotiate_coding
from mirror.simple.terms import HTML_TYPE as HT
from mirror.simple.terms import JSON_TYPE as J


def test_c001_json() -> None:
    assert negotiate(J) is Format.JSON
    assert Format.JSON.content_type == J


def test_c002_html() -> None:
    assert negotiate(HT) is Format.HTML
    assert Format.HTML.content_type == HT


def test_c003_text_html() -> None:
    assert negotiate("text/html") is Format.TEXT
    assert Format.TEXT.content_type == "text/html; charset=utf-8"


def test_c004_no_accept_is_text_html() -> None:
    assert negotiate(None) is Format.TEXT
    assert negotiate("") is Format.TEXT


def test_c005_anything_is_text_html() -> None:
    assert negotiate("*/*") is Format.TEXT
    assert negotiate("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2") is Format.TEXT


def test_c006_any_application_is_never_text_html() -> None:
    assert negotiate("application/*") is Format.JSON


def test_c007_pip() -> None:
    assert negotiate(f"{J}, {HT}; q=0.1, text/html; q=0.01") is Format.JSON


def test_c008_poetry() -> None:
    assert negotiate(f"{J}, */*;q=0.1") is Format.JSON


def test_c009_html_preferred() -> None:
    assert negotiate(f"text/html, {J};q=0.5") is Format.TEXT


def test_c010_lower_qualities() -> None:
    assert negotiate(f"{HT};q=0.2, {J};q=0.1") is Format.HTML


def test_c011_quality_zero_is_refusal() -> None:
    assert negotiate(f"{J};q=0, text/html") is Format.TEXT
    assert negotiate(f"{J};q=0, application/*") is Format.HTML
    assert negotiate("text/html;q=0.000, */*") is Format.HTML
    with pytest.raises(NotAcceptable):
        negotiate(f"{J};q=0")


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (f"text/html, {HT}, {J}", Format.JSON),
        (f"text/html, {HT}", Format.HTML),
        (f"text/html;q=0.3, {J};q=0.3", Format.JSON),
        ("text/*, application/*", Format.JSON),
    ],
)
def test_c012_equal_quality_is_most_expressive(accept: str, form: Format) -> None:
    assert negotiate(accept) is form


def test_c013_latest_json() -> None:
    assert negotiate("application/vnd.pypi.simple.latest+json") is Format.JSON


def test_c014_latest_html() -> None:
    assert negotiate("application/vnd.pypi.simple.latest+html") is Format.HTML


def test_c015_unmatched_accept_is_refused() -> None:
    with pytest.raises(NotAcceptable) as caught:
        negotiate("image/png")
    assert caught.value.offered == (J, HT, "text/html")


def test_c016_other_version_is_refused() -> None:
    with pytest.raises(NotAcceptable):
        negotiate("application/vnd.pypi.simple.v2+json")


def test_c017_plain_json_is_refused() -> None:
    with pytest.raises(NotAcceptable):
        negotiate("application/json")


@pytest.mark.parametrize(
    "accept", [";;q=x", ",", ";", "garbage", "text/html;q=x", "\x00", "/", "a b/c", "text/html;q=²"]
)
def test_c018_malformed_accept_is_the_default(accept: str) -> None:
    assert negotiate(accept) is Format.TEXT


def test_a_broken_element_does_not_spoil_the_others() -> None:
    assert negotiate(f"garbage, {J}, text/html;q=x") is Format.JSON


@pytest.mark.parametrize(
    ("override", "form"),
    [
        (J, Format.JSON),
        (J.replace("+", " "), Format.JSON),
        (HT, Format.HTML),
        ("text/html", Format.TEXT),
        ("application/vnd.pypi.simple.latest json", Format.JSON),
    ],
)
def test_c020_format_overrides_accept(override: str, form: Format) -> None:
    assert negotiate("image/png", override) is form


@pytest.mark.parametrize("override", ["json", "", "*/*", "application/json"])
def test_c020_unknown_format_is_refused(override: str) -> None:
    with pytest.raises(NotAcceptable):
        negotiate(J, override)


def test_browsers_get_text_html() -> None:
    assert negotiate("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8") is Format.TEXT


def test_uv() -> None:
    assert negotiate(f"{J}, {HT};q=0.2, text/html;q=0.01") is Format.JSON


@given(
    st.text() | st.lists(st.sampled_from([J, HT, "text/html", "*/*", ";q=", "0.5", ",", ";", "1", " "])).map("".join)
)
def test_no_header_breaks_it(header: str) -> None:
    with contextlib.suppress(NotAcceptable):
        assert negotiate(header) in Format
    assert negotiate_coding(header) in Coding


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, Coding.IDENTITY),
        ("", Coding.IDENTITY),
        ("identity", Coding.IDENTITY),
        ("Identity", Coding.IDENTITY),
        ("gzip, deflate", Coding.GZIP),
        ("x-gzip", Coding.GZIP),
        ("gzip, deflate, zstd", Coding.ZSTD),
        ("ZSTD,GZIP", Coding.ZSTD),
        ("zstd;q=0.5, gzip", Coding.GZIP),
        ("gzip;q=0", Coding.IDENTITY),
        ("gzip;q=0, zstd;q=0, *", Coding.IDENTITY),
        ("*", Coding.GZIP),
        ("*;q=0", Coding.IDENTITY),
        ("*;q=0, gzip;q=1", Coding.GZIP),
        ("zstd;q=0, *", Coding.GZIP),
        ("gzip;q=0.5, identity", Coding.IDENTITY),
        ("gzip, identity;q=0.5", Coding.GZIP),
        ("br", Coding.IDENTITY),
        ("gzip;q=x", Coding.IDENTITY),
    ],
)
def test_coding(header: str | None, coding: Coding) -> None:
    assert negotiate_coding(header) is coding
