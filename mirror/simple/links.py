"""Resolve the links of an index page and map them to the public paths of this mirror."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from mirror.errors import InvalidName
from mirror.names import file_path

# RFC 3986's characters and no other: none that a parser would strip (tab, CR, LF), fold or take for a slash.
_LINK = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_CHARACTERS = r"A-Za-z0-9._~:/@!$&'()*+,;=%-"
_ABSOLUTE = re.compile(
    r"(https?://(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)"
    rf"(/[{_CHARACTERS}]*)(\?[{_CHARACTERS}?]*)?(?:#[{_CHARACTERS}?]*)?"
)
_PLAIN = re.compile(r"(https?://[A-Za-z0-9.:-]+)(/(?:[A-Za-z0-9._~!+@=,/-]*/)?)([A-Za-z0-9][A-Za-z0-9._+!-]{0,243})")
"""Most absolute links. Where no folder is empty or begins with a dot, `file_path` would say yes to the path."""
_PLAIN_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:-]+/")
_PLAIN_BASE = re.compile(r"(https?://[A-Za-z0-9.:-]+)(/(?:[A-Za-z0-9._~!+@=,/-]*/)?)")
_SEGMENT = r"[A-Za-z0-9_~!+@=,%-][A-Za-z0-9._~!+@=,%-]*"
_BELOW = re.compile(rf"((?:\.\./)*)({_SEGMENT}(?:/{_SEGMENT})*)(?:#[{_CHARACTERS}?]*)?")
"""A relative link that needs no general resolving: some `../`, then segments that do not begin with a dot."""
_UP = re.compile(r"(?:\.\./)+")
_SKELETON: Final = bytes(
    ord("/" if c in "/." else "a" if re.match(r"[A-Za-z0-9_~!+@=,-]", c) else "\n") for c in map(chr, range(256))
)
"""Makes a letter of what `_PLAIN` has in a path, but a slash of a dot, and a line feed of everything else."""
MAX_PLAIN: Final = 700
"""Characters of a link that is resolved at less cost."""


@dataclass(frozen=True, slots=True)
class SourcePaths:
    """Where the files of one upstream are found below our root.

    The paths stand in lock files for years. The default upstream's `/packages/…` is kept as it is, so that a
    lock file made elsewhere translates by its prefix; everything else lies below `files/{name}/`.
    """

    name: str
    """The upstream's name, as in URLs and keys."""
    default: bool

    def public_path(self, url: str) -> str:
        """The public path of an absolute URL, without query and fragment; `InvalidName` if it has no safe path."""
        match = _ABSOLUTE.fullmatch(url)
        if match is None:
            raise InvalidName("file URL", url, "it is no absolute http or https URL of a file")
        return self.public_path_of(match[2])

    def public_path_of(self, own: str) -> str:
        """The same of upstream's own path, still percent-encoded, with its leading slash."""
        if "%" in own:
            segments = [unquote(segment, errors="replace") for segment in own.split("/")]
            if any("/" in segment for segment in segments):
                raise InvalidName("file path", own, "it holds an encoded slash")
            own = "/".join(segments)
        return file_path(self._placed(own))

    def plain_path_of(self, folder: str, filename: str) -> str | None:
        """The same, at less cost, where the way matches `_PLAIN`; None where only the general way can tell."""
        if "//" in folder or "/." in folder or len(folder) > MAX_PLAIN:
            return None
        return self._placed(folder) + filename

    def plain_paths_of(self, folder: str, tails: Sequence[str]) -> Sequence[str]:
        """The same of many files below `folder`, in which nothing is to be checked any more."""
        placed = self._placed(folder)
        if folder == "/" and self.default:
            within = "packages/"
            if all(map(str.startswith, tails, repeat(within))):
                return tails
            return [tail if tail.startswith(within) else placed + tail for tail in tails]
        return [placed + tail for tail in tails]

    def _placed(self, own: str) -> str:
        return own[1:] if self.default and own.startswith("/packages/") else f"files/{self.name}{own}"


Located = tuple[str, str, str]
"""A link, resolved: its absolute URL with query and without fragment, the public path, the file name."""


