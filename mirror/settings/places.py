"""The kinds of setting that say where something is: paths, URLs, hosts, listening addresses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from mirror.errors import InvalidName, printable
from mirror.names import source_name
from mirror.settings.addresses import Address, host_name, ip6_address, parse_address
from mirror.settings.kinds import Base

MASK: Final = "********"
"""What is shown in place of a secret, whatever its length."""


_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", re.ASCII)
_PREFIX_SEGMENT = re.compile(r"[A-Za-z0-9_~=,-][A-Za-z0-9._~=,-]{0,254}", re.ASCII)


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


@dataclass(frozen=True)
class BucketName(Base):
    """The name of a bucket, bare."""

    metavar: str = "BUCKET"
    right: str = "the bare name of a bucket, 3 to 255 letters, digits, '.', '-' and '_'"

    def parse(self, text: str) -> str:
        if text.lower().startswith("s3:"):
            raise ValueError(f"{printable(text)!r} is a URL; give the bucket alone, and a prefix as s3-prefix")
        if not _BUCKET.fullmatch(text):
            raise ValueError(f"{printable(text)!r} is no name of a bucket")
        return text


@dataclass(frozen=True)
class KeyPrefix(Base):
    """What keys begin with: whole segments, each with its slash; empty for none."""

    metavar: str = "PREFIX"
    right: str = "segments of letters, digits and '._~=,-' with slashes between them, none beginning with a dot"

    def parse(self, text: str) -> str:
        segments = text.strip("/").split("/") if text.strip("/") else []
        if not all(_PREFIX_SEGMENT.fullmatch(segment) for segment in segments):
            raise ValueError(f"{printable(text)!r} is no such prefix")
        if sum(map(len, segments)) > 400:
            raise ValueError("it is longer than 400 characters")
        return "".join(f"{segment}/" for segment in segments)


@dataclass(frozen=True)
class Network(Base):
    """An IP network."""

    metavar: str = "NETWORK"
    right: str = "an IP network such as 10.0.0.0/8 or fd00::/8, or a single address"

    def parse(self, text: str) -> IPv4Network | IPv6Network:
        try:
            return ip_network(text)
        except ValueError as error:
            raise ValueError(f"{printable(text)!r} is no network: {error}") from None


@dataclass(frozen=True)
class JsonObject(Base):
    """An object, written as JSON."""

    metavar: str = "JSON"
    right: str = "a JSON object"

    def parse(self, text: str) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except ValueError:
            raise ValueError("it is no JSON") from None
        if not isinstance(value, dict):
            raise ValueError("it is JSON, but no object")
        return value

    def show(self, value: dict[str, Any]) -> str:
        return json.dumps(value)
