"""The stores that a command line names, opened as they are: without caches in front, and without a record of use."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mirror.adapters.directory.store import DirectoryStore
from mirror.adapters.store_layout import LAYOUT_FILE
from mirror.config import Config
from mirror.counters import Counters
from mirror.errors import ConfigError, StartError
from mirror.ports import Clock, Store
from mirror.settings.places import BucketName, KeyPrefix, Url
from mirror.spool import DiskSpools, Spools
from mirror.storages import s3_module, s3_options

CONFIGURED: Final = "store"
_DIRECTORY, _S3 = "directory:", "s3://"

RIGHT: Final = f"`{CONFIGURED}` (the one of the settings), `{_DIRECTORY}PATH` or `{_S3}BUCKET[/PREFIX]`"
"""How a store is named, fit to follow the word "give"."""


@dataclass(frozen=True, slots=True)
class Place:
    """One store: the folder it is in, or else the settings of its bucket."""

    folder: Path | None
    config: Config

    def __str__(self) -> str:
        if self.folder is not None:
            return f"{_DIRECTORY}{self.folder}"
        return f"{_S3}{self.config.s3_bucket}/{self.config.s3_prefix}".removesuffix("/")

    def is_same_as(self, other: Place) -> bool:
        """Whether both lead to one store, as far as their names tell."""
        if self.folder is None or other.folder is None:
            return self.folder is other.folder and self.config == other.config
        return self.folder.resolve() == other.folder.resolve()


def configured(config: Config) -> Place:
    """The store of the settings. Raises `ConfigError` if that is none to be looked at from outside."""
    match config.storage:
        case "directory":
            return Place(config.data_dir, config)
        case "s3":
            return Place(None, config)
        case "memory":
            raise ConfigError("storage = memory: such a store lives within its mirror; no command can reach it")


def named(text: str, config: Config, endpoint_url: str | None = None, region: str | None = None) -> Place:
    """The store that `text` names; what it does not say of a bucket is as the settings have it.

    Raises `ConfigError`.
    """
    try:
        if text == CONFIGURED:
            place = configured(config)
        elif text.startswith(_DIRECTORY) and text != _DIRECTORY:
            place = Place(Path(text.removeprefix(_DIRECTORY)).expanduser(), config)
        elif text.startswith(_S3):
            bucket, _, prefix = text.removeprefix(_S3).partition("/")
            prefix = KeyPrefix().parse(prefix) if prefix else ""
            place = Place(None, replace(config, s3_bucket=BucketName().parse(bucket), s3_prefix=prefix))
        else:
            raise ValueError("it names no store")
        if place.folder is None and endpoint_url is not None:
            place = replace(place, config=replace(place.config, s3_endpoint_url=Url().parse(endpoint_url)))
        if place.folder is None and region is not None:
            place = replace(place, config=replace(place.config, s3_region=region))
    except ValueError as error:
        raise ConfigError(f"{text}: {error}; give {RIGHT}") from error
    return place


@asynccontextmanager
async def opened(place: Place, counters: Counters, clock: Clock, *, create: bool = False) -> AsyncIterator[Store]:
    """The store, started. Without `create` it has to be there. Raises `StartError`, `ConfigError`."""
    store: Any
    if place.folder is None:
        store = s3_module("store").S3Store(s3_options(place.config), counters, clock)
    else:
        if not create and not await asyncio.to_thread((place.folder / LAYOUT_FILE).exists):
            raise StartError(f"{place.folder} holds no store of this mirror; `mirror store init` makes one.")
        store = DirectoryStore(place.folder)
    await store.start()
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def spools_for(place: Place) -> AsyncIterator[Spools]:
    """Where large objects rest on their way to that store: in its own folder, else where temporary files go."""
    with tempfile.TemporaryDirectory(prefix="mirror-") as temporary:
        folder = Path(temporary) if place.folder is None else place.folder / "spool"
        spools = DiskSpools(folder)
        try:
            await asyncio.to_thread(spools.prepare)
        except OSError as error:
            raise StartError(f"cannot write to {folder}: {error.strerror}") from error
        try:
            yield spools
        finally:
            await asyncio.to_thread(spools.close)
