"""Write the list of all projects, piece by piece, from a file of names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from mirror.simple.negotiate import Format
from mirror.simple.terms import API_VERSION

_LINE = re.compile(rb"([^\n]+)\n")
_NAME_BYTES: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-\n"
_JSON_HEAD: Final = f'{{"meta":{{"api-version":"{API_VERSION}"}},"projects":['.encode()
_HTML_HEAD: Final = (
    f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta name="pypi:repository-version" content="{API_VERSION}">\n'
    "<title>Simple index</title>\n</head>\n<body>\n"
).encode()


class ListRenderer:
    """Turns lines, one normalised name each, into the list of projects in `form`.

    The pieces may be cut anywhere. Joined, `head()`, every `feed()` and `tail()` are the page. It is CPU-bound
    and may be used from threads, one call at a time; 64 KiB take less than a millisecond.
    """

    def __init__(self, form: Format) -> None:
        self._json = form is Format.JSON
        self._rest = b""
        self._separator = b""

    def head(self) -> bytes:
        """What stands before the first name."""
        return _JSON_HEAD if self._json else _HTML_HEAD

    def feed(self, piece: bytes) -> bytes:
        """The names that end in `piece`. Raises `ValueError` if it holds anything but normalised names."""
        if piece.translate(None, _NAME_BYTES):
            raise ValueError("the stored list of projects is damaged: it holds something else than names")
        lines, newline, rest = piece.rpartition(b"\n")
        if not newline:
            self._rest += rest
            return b""
        whole = self._rest + lines
        self._rest = rest
        return self._render(whole)

    def tail(self) -> bytes:
        """The last name, if no line feed ended it, and what stands after it."""
        last, self._rest = self._render(self._rest), b""
        return last + (b"]}" if self._json else b"</body>\n</html>\n")

    def _render(self, lines: bytes) -> bytes:
        """`lines` without their last line feed."""
        if not lines:
            return b""
        if not self._json:
            return _LINE.sub(rb'<a href="\1/">\1</a><br>\n', lines + b"\n")
        opened = self._separator + b'{"name":"'
        self._separator = b","
        return opened + lines.replace(b"\n", b'"},{"name":"') + b'"}'


def render_list(pieces: Iterable[bytes], form: Format) -> Iterator[bytes]:
    """The list of projects in `form`, from the pieces of a file of names. Raises as `ListRenderer.feed`."""
    renderer = ListRenderer(form)
    yield renderer.head()
    for piece in pieces:
        if rendered := renderer.feed(piece):
            yield rendered
    yield renderer.tail()
