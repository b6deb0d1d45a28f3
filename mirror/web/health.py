"""Tells an orchestrator whether this process lives, and whether it should be sent requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from mirror.errors import StoreFailure
from mirror.ports import Clock

KEPT: Final = 3.0
"""Seconds for which one check of the store answers every probe."""

PATIENCE: Final = 5.0
"""Seconds after which a check of the store that does not end has failed."""


class Health:
    """Answers the probes.

    `check_store` raises `StoreFailure` where the store is unusable; `upstream_states` says of each upstream, by
    name, what was last seen of it, and is told but never decides: a mirror without upstream still serves what it
    holds. While `draining`, the answer is 503, so that requests go elsewhere before the listener closes.
    """

    def __init__(
        self,
        clock: Clock,
        check_store: Callable[[], Awaitable[None]],
        upstream_states: Callable[[], Mapping[str, str]],
        draining: Callable[[], bool],
        store_facts: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """`store_facts`: what the store was seen to be capable of, if that differs from store to store."""
        self._clock, self._check_store, self._draining = clock, check_store, draining
        self._upstream_states, self._store_facts = upstream_states, store_facts
        self._checked_at: float | None = None
        self._trouble: str | None = None
        self._checking = asyncio.Lock()

    def live(self) -> web.Response:
        """200 as long as this process can answer at all; asks nobody."""
        return _json(HTTPStatus.OK, {"status": "alive"})

    async def ready(self) -> web.Response:
        """200, or 503 with the reason."""
        if self._draining():
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "draining"})
        trouble = await self._store_trouble()
        told: dict[str, Any] = {
            "status": "unready" if trouble else "ready",
            "store": trouble or "usable",
            "upstreams": dict(self._upstream_states()),
        }
        if facts := self._store_facts():
            told["store_can"] = dict(facts)
        return _json(HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK, told)

    async def _store_trouble(self) -> str | None:
        async with self._checking:
            now = self._clock.monotonic()
            if self._checked_at is None or now - self._checked_at >= KEPT:
                self._trouble = await self._check()
                self._checked_at = now
            return self._trouble

    async def _check(self) -> str | None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._check_store()
        except StoreFailure as error:
            return str(error)
        except TimeoutError:
            return f"The store did not answer within {PATIENCE:.0f} seconds."
        return None


def _json(status: HTTPStatus, facts: dict[str, Any]) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(facts) + b"\n",
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )
