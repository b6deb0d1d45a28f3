"""Check the same field of many file entries at once, at a fraction of what one call an entry would cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import repeat
from string import ascii_letters, digits
from typing import Final

import msgspec

from mirror.simple.fields import HEX_LENGTHS

# Everything here is stricter than its counterpart for one entry, never laxer: no means "look at each of them".

_MOMENT: Final = (digits + "-:T.Z").encode()
_MOMENT_LENGTHS: Final = frozenset({20, *range(22, 28)})
_HTTPS: Final = "https://"
_HTTPS_FIRST: Final = frozenset(ascii_letters + digits + "[")
_HTTPS_REST: Final = (ascii_letters + digits + "._~:/?#[]!$&'()*+,;=%-").encode()


def consist_of(texts: Iterable[str], allowed: bytes) -> bool:
    """Whether no text holds any other character than those `allowed`, which are ASCII."""
    return not "".join(texts).encode().translate(None, allowed)


def are_digests(given: Sequence[dict[str, str]]) -> bool:
    """Whether all name the same known algorithms, each with so many lower-case hex digits: `clean_hashes` would keep
    them as they are."""
    algorithms = tuple(given[0]) if given else ()
    if not algorithms or set(map(len, given)) != {len(algorithms)}:
        return False
    try:
        return all(_are_hex([hashes[a] for hashes in given], HEX_LENGTHS[a]) for a in algorithms)
    except KeyError:
        return False


def _are_hex(values: list[str], length: int) -> bool:
    joined = "".join(values)
    try:
        # Comes out again only if it is lower-case ASCII without blanks.
        return set(map(len, values)) == {length} and bytes.fromhex(joined).hex() == joined
    except ValueError:
        return False


def are_upload_times(given: Sequence[str]) -> bool:
    """Whether `clean_upload_time` would keep all of them."""
    if not (set(map(len, given)) <= _MOMENT_LENGTHS and consist_of(given, _MOMENT)):
        return False
    if not all(map(str.endswith, given, repeat("Z"))):
        return False
    try:
        # What it takes of these characters, with a Z at the end, is RFC 3339's one form, and a real moment.
        msgspec.convert(given, list[datetime])
    except msgspec.ValidationError:
        return False
    return True


def are_https(given: Sequence[str]) -> bool:
    """Whether `clean_provenance` would keep all of them."""
    at = len(_HTTPS)
    return (
        all(map(str.startswith, given, repeat(_HTTPS)))
        and {url[at : at + 1] for url in given} <= _HTTPS_FIRST
        and consist_of(given, _HTTPS_REST)
    )