class Links:
    """Resolves the links of one page.

    `page_url` is where the page was found in the end, `base` the value of its `<base href>`, if it has one.
    """

    def __init__(self, source: SourcePaths, page_url: str, base: str | None = None) -> None:
        self._source = source
        page = urlsplit(page_url)
        # Credentials for the index are its own affair: no link inherits them.
        page = page._replace(netloc=page.netloc.rpartition("@")[2], fragment="")
        self._https_only = page.scheme == "https"
        self._base = urljoin(page.geturl(), base) if base else page.geturl()
        match = _ABSOLUTE.fullmatch(self._base)
        self._root, folder = (match[1], match[2]) if match else ("", "/")
        self._folders = folder.split("/")[:-1]
        self._usable: dict[str, bool] = {}

    def locate(self, link: str) -> Located | None:
        """Where `link` leads, or None if it is no safe link to a file: another scheme, http on a page that
        came by https, credentials, or a path that is not one of plain segments once it is decoded.
        """
        if match := _PLAIN.fullmatch(link):
            origin, folder, filename = match.groups()
            if self._is_usable(origin) and (path := self._source.plain_path_of(folder, filename)) is not None:
                return link, path, filename
        match = _ABSOLUTE.fullmatch(link)
        if match is None:
            resolved = self._resolve(link)
            if resolved is not None and resolved != link and _PLAIN.fullmatch(resolved):
                return self.locate(resolved)
            match = _ABSOLUTE.fullmatch(resolved) if resolved else None
            if match is None:
                return None
        origin, own, query = match.groups()
        if not self._is_usable(origin):
            return None
        try:
            path = self._source.public_path_of(own)
        except InvalidName:
            return None
        return f"{origin}{own}{query or ''}", path, path[path.rfind("/") + 1 :]

    def locate_all(self, links: Sequence[str]) -> tuple[Sequence[str], Sequence[str]] | None:
        """The URLs and public paths of many links, as `locate` has them; None where they are not all alike and plain."""
        prefix, base = self._common(links[0])
        match = _PLAIN_BASE.fullmatch(base)
        if match is None or max(map(len, links)) > MAX_PLAIN - len(base):
            return None
        origin, folder = match.groups()
        if not self._is_usable(origin) or "//" in folder or "/." in folder:
            return None
        first, *tails = ("\n" + "\n".join(links)).split("\n" + prefix)
        if first or len(tails) != len(links):
            return None
        # The slash that joins them makes a tail's own first character count, too.
        skeleton = ("/" + "/".join(tails)).encode().translate(_SKELETON)
        if b"\n" in skeleton or b"//" in skeleton:
            return None
        urls = links if prefix == base else [base + tail for tail in tails]
        return urls, self._source.plain_paths_of(folder, tails)

    def _common(self, link: str) -> tuple[str, str]:
        """What links like `link` begin with, and that made absolute; empty where there is no such thing."""
        if match := _PLAIN_ORIGIN.match(link):
            return match[0], match[0]
        if match := _UP.match(link):
            folders = self._folders[: max(1, len(self._folders) - len(match[0]) // 3)]
            return match[0], f"{self._root}{'/'.join(folders)}/"
        return "", ""

    def _resolve(self, link: str) -> str | None:
        """`link` made absolute (RFC 3986 §5); None if it holds a character that no URL holds."""
        if match := _BELOW.fullmatch(link):
            up = len(match[1]) // 3
            folders = self._folders[: max(1, len(self._folders) - up)]
            return f"{self._root}{'/'.join(folders)}/{match[2]}"
        if not _LINK.fullmatch(link):
            return None
        if scheme := _SCHEME.match(link):
            # `urljoin` takes `https:x` and `https:///x` for relative; nobody else does.
            return scheme[0].lower() + link[scheme.end() :]
        try:
            return urljoin(self._base, link)
        except ValueError:  # a bracket that opens no IPv6 address
            return None

    def _is_usable(self, origin: str) -> bool:
        usable = self._usable.get(origin)
        if usable is None:
            usable = self._usable[origin] = self._check(origin)
        return usable

    def _check(self, origin: str) -> bool:
        if self._https_only and not origin.startswith("https://"):
            return False
        try:
            parts = urlsplit(origin)
            return parts.port is None or parts.port > 0
        except ValueError:  # a port above 65535, or brackets round what is no address
            return False
