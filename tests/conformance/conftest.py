"""Mirrors of the two kinds of index: one that is as PyPI, and one that does as little as an index may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from mirror.repositories import stored_pages
from tests.conformance.chain import Chain, chained

STYLES: Final[dict[str, dict[str, Any]]] = {
    "pypi": {},
    "minimal": {"json": False},
    "cross-host": {"links": "other"},
    "relative": {"json": False, "links": "relative", "query": "?token=abc"},
}


@pytest.fixture(autouse=True)
def soon_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are written behind as ever, but nearly at once: most tests here wait for that, some several times."""
    monkeypatch.setattr(stored_pages, "BEHIND", 0.005)


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    """A mirror of an index as PyPI is."""
    async with chained(tmp_path) as made:
        yield made


@pytest.fixture
async def minimal(tmp_path: Path) -> AsyncIterator[Chain]:
    """A mirror of an index that has HTML only, no metadata, no sizes, no validators."""
    async with chained(tmp_path, style=STYLES["minimal"]) as made:
        yield made


@pytest.fixture(params=["pypi", "minimal"])
async def both(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Chain]:
    """Each of the two in turn."""
    async with chained(tmp_path, style=STYLES[request.param]) as made:
        yield made


@pytest.fixture(params=STYLES)
async def every(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Chain]:
    """Both, and with files on another host, and with relative links that carry a query."""
    async with chained(tmp_path, style=STYLES[request.param]) as made:
        yield made
