"""Worlds for tests: on disk, in memory, or both in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.repositories import stored_pages
from tests.repositories.world import World, world


@pytest.fixture(autouse=True)
def soon_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are written behind as ever, but nearly at once: most tests here wait for that, some several times."""
    monkeypatch.setattr(stored_pages, "BEHIND", 0.005)


@pytest.fixture
async def disk_world(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


@pytest.fixture(params=["disk", "memory"])
async def any_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path if request.param == "disk" else None) as made:
        yield made
