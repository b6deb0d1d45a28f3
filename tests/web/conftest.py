"""Fixtures of the web layer's tests."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from tests.web.memory import Blob, MemoryRepository, Served, serving

WHEEL = "demo-1.0-py3-none-any.whl"
SDIST = "demo-2.0.tar.gz"


@pytest.fixture
def repository() -> MemoryRepository:
    """One project with a wheel that has metadata, and a yanked source archive."""
    made = MemoryRepository()
    wheel = made.add_file(
        "demo",
        WHEEL,
        Blob(random.Random(1).randbytes(3000)),
        requires_python=">=3.8",
        upload_time="2024-01-02T03:04:05.678901Z",
        core_metadata={"sha256": "0" * 64},
    )
    made.add_file("demo", SDIST, Blob(b"source" * 100), yanked="broken & <bad>")
    made.sidecars[wheel.path, "metadata"] = b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n"
    made.sidecars[wheel.path, "provenance"] = b'{"version":1}'
    made.names = ("demo", "other")
    made.legacy = {"info": {"name": "demo", "summary": "A demo."}, "vulnerabilities": [], "last_serial": 4711}
    return made


@pytest.fixture
async def served(repository: MemoryRepository) -> AsyncIterator[Served]:
    async with serving(repository) as running:
        yield running
