"""Whose packages a store holds: one name, one index, so that no index answers for another."""

from __future__ import annotations

import msgspec
import structlog

from mirror.errors import StartError, StoreFailure
from mirror.names import origin_key
from mirror.ports import Store

LIMIT = 64 * 1024

log = structlog.get_logger()


class _Origin(msgspec.Struct):
    url: str
    """The simple index, without credentials."""


async def claim(store: Store, source: str, url: str) -> None:
    """Records that what is kept under the name `source` comes from the index at `url`.

    Raises `StartError` if it comes from another one: its pages would be served as this one's, and its digests
    held against this one's files. A store that cannot be read or written now is no reason not to start.
    """
    key = origin_key(source)
    try:
        blob = await store.read(key, LIMIT)
        if blob is None:
            await store.put(key, msgspec.json.encode(_Origin(url)))
            return
    except StoreFailure as e:
        log.warning("upstream of the store not confirmed", upstream=source, reason=str(e))
        return
    try:
        held = msgspec.json.decode(blob, type=_Origin)
    except msgspec.DecodeError as e:
        raise StartError(f"the store's record of upstream {source} ({key}) cannot be read") from e
    if held.url != url:
        raise StartError(
            f"the store holds under the name {source} what came from {held.url}; give {url} a name of its own with "
            f"upstream-name, or another data-dir; if it is the same index at a new address, delete {key} from the store"
        )
