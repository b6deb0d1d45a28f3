"""Keys that the garbage collection never deletes: `pins/<name>.json`, each a JSON array of keys."""

from __future__ import annotations

from typing import Final

import msgspec

from mirror.errors import MirrorError
from mirror.ports import Store
from mirror.stores.keys import access_hash

PINS: Final = "pins/"
MAX_PIN: Final = 64 << 20
"""Bytes of one object of pins: half a million keys."""


class DamagedPin(MirrorError):
    """An object of pins that cannot be read; what it kept is not known, so nothing may be deleted."""


async def read_pin(store: Store, key: str) -> list[str]:
    """The keys that the object `key` pins; none if it has vanished. Raises `DamagedPin`, `StoreFailure`."""
    blob = await store.read(key, MAX_PIN)
    if blob is None:
        return []
    try:
        return msgspec.json.decode(blob, type=list[str])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedPin(f"{key} is no JSON array of keys: {error}. Repair or delete it.") from error


async def pinned(store: Store) -> frozenset[int]:
    """The hashes (`access_hash`) of all keys that are pinned. Raises `DamagedPin`, `StoreFailure`."""
    hashes: set[int] = set()
    async for found in store.list(PINS):
        hashes.update(map(access_hash, await read_pin(store, found.key)))
    return frozenset(hashes)
