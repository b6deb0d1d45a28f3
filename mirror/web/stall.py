"""Cuts off a client that has stopped reading."""

from __future__ import annotations

import asyncio
from types import TracebackType

from aiohttp.abc import AbstractStreamWriter

_LOOKS = 4
"""How often within the patience the progress is looked at; it may so last a quarter longer."""


class StallWatch:
    """Aborts `transport` once it has held bytes for `patience` seconds of which the kernel took none.

    A watch, not a timeout round each write: a slow client that reads a little now and then may take as long as it
    needs, and no write is ever cancelled half way.
    """

    def __init__(self, writer: AbstractStreamWriter, transport: asyncio.Transport, patience: float) -> None:
        self._writer, self._transport, self._interval = writer, transport, patience / _LOOKS
        self._taken = -1
        self._idle_looks = 0
        self._timer: asyncio.TimerHandle | None = None
        self.ran_out = False

    def __enter__(self) -> StallWatch:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        waiting = self._transport.get_write_buffer_size()
        taken = self._writer.output_size - waiting
        self._idle_looks = self._idle_looks + 1 if waiting and taken == self._taken else 0
        self._taken = taken
        if self._idle_looks >= _LOOKS:
            self.ran_out = True
            self._transport.abort()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)
