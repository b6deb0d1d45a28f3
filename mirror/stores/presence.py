"""Whether a store has an object, by the one call that reads it."""

from __future__ import annotations

from mirror.errors import UnsatisfiableSpan
from mirror.model import LocalFile, Span
from mirror.ports import Store


async def holds(store: Store, key: str) -> bool:
    """Raises `StoreFailure`."""
    try:
        content = await store.open(key, Span(0, 0))
    except UnsatisfiableSpan:
        return True  # it is empty
    if content is None:
        return False
    if isinstance(content, LocalFile):
        content.close()
    else:
        await content.aclose()
    return True
