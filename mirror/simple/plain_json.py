"""Read a project page in JSON whose entries are all plain, column by column rather than entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from mirror.model import File
from mirror.simple.columns import are_digests, are_https, are_upload_times
from mirror.simple.entries import Gate
from mirror.simple.fields import MAX_SIZE, clean_provenance, clean_upload_time

_Metadata = bool | dict[str, str] | None | UnsetType


class _Entry(msgspec.Struct, rename="kebab", forbid_unknown_fields=True, gc=False):
    """A file as most indexes describe it; UNSET is what is not there, which null is not."""

    filename: str
    url: str
    hashes: dict[str, str]
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)] | UnsetType | None = UNSET
    upload_time: str | UnsetType | None = UNSET
    requires_python: str | UnsetType | None = UNSET
    core_metadata: _Metadata = UNSET
    dist_info_metadata: _Metadata = UNSET
    data_dist_info_metadata: _Metadata = UNSET
    yanked: bool | str | UnsetType | None = UNSET
    gpg_sig: bool | UnsetType | None = UNSET
    provenance: str | UnsetType | None = UNSET


class _Page(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """The keys that the specifications name; whoever takes the page apart looks at their values."""

    files: list[_Entry]
    meta: Any = UNSET
    name: Any = UNSET
    versions: Any = UNSET
    project_status: Any = UNSET
    alternate_locations: Any = UNSET


_DECODER: Final = msgspec.json.Decoder(_Page)


class _Column:
    """One field of all entries."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values
        distinct = set(map(type, values))
        # Nearly every column is of one kind, and counting costs more than making a set.
        kinds = list(map(type, values)) if len(distinct) > 1 else []
        self._counts = {kind: kinds.count(kind) if kinds else len(values) for kind in distinct}

    def strings(self) -> int:
        """How many strings of the page this column comes to: the key where it is present, and what it holds."""
        inner = sum(map(len, self.of(dict)))
        return len(self.values) - self._counts.get(UnsetType, 0) + self._counts.get(str, 0) + 2 * inner

    def of(self, kind: type) -> list[Any]:
        """The values of that kind."""
        if kind not in self._counts:
            return []
        return self.values if len(self._counts) == 1 else [value for value in self.values if type(value) is kind]

    def has(self, *kinds: type) -> bool:
        return not self._counts.keys().isdisjoint(kinds)

    def or_none(self) -> list[Any]:
        """The values, None where there is none."""
        return [None if value is UNSET else value for value in self.values] if self.has(UnsetType) else self.values


def read_plain(gate: Gate, body: bytes) -> tuple[dict[str, Any], list[File]] | None:
    """The page in `body`, as `strict_json.decode` has it but without its files, and those.

    None where anything about it is out of the ordinary, or wrong: then somebody else has to look at each entry, or to
    say what is wrong. Nothing has happened to `gate` then.
    """
    try:
        page = _DECODER.decode(body)
        if not page.files:
            return None
        columns = _columns(page.files)
        page.files = []
        keys = zip(_Page.__struct_encode_fields__, msgspec.structs.astuple(page), strict=True)
        rest = {key: value for key, value in keys if value is not UNSET}
        if not _has_strings(body, _count_strings(rest) + sum(column.strings() for column in columns)):
            return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    files = _files(gate, *columns)
    return None if files is None else (rest, files)


def _columns(entries: list[_Entry]) -> list[_Column]:
    # One by one, in the order of the fields: no loop over their names gets at them as fast.
    values: list[list[Any]] = [
        [entry.filename for entry in entries],
        [entry.url for entry in entries],
        [entry.hashes for entry in entries],
        [entry.size for entry in entries],
        [entry.upload_time for entry in entries],
        [entry.requires_python for entry in entries],
        [entry.core_metadata for entry in entries],
        [entry.dist_info_metadata for entry in entries],
        [entry.data_dist_info_metadata for entry in entries],
        [entry.yanked for entry in entries],
        [entry.gpg_sig for entry in entries],
        [entry.provenance for entry in entries],
    ]
    return list(map(_Column, values))


def _has_strings(body: bytes, held: int) -> bool:
    """Whether `body`, which is JSON, has no more strings than are held: none went under because its key came twice."""
    quotes = body.count(b'"')
    if quotes != 2 * held and b"\\\\" not in body:  # else it is hard to tell which quotation marks are escaped
        quotes -= body.count(b'\\"')
    return quotes == 2 * held


def _count_strings(value: Any) -> int:
    """Keys count, too."""
    if type(value) is dict:
        return len(value) + _count_strings(list(value.values()))
    if type(value) is list:
        kinds = list(map(type, value))
        inner = [] if set(kinds) == {str} else [item for item in value if type(item) is dict or type(item) is list]
        return kinds.count(str) + sum(map(_count_strings, inner))
    return int(type(value) is str)


def _files(
    gate: Gate,
    filename: _Column,
    url: _Column,
    hashes: _Column,
    size: _Column,
    upload_time: _Column,
    requires_python: _Column,
    core_metadata: _Column,
    dist_info_metadata: _Column,
    data_dist_info_metadata: _Column,
    yanked: _Column,
    gpg_sig: _Column,
    provenance: _Column,
) -> list[File] | None:
    """The entries of these columns, if each of them can be taken as it is."""
    metadata = _metadata(core_metadata, dist_info_metadata, data_dist_info_metadata)
    if metadata is None or not are_digests(hashes.values):
        return None
    located = gate.admit_all(url.values, filename.values)
    if located is None:
        return None
    return list(
        map(
            File,
            filename.values,
            *located,
            hashes.values,
            size.or_none(),
            _cleaned(upload_time, are_upload_times, clean_upload_time),
            [given or None for given in requires_python.values],
            metadata,
            _yanked(yanked),
            gpg_sig.or_none(),
            _cleaned(provenance, are_https, clean_provenance),
        )
    )


def _cleaned(
    column: _Column, are_clean: Callable[[list[str]], bool], clean: Callable[[object], str | None]
) -> list[str | None]:
    texts = column.of(str)
    return column.or_none() if not texts or are_clean(texts) else list(map(clean, column.values))


def _yanked(column: _Column) -> list[bool | str]:
    if not column.has(str, NoneType, UnsetType):
        return column.values
    return [True if given == "" else given or False for given in column.values]


def _metadata(core: _Column, dist: _Column, data_dist: _Column) -> list[bool | dict[str, str]] | None:
    """What each entry says of its core metadata; None if any says it in another way than the big index does."""
    column = core
    if core.has(NoneType, UnsetType):
        given = zip(core.values, dist.values, data_dist.values, strict=True)
        column = _Column([a if a is not None and a is not UNSET else c if b is UNSET else b for a, b, c in given])
    digests = column.of(dict)
    if digests and not (len(digests[0]) == 1 and "sha256" in digests[0] and are_digests(digests)):
        return None
    return [given or False for given in column.values] if column.has(NoneType, UnsetType) else column.values
