"""What an HTTP upstream is: its address, its limits, its credentials."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from mirror.errors import ConfigError

_MIB: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class UpstreamOptions:
    """Settings of one upstream. Durations are seconds, sizes bytes.

    Credentials in `url` are moved to `username` and `password`. Raises `ConfigError` if `url` is no http(s) URL.
    """

    url: str
    """The simple index, ending in a slash."""
    name: str = "pypi"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_bundle: Path | None = None
    """Certificates (PEM) trusted in place of the system's."""
    file_hosts: tuple[str, ...] = ("*",)
    """Hosts that may be asked besides upstream's own: names, `*.suffix`, or `*` for every host with a public
    address. A host named in full may have a private address."""
    legacy_json_url: str | None = None
    """With `{name}` where `project` or `project/version` belongs; None: the sibling `pypi/{name}/json` of an
    index that ends in `/simple/`."""

    connect_timeout: float = 3.0
    """For a connection, from the name's resolution to the end of the TLS handshake."""
    read_timeout: float = 20.0
    """For the answer's head, and between any two pieces of its body."""
    min_rate: float = 1024
    """Bytes per second below which, after `grace`, a body is given up; 0 for none."""
    grace: float = 30.0
    max_connections: int = 64
    max_page_bytes: int = 64 * _MIB
    """Of a project page or legacy JSON document, decoded."""
    max_list_bytes: int = 1024 * _MIB
    """Of the list of all projects, decoded."""

    retries: int = 2
    retry_wait: float = 0.1
    """Before the first repetition; each further one waits twice as long, and up to three times this by chance."""
    breaker_threshold: int = 5
    """Failures in a row after which an origin is left alone for a while."""
    breaker_first_pause: float = 5.0
    breaker_longest_pause: float = 60.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment:
            raise ConfigError(f"the URL of upstream {self.name} is no http or https URL of a folder")
        if parts.username and self.username is None:
            object.__setattr__(self, "username", unquote(parts.username))
        if parts.password and self.password is None:
            object.__setattr__(self, "password", unquote(parts.password))
        if ":" in (self.username or ""):
            raise ConfigError(f"the user name for upstream {self.name} holds a colon (RFC 7617)")
        path = parts.path if parts.path.endswith("/") else f"{parts.path}/"
        object.__setattr__(self, "url", urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path)))

    def legacy_json(self, name: str) -> str | None:
        """The URL of a legacy JSON document, None where upstream has none; `name`: `project` or `project/version`."""
        template = self.legacy_json_url
        if template is None and self.url.endswith("/simple/"):
            template = self.url.removesuffix("simple/") + "pypi/{name}/json"
        return None if template is None else template.replace("{name}", name)
