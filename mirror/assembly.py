"""The composition root: settings in, a running mirror out; the only place that names adapters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web

from mirror.adapters.http.options import UpstreamOptions
from mirror.adapters.http.upstream import HttpUpstream
from mirror.adapters.system_clock import SystemClock
from mirror.config import Config
from mirror.counters import Counters
from mirror.flight import Tasks
from mirror.freshness import Lifetime
from mirror.ports import Clock, Store
from mirror.repositories.cached import CachedRepository, Rules
from mirror.repositories.origin import claim
from mirror.storages import storage
from mirror.web.app import build_app
from mirror.web.server import Stop, listening
from mirror.web.services import Services

GRACE: Final = 1.5
"""Read timeouts for which an answer may be slower than upstream-min-rate."""

THREADS: Final = 32
"""For hashing, parsing, compressing and sending; the store and the spool have their own."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror without its listeners: what a program that scripts it works with."""

    repository: CachedRepository
    counters: Counters
    tasks: Tasks
    store: Store
    upstream: HttpUpstream
    clock: Clock
    store_facts: Callable[[], Mapping[str, Any]]
    """What the store was seen to be capable of."""


@asynccontextmanager
async def running(config: Config, clock: Clock | None = None) -> AsyncIterator[Mirror]:
    """A mirror by `config`; at the end its background work is finished or dropped whole. Raises `StartError`.

    `clock`: another one than the system's, for whoever wants to move it.
    """
    counters, clock = Counters(), clock or SystemClock()
    tasks = Tasks(counters)
    async with AsyncExitStack() as stack:
        kept = await stack.enter_async_context(storage(config, clock, tasks, counters))
        if not config.offline:
            await claim(kept.store, config.upstream_name, config.upstream_url)
        upstream = HttpUpstream(_upstream_options(config), counters, clock)
        await upstream.start()
        stack.push_async_callback(upstream.aclose)
        repository = CachedRepository(
            upstream,
            kept.store,
            kept.spools,
            clock,
            tasks,
            counters,
            _rules(config),
            presigner=kept.presigner,
            sink=kept.sink,
            leases=kept.leases,
        )
        stack.callback(repository.close)
        try:
            yield Mirror(repository, counters, tasks, kept.store, upstream, clock, kept.facts)
        finally:
            kept.stop()
            dropped = await tasks.drain(config.drain_timeout)
            if dropped:
                log.warning("background work dropped", tasks=dropped)


def _upstream_options(config: Config) -> UpstreamOptions:
    return UpstreamOptions(
        url=config.upstream_url,
        name=config.upstream_name,
        username=config.upstream_username,
        password=config.upstream_password,
        ca_bundle=config.upstream_ca_bundle,
        file_hosts=config.upstream_file_hosts,
        connect_timeout=config.upstream_connect_timeout,
        read_timeout=config.upstream_read_timeout,
        min_rate=config.upstream_min_rate,
        grace=GRACE * config.upstream_read_timeout,
        max_connections=config.upstream_max_connections,
        retries=config.upstream_retries,
    )


def _rules(config: Config) -> Rules:
    return Rules(
        pages=Lifetime(config.page_ttl, config.page_stale, config.page_max_stale),
        lists=Lifetime(config.list_ttl, config.list_ttl),
        missing_ttl=config.missing_ttl,
        offline=config.offline,
        page_memory=config.page_cache // 2,
        keep_unverified=config.keep_unverified,
        finish_abandoned=config.finish_abandoned,
        derive_metadata=config.derive_metadata,
        pass_through=config.upstream_max_connections * 3 // 8,  # half of those that are for files
    )


def application(mirror: Mirror, config: Config, *, draining: Callable[[], bool] = lambda: False) -> web.Application:
    """What answers clients over HTTP; `draining` says whether the process has been told to end."""
    services = Services(
        repository=mirror.repository,
        counters=mirror.counters,
        clock=mirror.clock,
        tasks=mirror.tasks,
        instance=mirror.upstream.instance,
        check_store=mirror.store.check,
        upstream_states=lambda: {mirror.upstream.name: mirror.upstream.state()},
        store_facts=mirror.store_facts,
        draining=draining,
        public_url=config.public_url,
        page_memory=config.page_cache // 2,
        redirect_networks=config.redirect_networks,
    )
    return build_app(services)


async def _serve(config: Config, announce: Callable[[list[str]], None]) -> None:
    started = time.monotonic()
    # The default pool has a handful of threads, all of which a disk that hangs could hold.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="worker"))
    stop = Stop()
    stop.on_signals()
    async with running(config) as mirror:
        app = application(mirror, config, draining=lambda: stop.asked)
        async with listening(app, config.listen, config.drain_timeout) as addresses:
            log.info("listening", addresses=addresses, seconds=round(time.monotonic() - started, 3))
            announce(addresses)
            await stop.wait()
            # /readyz says 503 from here on, and whoever has not heard of it yet is still served.
            await asyncio.sleep(config.drain_delay)


def serve(config: Config, announce: Callable[[list[str]], None]) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code. Raises `StartError`.

    `announce` is told the addresses as soon as the mirror listens on them.
    """
    asyncio.run(_serve(config, announce))
    return 0
