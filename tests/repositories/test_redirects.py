"""Where clients are sent to the store itself, and where they are not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.model import FileRef, Redirect
from mirror.repositories.redirects import SURE
from tests.repositories.remote import RemoteWorld, remote_world
from tests.support.packages import wheel

ARCHIVE = wheel("p", "1.0", blob=300_000)


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[RemoteWorld]:
    async with remote_world(tmp_path) as made:
        yield made


async def test_k20_what_the_store_holds_is_fetched_there_and_looked_for_once_a_minute(w: RemoteWorld) -> None:
    file = await w.only_stored(ARCHIVE)
    for _ in range(3):
        redirect = await w.repository.redirect(FileRef(file.path))
        assert redirect == Redirect(f"https://s3.example.com/{w.key(file)}?for={file.filename}")
    assert w.counters["files_redirected"] == 3
    assert len(w.s3.opened) == 1
    w.clock.advance(SURE + 1)
    assert await w.repository.redirect(FileRef(file.path)) is not None
    assert len(w.s3.opened) == 2
    assert w.s3.unclosed == 0


async def test_k20_what_the_store_lacks_or_nobody_names_is_not_redirected(w: RemoteWorld) -> None:
    file = await w.published(ARCHIVE)
    assert await w.repository.redirect(FileRef(file.path)) is None
    assert await w.repository.redirect(FileRef("packages/aa/bb/other-1.0.tar.gz")) is None
    assert w.counters["files_redirected"] == 0


async def test_k20_a_store_that_cannot_be_read_is_no_place_to_send_anybody(w: RemoteWorld) -> None:
    file = await w.only_stored(ARCHIVE)
    w.s3.refuses_reads = True
    assert await w.repository.redirect(FileRef(file.path)) is None


async def test_an_object_of_another_size_is_not_the_file(w: RemoteWorld) -> None:
    file = await w.only_stored(ARCHIVE)
    await w.s3.put(w.key(file), b"something else")
    assert await w.repository.redirect(FileRef(file.path)) is None


async def test_what_was_found_damaged_is_not_fetched_past_the_mirror(w: RemoteWorld) -> None:
    file = await w.only_stored(ARCHIVE)
    assert await w.repository.redirect(FileRef(file.path)) is not None
    w.repository._files._archives.distrust(w.key(file))
    assert await w.repository.redirect(FileRef(file.path)) is None
