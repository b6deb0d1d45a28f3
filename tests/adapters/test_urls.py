"""URLs go out unchanged and are logged without secrets."""

from __future__ import annotations

import pytest

from mirror.adapters.http.urls import as_sent, redact_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:hunter2@h.example/a", "https://h.example/a"),
        ("https://h.example/a?X-Amz-Signature=hunter2&x=1", "https://h.example/a?X-Amz-Signature=***&x=1"),
        ("https://h.example/a?access_token=hunter2", "https://h.example/a?access_token=***"),
        ("https://h.example/a?hunter2", "https://h.example/a?***"),
        ("https://h.example/a#hunter2", "https://h.example/a"),
        ("https://h.example/a\r\nb", "https://h.example/ab"),
        ("https://[/hunter2", "a malformed URL"),
    ],
)
def test_redact_url(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "https://h.example/a%2Bb+c/d%7Ee?X-Amz-Signature=%2f%2B+a&b",
        "https://h.example:8443/%E2%98%83",
    ],
)
def test_a_url_goes_out_as_it_stands(url: str) -> None:
    assert str(as_sent(url)) == url


@pytest.mark.parametrize("url", ["https://h.example/a b", "https://h.example/a\r\nX: y", "https://h.example/☃"])
def test_what_is_not_plain_is_quoted(url: str) -> None:
    sent = str(as_sent(url))
    assert sent.isascii()
    assert sent.isprintable()
    assert " " not in sent


@pytest.mark.parametrize("url", ["https://h.example:port/a", "https://[::1/a"])
def test_a_malformed_url_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        as_sent(url)
