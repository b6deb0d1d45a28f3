"""Where requests may go, decided without a network."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import pytest
from yarl import URL

from mirror.adapters.http.destinations import (
    Destinations,
    ForbiddenAddress,
    ForbiddenUrl,
    VettedResolver,
    is_public,
    literal_address,
)
from mirror.counters import Counters

INDEX = URL("https://index.example.com/simple/")


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "192.0.0.192",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2001:db8::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_u15_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"])
def test_public_addresses(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host", ["2130706433", "127.1", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "1.1.1.256", "fe80::1::2"]
)
def test_u15_legacy_spellings_are_no_addresses(host: str) -> None:
    with pytest.raises(ForbiddenAddress):
        literal_address(host)


@pytest.mark.parametrize("host", ["example.com", "1.example.com", "localhost", "0x7f.example", "x1"])
def test_names_are_not_taken_for_addresses(host: str) -> None:
    assert literal_address(host) is None


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://files.example.com/a",
        "http://files.example.com/a",
        "https://user:pass@files.example.com/a",
        "https://user@files.example.com/a",
        "data:,x",
        "/a",
    ],
)
def test_u15_forbidden_urls(url: str) -> None:
    with pytest.raises(ForbiddenUrl):
        Destinations(INDEX, ("*",)).check(URL(url))


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "2130706433", "[::ffff:10.0.0.1]"])
def test_u15_any_public_host_means_no_private_address(host: str) -> None:
    with pytest.raises(ForbiddenAddress):
        Destinations(INDEX, ("*",)).check(URL(f"https://{host}/a"))


def test_hosts_that_are_not_listed_are_refused() -> None:
    destinations = Destinations(INDEX, ("files.example.com", "*.cdn.example.com"))
    for host in ("index.example.com", "files.example.com", "FILES.example.com", "a.b.cdn.example.com"):
        destinations.check(URL(f"https://{host}/a"))
    for host in ("cdn.example.com", "files.example.com.evil.example", "example.com", "1.1.1.1"):
        with pytest.raises(ForbiddenUrl):
            destinations.check(URL(f"https://{host}/a"))


def test_a_host_named_in_full_may_be_private_and_a_pattern_names_nobody() -> None:
    destinations = Destinations(URL("http://10.0.0.1:3141/simple/"), ("10.0.0.2", "*.local"))
    destinations.check(URL("http://10.0.0.1/a"))
    destinations.check(URL("http://10.0.0.2/a"))
    assert not destinations.is_named("x.local")


def test_https_is_never_given_up_on_the_way() -> None:
    plain = Destinations(URL("http://index.example.com/simple/"), ("*",))
    plain.check(URL("http://files.example.com/a"), URL("http://index.example.com/simple/"))
    with pytest.raises(ForbiddenUrl):
        plain.check(URL("http://files.example.com/a"), URL("https://index.example.com/simple/"))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the name server answers."""
    known: dict[str, list[str]] = {}

    def look_up(host: str, port: int, family: int = 0, type: int = 0) -> list[Any]:  # noqa: A002 - as socket names it
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, type, 6, "", (a, port)) for a in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


async def test_u17_only_vetted_addresses_leave_the_resolver(names: dict[str, list[str]]) -> None:
    names |= {"mixed.example.com": ["127.0.0.1", "1.1.1.1", "::1"], "bad.example.com": ["169.254.169.254", "fe80::1"]}
    names |= {"index.example.com": ["10.0.0.1"], "proxy.example.com": ["10.0.0.2"]}
    counters = Counters()
    resolver = VettedResolver(Destinations(INDEX, ("*",)), [("proxy.example.com", 3128)], counters)
    try:
        assert [r["host"] for r in await resolver.resolve("mixed.example.com", 443)] == ["1.1.1.1"]
        assert counters["upstream_addresses_refused"] == 0
        with pytest.raises(ForbiddenAddress):
            await resolver.resolve("bad.example.com", 443)
        assert counters["upstream_addresses_refused"] == 1
        assert [r["host"] for r in await resolver.resolve("index.example.com", 443)] == ["10.0.0.1"]
        assert [r["host"] for r in await resolver.resolve("proxy.example.com", 3128)] == ["10.0.0.2"]
        with pytest.raises(ForbiddenAddress):
            await resolver.resolve("proxy.example.com", 22)
    finally:
        await resolver.close()


async def test_a_malformed_name_is_an_oserror() -> None:
    resolver = VettedResolver(Destinations(INDEX, ("*",)), [], Counters())
    try:
        with pytest.raises(OSError, match="malformed"):
            await resolver.resolve("a" * 64 + ".example.com", 443)
    finally:
        await resolver.close()
