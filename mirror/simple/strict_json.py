"""Decode JSON that a stranger sent: duplicate keys, NaN and deep nesting are refused, lone surrogates mended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec

MAX_DEPTH = 64

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
# Every key is followed by a quotation mark, white space and a colon. Counting these pairs finds each key, and
# perhaps a few places inside strings, but never too few.
_KEY_ENDS = (b'":', b" :", b"\n:", b"\t:", b"\r:")


class BadJson(ValueError):
    """The text is not JSON, or not JSON with one meaning; the message is a plain reason."""


def decode(body: bytes) -> Any:
    """The value in `body`, UTF-8 with or without a byte order mark (RFC 8259).

    A lone surrogate, which JSON can escape and UTF-8 cannot carry, becomes U+FFFD. Raises `BadJson`.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    try:
        try:
            value = msgspec.json.decode(body)
        except msgspec.DecodeError:
            # The decoder refuses lone surrogates and has no word of its own for that; a second try tells.
            body, mended = _ESCAPE.subn(_mend, body)
            if not mended:
                raise
            value = msgspec.json.decode(body)
        # Three tests for duplicate keys, each dearer and more exact than the one before: most pages come out again
        # as they went in but for white space; then as many keys must be held as the text may have; then each
        # object is looked at.
        if not _comes_out_again(value, body) and _count_keys(value) != sum(map(body.count, _KEY_ENDS)):
            json.loads(body, object_pairs_hook=_each_key_once)
    except RecursionError:
        raise BadJson("it is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise BadJson(str(error).removeprefix("JSON is malformed: ")) from None
    except UnicodeDecodeError:
        raise BadJson("it is not UTF-8") from None
    return value


def _comes_out_again(value: Any, body: bytes) -> bool:
    encoded = msgspec.json.encode(value)
    return encoded == body or encoded == msgspec.json.format(body, indent=-1)


def _mend(match: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if match[1] else match[0]


def is_shallow(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether `value` is nested at most `depth` deep, so that whoever passes it on will not stumble over it."""
    if type(value) is dict:
        return depth > 0 and all(is_shallow(item, depth - 1) for item in value.values())
    if type(value) is list:
        return depth > 0 and all(is_shallow(item, depth - 1) for item in value)
    return True


def _count_keys(value: Any) -> int:
    inner: Iterable[Any] = ()
    keys = 0
    if type(value) is dict:
        inner, keys = value.values(), len(value)
    elif type(value) is list:
        inner = value
    for item in inner:
        kind = type(item)
        if kind is dict or kind is list:
            keys += _count_keys(item)
    return keys


def _each_key_once(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise BadJson("an object in it has the same key twice")
