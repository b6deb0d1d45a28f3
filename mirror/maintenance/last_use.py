"""When a stored object was last read, out of the sets of keys that the replicas write for each day."""

from __future__ import annotations

import re
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Final

from mirror.errors import MirrorError

ACCESS: Final = "access/"
FOLDED: Final = "all.bin"
"""The name of a record that has taken in those of all replicas."""
MAX_RECORD: Final = 512 << 20
"""Bytes of one record: sixty-four million keys."""
DAY: Final = 86400

_KEY = re.compile(r"access/([0-9]{4}-[0-9]{2}-[0-9]{2})/[^/]+\.bin", re.ASCII)
_WIDTH: Final = 8
_SLICES: Final = 256


class DamagedRecord(MirrorError):
    """A record of use that is not what a replica wrote: what else it told is not known."""


def day_of(seconds: float) -> int:
    """The UTC day of a time, in days since the epoch."""
    return int(seconds // DAY)


def day_name(day: int) -> str:
    """`YYYY-MM-DD`, as in keys."""
    return datetime.fromtimestamp(day * DAY, UTC).date().isoformat()


def day_of_key(key: str) -> int | None:
    """The day that a record in `access/` is of; None if `key` names none."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    try:
        return (date.fromisoformat(match[1]) - date(1970, 1, 1)).days
    except ValueError:
        return None


def unpack_record(blob: bytes) -> array[int]:
    """The hashes in a record, ascending. Raises `DamagedRecord`."""
    hashes = array("Q")
    if len(blob) % _WIDTH:
        raise DamagedRecord(f"The record of use has {len(blob)} bytes, which is no whole number of keys.")
    hashes.frombytes(blob)
    if sys.byteorder == "big":
        hashes.byteswap()
    if any(hashes[i] >= hashes[i + 1] for i in range(len(hashes) - 1)):
        raise DamagedRecord("The keys in the record of use are not in ascending order.")
    return hashes


def pack_record(hashes: Iterable[int]) -> bytes:
    """The inverse of `unpack_record`; `hashes` may come in any order and repeat."""
    packed = array("Q", sorted(set(hashes)))
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


class LastUse:
    """The newest day on which each hash was seen: ten bytes of memory for each."""

    def __init__(self, days: Mapping[int, list[array[int]]]) -> None:
        """`days`: the records of each day. Takes seconds for millions of keys: call it in a thread."""
        self._hashes, self._days = array("Q"), array("l")
        step = 2**64 // _SLICES
        for number in range(_SLICES):
            # A slice of all records at a time, or one dictionary would hold all keys at once.
            newest: dict[int, int] = {}
            for day in sorted(days):
                for record in days[day]:
                    start, stop = bisect_left(record, number * step), bisect_left(record, (number + 1) * step)
                    newest.update(dict.fromkeys(record[start:stop], day))
            for key_hash in sorted(newest):
                self._hashes.append(key_hash)
                self._days.append(newest[key_hash])

    def __len__(self) -> int:
        return len(self._hashes)

    def day(self, key_hash: int) -> int:
        """0 for a key that was not seen."""
        at = bisect_left(self._hashes, key_hash)
        return self._days[at] if at < len(self._hashes) and self._hashes[at] == key_hash else 0
