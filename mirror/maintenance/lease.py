"""The right to be the only one who clears a store: a small object with an end, renewed while the work goes on."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from typing import Final

import msgspec
import structlog

from mirror.errors import MirrorError
from mirror.model import Blob
from mirror.ports import Clock, Store

KEY: Final = "leases/gc.json"
DURATION: Final = 600.0
"""Seconds for which the lease is held unless it is renewed; after a crash nobody clears the store for so long."""
_RENEWAL: Final = DURATION / 4
_MAX_BODY: Final = 64 * 1024

log = structlog.get_logger()


class Refused(MirrorError):
    """The garbage collection does not run, or not any further; nothing that was to be kept is lost."""


class _Lease(msgspec.Struct, frozen=True):
    holder: str
    until: float


class Lease:
    """One garbage collection's lease, as an asynchronous context manager; entering it raises `Refused` if another runs.

    On a store that is not `exact` two runs that begin in the same instant may both get it; they would delete the same.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._body = b""
        self._renewed_at = 0.0
        self._renewing = asyncio.Lock()

    async def __aenter__(self) -> Lease:
        body = self._made()
        if not await self._store.create(KEY, body):
            held = await self._store.reread(KEY, _MAX_BODY, "")
            if isinstance(held, Blob):
                until, holder = _read(held.body)
                if until > self._clock.now():
                    left = max(1, round(until - self._clock.now()))
                    raise Refused(
                        f"Another garbage collection is under way ({holder}). If it was killed, the next can start "
                        f"in {left} seconds."
                    )
                log.warning("lease of a dead garbage collection taken over", holder=holder)
                taken = await self._store.replace(KEY, body, held.version)
            else:
                taken = await self._store.create(KEY, body)
            if not taken:
                raise Refused("Another garbage collection has just started.")
        self._body, self._renewed_at = body, self._clock.now()
        return self

    async def __aexit__(self, *_: object) -> None:
        held = await self._store.reread(KEY, _MAX_BODY, "")
        if isinstance(held, Blob) and held.body == self._body:
            await self._store.delete(KEY)

    async def keep(self) -> None:
        """Renews the lease if that is due; called before each step. Raises `Refused` if it has been lost."""
        if self._clock.now() < self._renewed_at + _RENEWAL:
            return
        async with self._renewing:
            if self._clock.now() >= self._renewed_at + _RENEWAL:
                await self._renew()

    async def _renew(self) -> None:
        held = await self._store.reread(KEY, _MAX_BODY, "")
        body = self._made()
        ours = isinstance(held, Blob) and held.body == self._body
        if not (ours and isinstance(held, Blob) and await self._store.replace(KEY, body, held.version)):
            raise Refused("This garbage collection was too slow, and another one has taken over.")
        self._body, self._renewed_at = body, self._clock.now()

    def _made(self) -> bytes:
        return msgspec.json.encode(_Lease(self._holder, self._clock.now() + DURATION))


def _read(body: bytes) -> tuple[float, str]:
    try:
        lease = msgspec.json.decode(body, type=_Lease)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0.0, "unreadable"  # nobody can renew it, so nobody holds it
    return lease.until, lease.holder
