"""Tell an index page in HTML from any other page: a captive portal, a login form, a proxy's error."""

from __future__ import annotations

import re
from collections import Counter

from selectolax.lexbor import LexborHTMLParser

from mirror.errors import InvalidName
from mirror.names import project_name

ARCHIVE_SUFFIXES = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz", ".tar.xz", ".egg", ".exe", ".msi", ".rpm", ".deb")
_HEADING = re.compile(
    r"\b(?:links for|simple (?:index|list|api)|package index|index of|directory listing)\b", re.IGNORECASE
)


# Elements that cannot be nested by opening them again and again: void ones, those whose end tag is optional,
# and links.
_FLAT = frozenset(
    b"a area base br col embed hr img input link meta param source track wbr html head body title "
    b"li p dd dt tr td th thead tbody tfoot colgroup option optgroup caption".split()
)
_TAG = re.compile(rb"<(/?)([A-Za-z][^\s/>]*)")
_FEW_ELEMENTS = 2000
_MAX_DEPTH = 100


def is_flat(body: bytes) -> bool:
    """Whether the elements in `body` are nested as little as an index page needs.

    Building the tree of a page takes time by the square of its depth, minutes for a megabyte of `<div>`, so
    this is to be asked first. Few elements are flat enough; of many, those that stay open are counted.
    """
    ends = body.count(b"</")
    if body.count(b"<") - ends - body.count(b"<a ") - body.count(b"<br") - body.count(b"<!") <= _FEW_ELEMENTS:
        return True
    nested = still_open = 0
    opened: Counter[bytes] = Counter()
    for end, tag in _TAG.findall(body):
        name = tag.lower()
        if name in _FLAT:
            continue
        if not end:
            nested += 1
            opened[name] += 1
            still_open += 1
        elif opened[name]:
            opened[name] -= 1
            still_open -= 1
        if still_open > _MAX_DEPTH and nested > _FEW_ELEMENTS:
            return False
    return True


def metas(parser: LexborHTMLParser) -> dict[str, str]:
    """The content of every named `<meta>`; of a name that stands twice, the first."""
    found: dict[str, str] = {}
    for node in parser.tags("meta"):
        attributes = node.attributes
        if (name := attributes.get("name")) is not None:
            found.setdefault(name.strip().lower(), attributes.get("content") or "")
    return found


def titled_as_index(parser: LexborHTMLParser, project: str | None = None) -> bool:
    """Whether a title or first-level heading says that this is an index, and nothing asks for input.

    Index pages need no sign at all (PEP 503), so an empty one is recognised by what servers write over it:
    "Links for …", "Simple index", "Index of …" (nginx, Apache), "Directory listing for …" (http.server), or the
    project's bare name. A page that carries a form or sends its reader on is none, whatever its title.
    """
    if parser.tags("form") or parser.tags("input"):
        return False
    if any((node.attributes.get("http-equiv") or "").strip().lower() == "refresh" for node in parser.tags("meta")):
        return False
    headings = [" ".join(node.text().split()) for tag in ("title", "h1") for node in parser.tags(tag)]
    return any(_HEADING.search(heading) or (project and _names(heading, project)) for heading in headings)


def _names(heading: str, project: str) -> bool:
    try:
        return project_name(heading) == project
    except InvalidName:
        return False
