"""The note in a store's root that says how its keys are made."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from mirror.errors import StartError

LAYOUT_FILE: Final = "layout.json"
_VERSION: Final = 1
_SHARD: Final = "xxh3_64/2x2"
"""Two folders of two hex digits each, from xxh3_64 of the project's name; see `mirror.names.shard`."""


class _Layout(msgspec.Struct, frozen=True):
    layout: int
    shard: str
    created: str = ""


def new_layout() -> bytes:
    """The body of `LAYOUT_FILE` for a store that begins now."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return msgspec.json.encode(_Layout(_VERSION, _SHARD, created)) + b"\n"


def check_layout(body: bytes, where: str) -> None:
    """Raises `StartError` unless `body` describes the layout that this mirror reads and writes.

    `where` names the store in the message.
    """
    try:
        found = msgspec.json.decode(body, type=_Layout)
    except msgspec.MsgspecError as error:
        raise StartError(
            f"{LAYOUT_FILE} of the store in {where} is damaged ({error}): bring it back from a backup, "
            "or choose another place for the store."
        ) from error
    if found.layout > _VERSION:
        raise StartError(
            f"The store in {where} has layout {found.layout}, this mirror knows layout {_VERSION}: "
            "install a newer mirror, or choose another place for the store."
        )
    if (found.layout, found.shard) != (_VERSION, _SHARD):
        raise StartError(
            f"The store in {where} has an unknown layout ({found.layout}, {found.shard!r}): "
            "choose another place for the store."
        )
