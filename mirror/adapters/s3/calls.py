"""One direction of the traffic with an object store: its connections, retries, circuit breaker, and alarms."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from mirror.adapters.breaker import Breaker
from mirror.adapters.s3.failures import TRANSPORT_ERRORS, S3Error, are_expired_keys, explain
from mirror.adapters.s3.options import S3Options
from mirror.counters import Counters
from mirror.errors import StoreFailure
from mirror.ports import Clock

T = TypeVar("T")
_ALARM_EVERY: Final = 60.0
"""Seconds."""

_log = structlog.get_logger(__name__)


class Calls:
    """Makes the calls of one direction, reads or writes. Raises `StoreFailure`, and nothing else.

    One time limit that runs out opens the breaker, so that a service that is dead to the world costs one wait
    a pause; refused connections and answers such as 503, which cost no time, have to go on for a while.
    """

    def __init__(
        self, direction: str, share: int, options: S3Options, counters: Counters, clock: Clock, *, queued: bool
    ) -> None:
        """`share`: connections for small bodies, and as many for large ones. `queued`: large ones wait for theirs for
        as long as it takes."""
        self._direction = direction
        self._options, self._counters, self._clock = options, counters, clock
        self._silence, self._faults = (
            Breaker(
                clock,
                threshold=threshold,
                first_pause=options.breaker_first_pause,
                longest_pause=options.breaker_longest_pause,
            )
            for threshold in (1, 5)
        )
        self._turns = {True: asyncio.Semaphore(share), False: asyncio.Semaphore(share)}
        self._waits = {True: None if queued else options.read_timeout, False: options.read_timeout}
        self._quiet_until = float("-inf")
        self.last_failure: StoreFailure | None = None
        """Why the latest call came to nothing; None after one that did not."""

    @property
    def is_open(self) -> bool:
        """Whether the service counts as down."""
        return self._silence.is_open or self._faults.is_open

    async def run(
        self,
        action: str,
        key: str,
        once: Callable[[], Awaitable[T]],
        *,
        tries: int | None = None,
        large: bool = False,
        patience: float | None = None,
    ) -> T:
        """The result of `once`, which may raise `S3Error` and `TRANSPORT_ERRORS`, repeated where that may help.

        `large`: among the calls with large bodies. `patience`: seconds that `once` may take, None for any.
        """
        await self.take(action, key, large=large)
        try:
            return await self.attempt(action, key, once, tries=tries, patience=patience)
        finally:
            self.give_back(large=large)

    async def attempt(
        self,
        action: str,
        key: str,
        once: Callable[[], Awaitable[T]],
        *,
        tries: int | None = None,
        patience: float | None = None,
    ) -> T:
        """As `run`, by a caller that has its turn already."""
        last = tries or self._options.tries
        for number in itertools.count(1):
            try:
                result = await self._once(action, key, once, patience)
                break
            except S3Error as error:
                if number == last or not error.passing or error.silent:
                    raise self.failure(action, key, error) from error
                self._counters.count("store_retries")
                _log.info("object store asked again", action=action, reason=error.why)
            # No library for this one wait: what one takes for each call is a sixth of what the whole of a read may take.
            await asyncio.sleep(self._options.retry_wait * 2 ** (number - 1) * random.uniform(1, 4))  # noqa: S311 - no secret
        self.last_failure = None
        return result

    async def _once(self, action: str, key: str, once: Callable[[], Awaitable[T]], patience: float | None) -> T:
        if left := self.refusal:
            raise StoreFailure(action, key, f"the service failed before and is left alone for {left:.1f} more seconds")
        self._counters.count("store_requests")
        self._silence.begin()
        self._faults.begin()
        try:
            async with asyncio.timeout(patience):
                result = await once()
        except (S3Error, *TRANSPORT_ERRORS) as e:
            error = e if isinstance(e, S3Error) else explain(e)
            self._judge(error)
            raise error from None  # what is beneath it names URLs, and those are signed
        except RuntimeError as e:
            if not are_expired_keys(e):
                raise
            self._judge(error := explain(e))
            raise error from None
        except BaseException:  # cancelled, or a body that failed by itself: that tells nothing of the service
            self._silence.abandoned()
            self._faults.abandoned()
            raise
        self._judge(None)
        return result

    @property
    def refusal(self) -> float:
        """Seconds for which calls are refused, because the service has failed; 0 if one may be made now."""
        return max(self._silence.refusal, self._faults.refusal)

    def stalled(self) -> None:
        """A body that was being read has fallen silent."""
        self._failed(self._silence)

    def failure(self, action: str, key: str, error: S3Error) -> StoreFailure:
        """What callers are told of `error`; refused credentials are told to the operator, once in a while."""
        failure = StoreFailure(action, key, error.why)
        self.last_failure = failure
        if error.is_refusal and self._clock.monotonic() >= self._quiet_until:
            self._quiet_until = self._clock.monotonic() + _ALARM_EVERY
            _log.error(
                "object store and credentials do not agree",
                where=self._options.where,
                action=action,
                reason=error.why,
            )
        return failure

    async def take(self, action: str, key: str, *, large: bool) -> None:
        """Waits for a connection's worth of room, to `give_back`. The wait never counts against the service."""
        if not self._turns[large].locked():
            await self._turns[large].acquire()
            return
        try:
            async with asyncio.timeout(self._waits[large]):
                await self._turns[large].acquire()
        except TimeoutError as e:
            why = f"all connections for {self._direction} that may be made to the service are in use"
            raise StoreFailure(action, key, why) from e

    def give_back(self, *, large: bool) -> None:
        self._turns[large].release()

    def _judge(self, error: S3Error | None) -> None:
        if error is None or not error.is_fault:
            self._silence.succeeded()
            self._faults.succeeded()
            return
        if error.silent or self._silence.is_open:
            self._failed(self._silence)
        self._failed(self._faults)

    def _failed(self, breaker: Breaker) -> None:
        if breaker.failed():
            self._counters.count("store_breaker_opened")
            _log.warning(
                "object store left alone",
                direction=self._direction,
                where=self._options.where,
                seconds=round(breaker.refusal, 1),
            )
