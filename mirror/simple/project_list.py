"""Read an upstream's list of all projects as it arrives, batch by batch, without ever holding it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn, Protocol

import ijson
from selectolax.lexbor import LexborHTMLParser

from mirror.errors import InvalidName, UpstreamMisbehaved
from mirror.names import ProjectName, project_name
from mirror.simple.fields import is_api_1
from mirror.simple.index_page import is_flat, metas, titled_as_index
from mirror.simple.strict_json import MAX_DEPTH
from mirror.simple.terms import HTML_TYPE, JSON_TYPE

_BOM = b"\xef\xbb\xbf"
_SLICE = 64 * 1024
_LONGEST_ANCHOR = 64 * 1024


class _Reader(Protocol):
    """Takes the body piece by piece. CPU-bound, so callable from a thread; one call at a time."""

    def feed(self, piece: bytes) -> list[ProjectName]: ...

    def close(self) -> list[ProjectName]: ...


async def parse_names(
    content_type: str, pieces: AsyncIterator[bytes], upstream: str = "index"
) -> AsyncIterator[list[ProjectName]]:
    """The projects that the list in `pieces` names, normalised, in its order, repeats included.

    Invalid names are dropped. Raises `UpstreamMisbehaved` where the body is no list of projects; what was
    yielded before that is to be thrown away.
    """
    reader: _Reader | None = None
    head = b""
    async for piece in pieces:
        if reader is None:
            head += piece
            start = head.removeprefix(_BOM).lstrip()
            if not start or _BOM.startswith(head):
                continue
            is_json = content_type in (JSON_TYPE, "application/json") or start.startswith(b"{")
            reader = _JsonNames(upstream) if is_json else _HtmlNames(upstream, content_type)
            piece = start
        for at in range(0, len(piece), _SLICE):
            if names := await asyncio.to_thread(reader.feed, piece[at : at + _SLICE]):
                yield names
    if reader is None:
        raise UpstreamMisbehaved(upstream, "the list of projects is empty")
    if names := await asyncio.to_thread(reader.close):
        yield names


class _JsonNames:
    """Reads plain events: ijson's own paths grow with the nesting, and a bomb of brackets would fill memory."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._events: list[tuple[str, Any]] = ijson.sendable_list()
        self._parser = ijson.basic_parse_coro(self._events)
        self._depth = 0
        self._section = self._key = ""
        self._in_projects = self._has_projects = self._has_version = False

    def feed(self, piece: bytes) -> list[ProjectName]:
        try:
            self._parser.send(piece)
        except ijson.JSONError:
            self._refuse("is no proper JSON")
        return self._take()

    def close(self) -> list[ProjectName]:
        try:
            self._parser.close()
        except ijson.JSONError:
            self._refuse("is JSON that breaks off")
        names = self._take()
        if not (self._has_projects and self._has_version):
            self._refuse("is JSON, but no list of projects")
        return names

    def _take(self) -> list[ProjectName]:
        names: list[ProjectName] = []
        for event, value in self._events:
            match event:
                case "map_key":
                    self._key = value
                    if self._depth == 1:
                        self._section = value
                case "start_map" | "start_array":
                    self._depth += 1
                    if self._depth > MAX_DEPTH:
                        self._refuse("is nested too deeply")
                    if self._depth == 2 and event == "start_array" and self._section == "projects":
                        self._in_projects = self._has_projects = True
                case "end_map" | "end_array":
                    self._depth -= 1
                    self._in_projects = self._in_projects and self._depth > 1
                case "string" if self._in_projects and self._depth == 3 and self._key == "name":
                    if name := _valid(value):
                        names.append(name)
                case "string" if self._depth == 2 and self._section == "meta" and self._key == "api-version":
                    if not is_api_1(value):
                        self._refuse("has an API version that is not 1.x")
                    self._has_version = True
        del self._events[:]
        return names

    def _refuse(self, why: str) -> NoReturn:
        raise UpstreamMisbehaved(self._upstream, f"the list of projects {why}") from None


class _HtmlNames:
    def __init__(self, upstream: str, content_type: str) -> None:
        self._upstream = upstream
        self._rest = b""
        self._proven = content_type == HTML_TYPE
        self._first = True

    def feed(self, piece: bytes) -> list[ProjectName]:
        text = self._rest + piece
        cut = max(text.rfind(b"</a>"), text.rfind(b"</A>"))
        if cut < 0:
            self._rest = text
            if len(text) > _LONGEST_ANCHOR + _SLICE:
                self._refuse()
            return []
        self._rest = text[cut + 4 :]
        return self._read(text[: cut + 4])

    def close(self) -> list[ProjectName]:
        names = self._read(self._rest) if self._first else []
        self._rest = b""
        return names

    def _read(self, part: bytes) -> list[ProjectName]:
        if not is_flat(part):
            self._refuse()
        parser = LexborHTMLParser(part)
        names: list[ProjectName] = []
        odd = False
        for node in parser.tags("a"):
            href = (node.attributes.get("href") or "").partition("#")[0].partition("?")[0].strip()
            target = _valid(href.rstrip("/").rpartition("/")[2])
            text = _valid(node.text().strip())
            if name := text or target:
                names.append(name)
                odd = odd or text != target
        if self._first:
            self._first = False
            self._check_first(parser, names, odd)
        return names

    def _check_first(self, parser: LexborHTMLParser, names: list[ProjectName], odd: bool) -> None:
        """Refuses a portal's page: its links lead elsewhere than their texts say, or it wants to be filled in."""
        if self._proven or "pypi:repository-version" in metas(parser) or titled_as_index(parser):
            return
        if odd or not names or parser.tags("form") or parser.tags("input"):
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise UpstreamMisbehaved(self._upstream, "the list of projects is HTML, but no index page")


def _valid(raw: str) -> ProjectName | None:
    try:
        return project_name(raw)
    except InvalidName:
        return None
