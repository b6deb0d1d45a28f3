"""The kinds of setting that say where something is: paths, URLs, hosts, listening addresses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from mirror.errors import InvalidName, printable
from mirror.names import source_name
from mirror.settings.addresses import Address, host_name, ip6_address, parse_address
from mirror.settings.kinds import Base

MASK: Final = "********"
"""What is shown in place of a secret, whatever its length."""


@dataclass(frozen=True)
class FilePath(Base):
    """A file or folder: `~` is the home folder, a relative path starts at the working directory."""

    metavar: str = "FILE"
    right: str = "a path"

    def parse(self, text: str) -> Path:
        if not text:
            raise ValueError("the path is empty")
        if not text.isprintable():
            raise ValueError("the path holds a control character")
        try:
            return Path(text).expanduser().absolute()
        except RuntimeError as error:
            raise ValueError(f"the home folder in {printable(text)!r} is unknown") from error


@dataclass(frozen=True)
class SourceName(Base):
    """The name of an upstream, as it stands in URLs and in the store."""

    metavar: str = "NAME"
    right: str = "lower-case letters, digits and '-', at most 40 characters"

    def parse(self, text: str) -> str:
        try:
            return source_name(text)
        except InvalidName as error:
            raise ValueError(f"{printable(text)!r} is no such name") from error


@dataclass(frozen=True)
class Url(Base):
    """An http(s) URL of a folder; it is never quoted in a complaint, since it may hold a password."""

    userinfo: bool = False
    metavar: str = "URL"
    right: str = "an http or https URL without query and fragment"

    def parse(self, text: str) -> str:
        if not text.isascii() or not text.isprintable() or any(c in ' "<>\\^`{|}' for c in text):
            raise ValueError("the URL holds a character that must be percent-encoded (or a name that needs xn--)")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ValueError("the URL's host or port is malformed") from None
        if parts.scheme not in ("http", "https"):
            raise ValueError("the URL begins with neither http:// nor https://")
        if not parts.hostname:
            raise ValueError("the URL has no host")
        if "?" in text or "#" in text:
            raise ValueError("the URL has a query or a fragment")
        userinfo, at, _ = parts.netloc.rpartition("@")
        if at and not self.userinfo:
            raise ValueError("the URL holds a user name")
        try:
            host = f"[{ip6_address(parts.hostname)}]" if ":" in parts.hostname else host_name(parts.hostname)
        except ValueError:
            raise ValueError("the URL's host is malformed") from None
        netloc = userinfo + at + host + (f":{port}" if port is not None else "")
        return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/") + "/", "", ""))

    def show(self, value: str) -> str:
        parts = urlsplit(value)
        userinfo, at, where = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{MASK}@{where}")) if userinfo + at else value


@dataclass(frozen=True)
class HostPattern(Base):
    """`*`, `*.suffix`, a host name or an IP address (IPv6 without brackets)."""

    metavar: str = "HOST"
    right: str = "*, a host name, an IP address, or *.example.com"

    def parse(self, text: str) -> str:
        if text == "*":
            return text
        star, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
        if ":" in name and not star:
            return ip6_address(name.removeprefix("[").removesuffix("]"))
        return star + host_name(name)


@dataclass(frozen=True)
class Listen(Base):
    """An address to listen on."""

    metavar: str = "HOST:PORT|unix:PATH"
    right: str = "HOST:PORT, [IPv6]:PORT, :PORT for every interface, or unix:PATH"

    def parse(self, text: str) -> Address:
        return parse_address(text)
