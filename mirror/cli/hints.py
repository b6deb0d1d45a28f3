"""The lines that point pip, uv, Poetry and PDM at a mirror."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable
from urllib.parse import urlsplit

from mirror.settings.addresses import TcpAddress, parse_address


def base_url(addresses: Iterable[str], public_url: str | None = None) -> str | None:
    """The mirror's root as a client of this machine reaches it, with a slash at its end.

    `public_url` if there is one, else made of the first TCP address, with the loopback address in place of
    "every interface"; None if the mirror listens on Unix sockets alone, which no installer can use.
    """
    if public_url:
        return public_url
    for address in map(parse_address, addresses):
        if isinstance(address, TcpAddress):
            return f"http://{TcpAddress(_reachable(address.host), address.port)}/"
    return None


def client_lines(base_url: str) -> str:
    """Commands and variables, ready to copy, for the mirror whose root is `base_url`."""
    index = f"{base_url}simple/"
    url = shlex.quote(index)
    parts = urlsplit(index)
    host = parts.hostname or ""
    # pip and PDM ignore an index on plain http elsewhere than on loopback, unless they are told to trust it.
    untrusted = parts.scheme == "http" and not _is_loopback(host)
    pip_host = shlex.quote(f"[{host}]" if ":" in host else host)
    lines = [
        "Point your client at it:",
        f"  pip     pip install --index-url {url}{f' --trusted-host {pip_host}' if untrusted else ''} PACKAGE",
        f"          export PIP_INDEX_URL={url}{f' PIP_TRUSTED_HOST={pip_host}' if untrusted else ''}",
        f"  uv      uv pip install --default-index {url} PACKAGE",
        f"          export UV_DEFAULT_INDEX={url}",
        f"  Poetry  poetry source add --priority=primary mirror {url}",
        f"  PDM     pdm config pypi.url {url}",
        f"          export PDM_PYPI_URL={url}",
    ]
    return "\n".join(lines)


def _reachable(host: str) -> str:
    """`host`, or the loopback address of its family if it stands for every interface."""
    if not host:
        return "127.0.0.1"
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not ip.is_unspecified:
        return host
    return "127.0.0.1" if ip.version == 4 else "::1"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
