"""Worlds for tests: on disk, in memory, or both in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.repositories.world import World, world


@pytest.fixture
async def disk_world(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


@pytest.fixture(params=["disk", "memory"])
async def any_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path if request.param == "disk" else None) as made:
        yield made
