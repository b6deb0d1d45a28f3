"""Where requests may go: which hosts, over which scheme, at which addresses."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from mirror.counters import Counters

_NAT64: Final = IPv6Network("64:ff9b::/96")
_METADATA: Final = frozenset({IPv4Address("168.63.129.16"), IPv4Address("192.0.0.192")})
"""Services of clouds for their own machines at addresses that count as public."""
_NUMERIC = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*", re.ASCII)
_SCHEMES: Final = ("http", "https")


class ForbiddenAddress(OSError):
    """A host whose address is not public. An OSError, so that it passes through aiohttp's connector."""


class ForbiddenUrl(ValueError):
    """A URL to which no request may go; the message says why, in words fit for a client."""


class Destinations:
    """The rules for one upstream: its own host, and the hosts that its operator lists."""

    def __init__(self, index: URL, patterns: Iterable[str]) -> None:
        """`patterns` as in `UpstreamOptions.file_hosts`."""
        self._https_only = index.scheme == "https"
        self.index_host, self.index_port = _host(index), index.port
        self._patterns = [pattern.lower() for pattern in patterns]
        self._named = {_host(index), *(p for p in self._patterns if not set("*?[") & set(p))}

    def is_named(self, host: str) -> bool:
        """Whether the operator named this very host, which may then have a private address."""
        return host.lower() in self._named

    def check(self, url: URL, came_from: URL | None = None) -> None:
        """Raises `ForbiddenUrl` or `ForbiddenAddress` if no request may go to `url`, to which `came_from` redirects."""
        if url.scheme not in _SCHEMES or not url.raw_host:
            raise ForbiddenUrl("which is no http or https URL")
        if url.scheme == "http" and (self._https_only or (came_from is not None and came_from.scheme == "https")):
            raise ForbiddenUrl("which gives up TLS")
        if url.raw_user is not None or url.raw_password is not None:
            raise ForbiddenUrl("which holds credentials")
        host = _host(url)
        if self.is_named(host):
            return
        if not any(fnmatchcase(host, pattern) for pattern in self._patterns):
            raise ForbiddenUrl("which is on a host that is not listed in upstream-file-hosts")
        address = literal_address(host)
        if address is not None and not is_public(address):
            raise ForbiddenAddress("the address is not public")


def literal_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that `host` spells, None if it is a name.

    Raises `ForbiddenAddress` for the spellings that only the C library understands (`127.1`, `0x7f.1`,
    `2130706433`, `0177.0.0.1`): the URL standard calls every host that ends in a number an address.
    """
    try:
        return ip_address(host)
    except ValueError:
        if ":" in host or _NUMERIC.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise ForbiddenAddress("the address is spelt in a way that is not standard") from None
        return None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether `address` belongs to the public internet; an IPv4 address inside an IPv6 one counts as itself."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(address.packed[-4:])
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    private = not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified
    return not private and address not in _METADATA


class VettedResolver(AbstractResolver):
    """Resolves names and leaves out addresses that are not public, unless the operator named the host.

    aiohttp connects to exactly these results, so what was checked is what is connected to, whatever the name
    server says a moment later (DNS rebinding).
    """

    def __init__(self, destinations: Destinations, proxies: Iterable[tuple[str, int]], counters: Counters) -> None:
        """`proxies`: hosts and ports that the environment names."""
        self._destinations = destinations
        self._proxies = frozenset(proxies)
        self._counters = counters
        # An own pool: a name server that hangs must not hold up those who write files in the default one.
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="resolve")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises `ForbiddenAddress`, and `OSError` where the name cannot be resolved."""
        found = await asyncio.get_running_loop().run_in_executor(self._pool, _look_up, host, port, family)
        if self._destinations.is_named(host) or (host, port) in self._proxies:
            return found
        public = [result for result in found if is_public(ip_address(result["host"]))]
        if not public and port == self._destinations.index_port:
            # Within a company the names of a public index and of its file host may both lead to one gateway:
            # the very socket at which upstream itself was configured is no forbidden place.
            own = await asyncio.get_running_loop().run_in_executor(
                self._pool, _look_up, self._destinations.index_host, port, family
            )
            public = [result for result in found if result["host"] in {each["host"] for each in own}]
        if not public:
            self._counters.count("upstream_addresses_refused")
            raise ForbiddenAddress("the address is not public")
        return public

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    results: list[ResolveResult] = []
    try:
        found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    except UnicodeError as e:  # a label that is empty or longer than 63 characters
        raise OSError("the name is malformed") from e
    for kind, _, proto, _, sockaddr in found:
        address = str(sockaddr[0])
        if len(sockaddr) == 4 and sockaddr[3]:
            address = f"{address}%{sockaddr[3]}"  # a link-local address means nothing without its interface
        results.append(
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
        )
    return results


def _host(url: URL) -> str:
    return (url.raw_host or "").lower()
