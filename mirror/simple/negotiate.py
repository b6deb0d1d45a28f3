"""Decide from a request's headers which form of a page, in which content coding, answers it."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache

from mirror.errors import NotAcceptable
from mirror.simple.terms import HTML_TYPE, JSON_TYPE, TEXT_TYPE


class Format(Enum):
    """The forms of a page, the most expressive first; the value is the media type."""

    JSON = JSON_TYPE
    HTML = HTML_TYPE
    TEXT = TEXT_TYPE

    @property
    def content_type(self) -> str:
        """The Content-Type to send. PEP 691 admits no parameter on its own two types."""
        return "text/html; charset=utf-8" if self is Format.TEXT else self.value


class Coding(Enum):
    """Content codings of an answer; the value is what Content-Encoding says."""

    ZSTD = "zstd"
    GZIP = "gzip"
    IDENTITY = "identity"


_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_MEDIA_RANGE = re.compile(rf"{_NAME}/{_NAME}|\*")
_QUALITY = re.compile(r"[01](?:\.\d*)?|\.\d+", re.ASCII)
_OFFERED = tuple(f.value for f in Format)
_ALIASES = {
    "application/vnd.pypi.simple.latest+json": JSON_TYPE,
    "application/vnd.pypi.simple.latest+html": HTML_TYPE,
    "*": "*/*",  # java.net.URLConnection and its kin
}
_EXACT, _SUBTYPES, _ANYTHING = 3, 2, 1


@lru_cache(maxsize=256)
def negotiate(accept: str | None, override: str | None = None) -> Format:
    """The form that `Accept` prefers (RFC 9110 §12.5.1, PEP 691); `override` is the value of `?format=`.

    Between types of equal quality the one that is named beats the one that a wildcard admits, and then the
    most expressive wins. `*/*` alone means text/html, for clients that are older than the JSON form. A header
    in which nothing can be understood counts as absent. Raises `NotAcceptable`.
    """
    if override is not None:
        # Form decoding turns the `+` of an unescaped media type into a space.
        wanted = override.strip().lower().replace(" ", "+")
        wanted = _ALIASES.get(wanted, wanted)
        if wanted not in _OFFERED:
            raise NotAcceptable(_OFFERED)
        return Format(wanted)
    ranges = _media_ranges(accept or "")
    if not ranges:
        return Format.TEXT
    best: tuple[float, int, int] = (0.0, 0, 0)
    chosen: Format | None = None
    for order, form in enumerate(reversed(Format)):
        specificity, quality = _quality_of(form.value, ranges)
        # Where only `*/*` admits a form, the order turns round: text/html is what such a client knows.
        rank = (quality, specificity, -order if specificity == _ANYTHING else order)
        if quality > 0 and (chosen is None or rank > best):
            best, chosen = rank, form
    if chosen is None:
        raise NotAcceptable(_OFFERED)
    return chosen


def _media_ranges(accept: str) -> dict[str, float]:
    """Quality by media range; elements that follow no grammar are left out."""
    found: dict[str, float] = {}
    for element in accept.split(","):
        name, *parameters = (part.strip() for part in element.split(";"))
        quality = _quality(parameters)
        if quality is not None and _MEDIA_RANGE.fullmatch(name):
            name = name.lower()
            name = _ALIASES.get(name, name)
            found[name] = max(quality, found.get(name, 0.0))
    return found


def _quality(parameters: list[str]) -> float | None:
    """The `q` among an element's parameters, 1 where there is none, None where it is no number from 0 to 1."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            value = value.strip()
            return min(1.0, float(value)) if _QUALITY.fullmatch(value) else None
    return 1.0


def _quality_of(media_type: str, ranges: dict[str, float]) -> tuple[int, float]:
    """`(specificity, quality)` that the most specific matching range gives; `(0, 0)` if none matches."""
    main = media_type.partition("/")[0]
    for specificity, name in ((_EXACT, media_type), (_SUBTYPES, f"{main}/*"), (_ANYTHING, "*/*")):
        if (quality := ranges.get(name)) is not None:
            return specificity, quality
    return 0, 0.0


@lru_cache(maxsize=256)
def negotiate_coding(accept_encoding: str | None) -> Coding:
    """The content coding for a compressible answer (RFC 9110 §12.5.3).

    The highest quality wins, zstd before gzip where they are equal. `*` stands for gzip: it says that any
    coding will do, and gzip is the one that everybody who decodes at all can decode. Uncompressed is the
    last choice unless the client prefers it, and always possible, so that nothing here is refused.
    """
    qualities: dict[str, float] = {}
    for element in (accept_encoding or "").split(","):
        name, *parameters = (part.strip() for part in element.split(";"))
        quality = _quality(parameters)
        if quality is not None and name:
            name = name.lower()
            qualities["gzip" if name == "x-gzip" else name] = quality
    identity = qualities.get("identity", 0.0)
    zstd = qualities.get("zstd", 0.0)
    gzip = qualities.get("gzip", qualities.get("*", 0.0))
    if max(zstd, gzip) <= 0 or identity > max(zstd, gzip):
        return Coding.IDENTITY
    return Coding.ZSTD if zstd >= gzip else Coding.GZIP
