"""The places where the mirror listens: `HOST:PORT`, `[IPv6]:PORT` or `unix:PATH`, as text and as values."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.errors import printable

MAX_SOCKET_PATH: Final = 107
"""Bytes of a socket's path that the kernel accepts (`sun_path` holds 108 with its final NUL, unix(7))."""

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?"
)
_NUMBERS = re.compile(r"[0-9.]+")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port; an empty `host` means every interface, `port` 0 means any free port."""

    host: str
    """A name or an IP address, IPv6 without brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix domain socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """`text` as an address; `ValueError` says in a clause what is wrong with it. `str()` is the way back."""
    if text.startswith("unix:"):
        return _unix_address(text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{printable(text)!r} has no port")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError(f"{printable(port)!r} is not a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = ip6_address(host[1:-1])
    elif ":" in host:
        raise ValueError(f"the IPv6 address in {printable(text)!r} needs brackets")
    elif host == "*":
        host = ""
    elif host:
        host = host_name(host)
    return TcpAddress(host, int(port))


def host_name(text: str) -> str:
    """`text` in lower case if it is a DNS name in ASCII or an IPv4 address; else `ValueError`."""
    lower = text.lower() if text.isascii() else text
    if not _HOST_NAME.fullmatch(lower):
        raise ValueError(f"{printable(text)!r} is not a host name")
    if _NUMBERS.fullmatch(lower):
        # A resolver reads "127.1" and "2130706433" as addresses that nobody would recognise in a log.
        try:
            ipaddress.IPv4Address(lower)
        except ValueError:
            raise ValueError(f"{printable(text)!r} is not an IPv4 address") from None
    return lower


def ip6_address(text: str) -> str:
    """`text`, without brackets, in its canonical form (RFC 5952) if it is an IPv6 address; else `ValueError`."""
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise ValueError(f"{printable(text)!r} is not an IPv6 address") from None


def _unix_address(path: str) -> UnixAddress:
    if not path:
        raise ValueError("the socket's path is empty")
    if not path.isprintable():
        raise ValueError("the socket's path holds a control character")
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"the socket's path is longer than {MAX_SOCKET_PATH} bytes")
    return UnixAddress(Path(path))
