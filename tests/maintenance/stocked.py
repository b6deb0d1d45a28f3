"""Stores with projects in them, made without a mirror, and the damage that is done to them."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from mirror.adapters.directory.store import DirectoryStore
from mirror.counters import Counters
from mirror.flight import Tasks
from mirror.model import NO_VALIDATOR, Learned, PageDocument
from mirror.names import archive_key, origin_key, page_key, project_name
from mirror.ports import Store
from mirror.repositories.envelope import pack
from mirror.testing import SIMPLE_JSON

SOURCE = "pypi"
INDEX = "https://index.example.com/simple/"


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def bytes_of(name: str, size: int = 2000) -> bytes:
    """The bytes of the archive `name`; others for every name."""
    return random.Random(name).randbytes(size)


def metadata_of(name: str) -> bytes:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n".encode()


def document(
    project: str,
    archives: Mapping[str, bytes],
    *,
    withdrawn: Mapping[str, bytes] | None = None,
    learned: Mapping[str, Learned] | None = None,
    **facts: Any,
) -> PageDocument:
    """The page of a project; archives whose name ends in `.whl` have core metadata."""
    files = [
        {
            "filename": name,
            "url": f"https://index.example.com/packages/{name}",
            "hashes": {"sha256": sha256(body)},
            "size": len(body),
        }
        | (
            {"core-metadata": {"sha256": sha256(metadata_of(name))}}
            if name.endswith(".whl") and name not in (learned or {})
            else {}
        )
        for name, body in archives.items()
    ]
    body = msgspec.json.encode({"meta": {"api-version": "1.1"}, "name": project, "versions": [], "files": files})
    return PageDocument(
        body=body,
        content_type=SIMPLE_JSON,
        url=f"{INDEX}{project}/",
        fetched_at=facts.pop("fetched_at", 1.7e9),
        validator=NO_VALIDATOR,
        withdrawn={f"packages/{name}": {"sha256": sha256(body)} for name, body in (withdrawn or {}).items()},
        learned=dict(learned or {}),
        **facts,
    )


def names_of(project: str, count: int = 2) -> list[str]:
    stem = project.replace("-", "_")
    return [f"{stem}-{n}.0-py3-none-any.whl" for n in range(1, count)] + [f"{project}-0.1.tar.gz"]


async def stock(store: Store, projects: Iterable[str], *, count: int = 2, source: str = SOURCE) -> list[str]:
    """Puts projects with `count` archives each, wheels with their metadata, and returns all keys."""
    keys = [origin_key(source)]
    await store.put(keys[0], msgspec.json.encode({"url": INDEX}))
    for project in projects:
        name = project_name(project)
        archives = {archive: bytes_of(archive) for archive in names_of(project, count)}
        for archive, body in archives.items():
            keys.append(archive_key(source, name, archive))
            await store.put(keys[-1], body)
            if archive.endswith(".whl"):
                keys.append(archive_key(source, name, archive, ".metadata"))
                await store.put(keys[-1], metadata_of(archive))
        keys.append(page_key(source, name))
        await store.put(keys[-1], pack(document(project, archives)))
    return keys


@asynccontextmanager
async def directory(root: Path) -> AsyncIterator[DirectoryStore]:
    store = DirectoryStore(root)
    await store.start()
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def some_tasks() -> AsyncIterator[Tasks]:
    """Tasks of which none may be left over."""
    tasks = Tasks(Counters())
    yield tasks
    assert len(tasks) == 0


def flip(path: Path, chance: random.Random) -> None:
    """Flips one random bit of a file, in place, as a disk does."""
    body = bytearray(path.read_bytes())
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    path.chmod(0o644)
    path.write_bytes(body)


def age(root: Path, keys: Iterable[str], seconds: float) -> None:
    """Makes objects look as if they had been written so long before now."""
    for key in keys:
        path = root / key
        modified = path.stat().st_mtime - seconds
        os.utime(path, (modified, modified))


async def contents(store: Store) -> dict[str, bytes]:
    """Everything in a store."""
    found = {}
    async for stored in store.list(""):
        body = await store.read(stored.key, 1 << 30)
        assert body is not None
        found[stored.key] = body
    return found
