"""Which store, caches and spools the settings mean, joined."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import structlog
import xxhash

from mirror.adapters.caches.archives import DiskArchiveCache
from mirror.adapters.directory.store import DirectoryStore
from mirror.adapters.memory_store import MemoryStore
from mirror.config import Config
from mirror.counters import Counters
from mirror.errors import StartError
from mirror.flight import Tasks
from mirror.ports import Clock, Leases, Presigner, RecordCache, Sink, Store
from mirror.spool import DiskSpools, FallbackSpools, MemorySpools, Spools
from mirror.stores.access import AccessLog, RecordingPresigner, RecordingStore
from mirror.stores.cached import CachedStore
from mirror.stores.leases import Leases as SharedLeases

if TYPE_CHECKING:
    from mirror.adapters.s3.options import S3Options
    from mirror.adapters.s3.store import S3Store

_OWED_PART: Final = 4
"""What the store still lacks may fill one part in so many of the archive cache."""
_LAST_RECORD: Final = 5.0
"""Seconds that the last record of use may take: a store that does not answer shall not hold up the end."""

log = structlog.get_logger()


@dataclass(slots=True)
class Storage:
    """Where a mirror keeps things."""

    store: Store
    spools: Spools
    presigner: Presigner | None = None
    sink: Sink | None = None
    leases: Leases | None = None
    facts: Callable[[], Mapping[str, Any]] = dict
    """What the store was seen to be capable of, where that differs from store to store."""
    stops: list[Callable[[], None]] = field(default_factory=list)

    def stop(self) -> None:
        """Begins no more work behind the scenes; to be called before `Tasks.drain`."""
        for stop in self.stops:
            stop()


@asynccontextmanager
async def storage(config: Config, clock: Clock, tasks: Tasks, counters: Counters) -> AsyncIterator[Storage]:
    """What a running mirror needs, by `config`. Raises `StartError`. `stop` it and drain `tasks` before the end."""
    async with AsyncExitStack() as stack:
        if config.storage == "memory":
            for_spools = config.memory_limit // 4
            yield Storage(MemoryStore(config.memory_limit - for_spools), MemorySpools(for_spools))
            return
        replica = _replica_name()
        truth = _store(config, clock, counters)
        stack.push_async_callback(truth.aclose)
        await truth.start()
        if isinstance(truth, DirectoryStore):
            made = await _beside_directory(truth, config, counters, stack)
        else:
            made = await _before_s3(truth, config, clock, tasks, counters, replica, stack)
        access = AccessLog(made.store, tasks, clock, counters, replica)
        made.store = RecordingStore(made.store, access)
        if made.presigner is not None:
            made.presigner = RecordingPresigner(made.presigner, access)
        made.stops.append(access.stop)
        stack.push_async_callback(_flush_last, access, counters)
        access.start()
        yield made


async def _flush_last(access: AccessLog, counters: Counters) -> None:
    try:
        async with asyncio.timeout(_LAST_RECORD):
            await access.flush()
    except TimeoutError:
        counters.count("access_failures")
        log.error("use not recorded", reason="the store has not answered before the end")


def _store(config: Config, clock: Clock, counters: Counters) -> DirectoryStore | S3Store:
    match config.storage:
        case "directory":
            return DirectoryStore(config.data_dir)
        case _:
            made: S3Store = s3_module("store").S3Store(s3_options(config), counters, clock)
            return made


async def _beside_directory(
    store: DirectoryStore, config: Config, counters: Counters, stack: AsyncExitStack
) -> Storage:
    folder = config.data_dir / "spool"
    spools = DiskSpools(folder)
    stack.push_async_callback(_put_away, spools)
    try:
        await asyncio.to_thread(spools.prepare)
    except OSError as e:
        raise StartError(f"cannot write to {folder}: {e.strerror}") from e
    return Storage(store, FallbackSpools(spools, MemorySpools(config.memory_limit // 4), counters))


async def _before_s3(
    remote: S3Store,
    config: Config,
    clock: Clock,
    tasks: Tasks,
    counters: Counters,
    replica: str,
    stack: AsyncExitStack,
) -> Storage:
    """The bucket with what stands before it; without cache folders nothing here touches a disk."""
    records = await _record_cache(config, clock, counters, stack)
    archives, spools = await _archive_cache(config, clock, counters, stack)
    cached = CachedStore(
        remote,
        records,
        archives,
        tasks,
        counters,
        clock,
        lifetime=config.page_ttl,
        owed_limit=config.dist_cache_size // _OWED_PART,
        refusal=remote.write_refusal,
    )
    await cached.start()
    leases = SharedLeases(remote, tasks, clock, counters, replica, config.cluster_wait, stored=cached.tried)
    leases.start()
    return Storage(
        cached,
        spools,
        presigner=remote if config.redirect_networks else None,
        sink=cached,
        leases=leases,
        facts=remote.capabilities,
        stops=[cached.stop, leases.stop],
    )


def _of_bucket(folder: Path, config: Config) -> Path:
    """The part of a cache folder for this bucket: what one bucket holds or lacks says nothing of another."""
    named = config.s3_endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    place = f"{named or ''} {config.s3_bucket} {config.s3_prefix}"
    return folder / f"{config.s3_bucket}-{xxhash.xxh3_64_hexdigest(place.encode())}"


async def _record_cache(config: Config, clock: Clock, counters: Counters, stack: AsyncExitStack) -> RecordCache | None:
    if config.metadata_cache_dir is None:
        return None
    module = _optional("mirror.adapters.caches.records", "cache", "metadata-cache-dir")
    cache = module.DiskRecordCache(
        _of_bucket(config.metadata_cache_dir, config),
        size=config.metadata_cache_size,
        free_space=config.cache_free_space,
        counters=counters,
        clock=clock,
    )
    stack.push_async_callback(cache.aclose)
    await cache.start()
    made: RecordCache = cache
    return made


async def _archive_cache(
    config: Config, clock: Clock, counters: Counters, stack: AsyncExitStack
) -> tuple[DiskArchiveCache | None, Spools]:
    in_memory = MemorySpools(config.memory_limit // 4)
    if config.dist_cache_dir is None:
        return None, in_memory
    folder = _of_bucket(config.dist_cache_dir, config)
    cache = DiskArchiveCache(
        folder, size=config.dist_cache_size, free_space=config.cache_free_space, counters=counters, clock=clock
    )
    stack.push_async_callback(cache.aclose)
    await cache.start()
    return cache, FallbackSpools(await _cache_spools(folder / "spool", config, counters, stack), in_memory, counters)


async def _cache_spools(folder: Path, config: Config, counters: Counters, stack: AsyncExitStack) -> DiskSpools:
    spools = DiskSpools(folder, leave=config.cache_free_space)
    stack.push_async_callback(_put_away, spools)
    try:
        await asyncio.to_thread(spools.prepare)
    except OSError as e:  # a cache is no reason not to start; each download tries the folder again
        counters.count("cache_failures")
        log.warning("downloads cannot be spooled to disk", reason=e.strerror)
    return spools


async def _put_away(spools: DiskSpools) -> None:
    """A disk that cannot be written any more is no reason to end in error; the next start sweeps what is left."""
    try:
        await asyncio.to_thread(spools.close)
    except OSError as e:
        log.warning("spool folder left behind", reason=e.strerror or str(e))


def s3_options(config: Config) -> S3Options:
    """What the store in a bucket is made with. Raises `StartError` without the packages for it."""
    options = s3_module("options").S3Options
    values = {each.name: getattr(config, f"s3_{each.name}", None) for each in fields(options)}
    made: S3Options = options(**{name: value for name, value in values.items() if value is not None})
    return made


def s3_module(name: str) -> ModuleType:
    """A module of the S3 adapter. Raises `StartError` without the packages for it."""
    return _optional(f"mirror.adapters.s3.{name}", "s3", "storage = s3")


def _replica_name() -> str:
    """A name that no other process has, fit for a key, by which an operator can tell the host."""
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()).strip("-")[:60] or "host"
    return f"{host}-{secrets.token_hex(4)}"


def _optional(module: str, extra: str, setting: str) -> ModuleType:
    """A module that not every mirror needs: its libraries are large, or come with a warning (docs/decisions)."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise StartError(f"{setting} needs the package {e.name}: install it with pip install 'mirror[{extra}]'.") from e
