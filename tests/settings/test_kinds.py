from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.settings.addresses import TcpAddress, UnixAddress, parse_address
from mirror.settings.kinds import Choice, Count, Duration, Kind, Size, Switch, Text
from mirror.settings.places import FilePath, HostPattern, Listen, Url


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Duration(), "600", 600.0),
        (Duration(), "2.5", 2.5),
        (Duration(), "10m", 600.0),
        (Duration(), "1h", 3600.0),
        (Duration(), "7d", 604800.0),
        (Duration(), "250ms", 0.25),
        (Duration(), "30 s", 30.0),
        (Size(), "1024", 1024),
        (Size(), "512MiB", 512 * 2**20),
        (Size(), "512mib", 512 * 2**20),
        (Size(), "1.5 KiB", 1536),
        (Size(), "2GB", 2 * 10**9),
        (Size(), "0", 0),
        (Switch(), "on", True),
        (Switch(), "TRUE", True),
        (Switch(), "1", True),
        (Switch(), "off", False),
        (Switch(), "false", False),
        (Switch(), "0", False),
        (Choice(("a", "b")), "A", "a"),
        (Count(0, 9), "09", 9),
        (Url(), "https://index.example.com/simple", "https://index.example.com/simple/"),
        (Url(), "HTTP://INDEX.example.com:8080", "http://index.example.com:8080/"),
        (Url(), "http://[::1]:3141/root/", "http://[::1]:3141/root/"),
        (Url(userinfo=True), "https://u:p%40@index.example.com/x/", "https://u:p%40@index.example.com/x/"),
        (HostPattern(), "*", "*"),
        (HostPattern(), "*.Example.com", "*.example.com"),
        (HostPattern(), "files.example.com", "files.example.com"),
        (HostPattern(), "[::1]", "::1"),
        (HostPattern(), "10.0.0.1", "10.0.0.1"),
        (Listen(), "127.0.0.1:8080", TcpAddress("127.0.0.1", 8080)),
        (Listen(), "localhost:0", TcpAddress("localhost", 0)),
        (Listen(), ":8080", TcpAddress("", 8080)),
        (Listen(), "*:8080", TcpAddress("", 8080)),
        (Listen(), "[::1]:8080", TcpAddress("::1", 8080)),
        (Listen(), "[0:0::1]:8080", TcpAddress("::1", 8080)),
    ],
)
def test_good_values(kind: Kind, text: str, value: Any) -> None:
    assert kind.parse(text) == value
    assert kind.parse(kind.show(value)) == value or isinstance(kind, Url)


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        *(
            (Duration(), text, "not a duration")
            for text in ("", "abc", "-5", "1w", "1h30m", "inf", "nan", "1e3", "٣", "5\n")
        ),
        (Duration(), "4000d", "out of range"),
        (Duration(), "9" * 5000, "not a duration"),
        (Duration(minimum=0.001), "0", "out of range"),
        *(
            (Size(), text, "not a size")
            for text in ("", "lots", "-1", "5 bits", "5M", "5G", "0x10", "9" * 5000, "5 \u212aiB")
        ),
        (Size(), "0.5", "not a whole number"),
        (Size(minimum=2**20), "5", "out of range"),
        *((Count(1, 10), text, "not a whole number") for text in ("", "x", "-1", "1.0", "+1", "٣", "9" * 5000)),
        (Count(1, 10), "0", "out of range"),
        (Count(1, 10), "11", "out of range"),
        *((Switch(), text, "neither on nor off") for text in ("", "2", "yep", "None")),
        (Choice(("a", "b")), "c", "none of the choices"),
        (Text(), "", "empty"),
        (Text(), "a\nb", "control character"),
        (Text(forbidden=":"), "a:b", "holds ':'"),
        (FilePath(), "", "empty"),
        (FilePath(), "a\0b", "control character"),
        (FilePath(), "a\udcffb", "control character"),
        (FilePath(), "~no-such-user-here/x", "home folder"),
        *(
            (Url(), text, "neither http")
            for text in ("", "index.example.com", "ftp://index.example.com/", "file:///etc")
        ),
        *((Url(), text, "no host") for text in ("http://", "https:///simple/", "https:simple", "http://:80/")),
        *(
            (Url(), text, "query or a fragment")
            for text in ("http://h/?a=b", "http://h/#x", "http://h/?", "http://h/#")
        ),
        *((Url(), text, "host or port") for text in ("http://h:99999/", "http://h:x/", "http://[::1/", "http://[x]/")),
        *((Url(), text, "malformed") for text in ("http://a..b/", "http://-/", "http://2130706433/", "http://a%2fb/")),
        *(
            (Url(), text, "percent-encoded")
            for text in ("http://h/ x", "http://h\n/", "http://é/", "http://h\\@g/", "http://h/\0")
        ),
        (Url(), "http://user:pass@h/", "user name"),
        *(
            (HostPattern(), text, "not a")
            for text in ("", "**", "*.", "a/b", "a b", "*.*", "é", "1.2.3", "[x:y]", "*.::1")
        ),
        *((Listen(), text, "no port") for text in ("", "foo", "8080", "127.0.0.1")),
        *((Listen(), text, "not a port") for text in ("foo:", "foo:bar", "foo:65536", "foo:-1", "foo:٣", "foo:123456")),
        (Listen(), "::1:8080", "brackets"),
        (Listen(), "[::g]:8080", "not an IPv6"),
        (Listen(), "1.2.3:80", "not an IPv4"),
        (Listen(), "a b:80", "not a host name"),
        (Listen(), "a\n:80", "not a host name"),
        (Listen(), "a" * 64 + ":80", "not a host name"),
        (Listen(), "unix:", "path is empty"),
        (Listen(), "unix:a\0", "control character"),
        (Listen(), "unix:/" + "a" * 107, "longer than 107"),
    ],
)
def test_bad_values(kind: Kind, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^[ -~]+$") as caught:
        kind.parse(text)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 250
    assert kind.right
    assert kind.metavar


@given(st.integers(0, 3650 * 86400 * 1000))
def test_a_duration_that_is_shown_can_be_read(milliseconds: int) -> None:
    assert Duration().parse(Duration().show(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(0, 2**60))
def test_a_size_that_is_shown_can_be_read(size: int) -> None:
    assert Size().parse(Size().show(size)) == size


@given(st.text(max_size=60) | st.text(alphabet="unix:[]0123456789abcf.*%@/- ", max_size=60))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    for kind in (Listen(), HostPattern(), Url(userinfo=True)):
        try:
            value = kind.parse(text)
        except ValueError as error:
            assert str(error).isprintable()  # noqa: PT017 -- both outcomes are right, each with its own property
        else:
            assert kind.parse(str(value)) == value


def test_a_unix_address(tmp_path: Any) -> None:
    assert parse_address("unix:/run/mirror.sock") == (address := parse_address("unix:/run/mirror.sock"))
    assert isinstance(address, UnixAddress)
    assert str(address) == "unix:/run/mirror.sock"


def test_paths_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert FilePath().parse("data") == tmp_path / "data"
    assert str(FilePath().parse("~/data")) == "/home/somebody/data"


def test_a_shown_url_hides_its_password() -> None:
    assert Url(userinfo=True).show("https://user:canary@h/") == "https://********@h/"
