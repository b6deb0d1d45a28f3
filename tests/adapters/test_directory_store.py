"""What the directory store does beyond the contract: its folder, its leftovers, its threads."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.adapters.directory.store import DirectoryStore
from mirror.errors import StartError, StoreFailure
from mirror.names import archive_key, project_name
from tests.support.objects import body_of, keys_of, number_of, version


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[DirectoryStore]:
    store = DirectoryStore(root)
    await store.start()
    yield store
    await store.aclose()


async def start_and_close(root: Path) -> None:
    store = DirectoryStore(root)
    try:
        await store.start()
    finally:
        await store.aclose()


async def refusal(root: Path) -> str:
    """Why the store does not start in `root`; it must have changed nothing there."""
    before = sorted(root.rglob("*"))
    with pytest.raises(StartError) as failure:
        await start_and_close(root)
    assert sorted(root.rglob("*")) == before
    assert "\n" not in str(failure.value)
    assert str(root) in str(failure.value)
    return str(failure.value)


async def test_a_new_folder_is_private_and_says_its_layout(root: Path, store: DirectoryStore) -> None:
    assert root.stat().st_mode & 0o777 == 0o700
    layout = json.loads((root / "layout.json").read_bytes())
    assert (layout["layout"], layout["shard"]) == (1, "xxh3_64/2x2")
    assert layout["created"]


async def test_an_object_is_a_read_only_file_where_its_key_says(root: Path, store: DirectoryStore) -> None:
    key = archive_key("one", project_name("Requests"), "requests-2.32.3-py3-none-any.whl")
    await store.put(key, b"wheel")
    placed = root / "files/one/ac/f3/requests/requests-2.32.3-py3-none-any.whl"
    assert placed.read_bytes() == b"wheel"
    assert placed.stat().st_mode & 0o222 == 0


async def test_a_store_is_opened_again(root: Path) -> None:
    await start_and_close(root)
    (root / "files").mkdir()
    (root / "files" / "a").write_bytes(b"copied in by rsync")
    layout = (root / "layout.json").read_bytes()
    store = DirectoryStore(root)
    await store.start()
    assert await store.read("files/a", 100) == b"copied in by rsync"
    await store.aclose()
    assert (root / "layout.json").read_bytes() == layout


@pytest.mark.parametrize("ours", ["spool", "tmp", "lost+found"])
async def test_the_mirrors_own_folders_do_not_make_a_new_folder_strange(root: Path, ours: str) -> None:
    (root / ours).mkdir(parents=True)
    (root / ours / "file").touch()
    await start_and_close(root)
    assert (root / ours / "file").exists()


async def test_a_folder_of_somebody_else_is_refused(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "thesis.tex").touch()
    assert "not empty" in await refusal(root)


async def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_bytes(b"precious")
    assert "not a folder" in await refusal(root)
    assert "not a folder" in await refusal(root / "below")
    assert root.read_bytes() == b"precious"


async def test_a_dangling_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(StartError):
        await start_and_close(tmp_path / "link")


async def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "link").symlink_to("volume")
    await start_and_close(tmp_path / "link")
    assert (tmp_path / "volume" / "layout.json").exists()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"layout": 2, "shard": "xxh3_64/2x2"}', "newer mirror"),
        (b'{"layout": 1, "shard": "md5/1"}', "unknown layout"),
        (b'{"layout": 0, "shard": "xxh3_64/2x2"}', "unknown layout"),
        (b'{"layout": "one"}', "damaged"),
        (b"", "damaged"),
        (b"\xff", "damaged"),
    ],
)
async def test_another_layout_is_refused(root: Path, body: bytes, why: str) -> None:
    root.mkdir(parents=True)
    (root / "layout.json").write_bytes(body)
    assert why in await refusal(root)


@pytest.mark.parametrize("_attempt", range(10))
async def test_workers_that_start_at_once_agree(root: Path, _attempt: int) -> None:
    stores = [DirectoryStore(root) for _ in range(6)]
    await asyncio.gather(*(store.start() for store in stores))
    await asyncio.gather(*(store.put(f"files/{n}", version(n)) for n, store in enumerate(stores)))
    assert await keys_of(stores[0]) == [f"files/{n}" for n in range(6)]
    await asyncio.gather(*(store.aclose() for store in stores))
    assert list(root.rglob(".*")) == []


async def test_p01_a_start_sweeps_what_dead_writers_left_and_nothing_else(root: Path) -> None:
    await start_and_close(root)
    dead = f".tmp-{'0' * 16}-{'1' * 16}"
    folders = [root, root / "files" / "a", root / "quarantine" / "a", root / "spool"]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / dead).write_bytes(b"half")
    (root / f".lock-{'0' * 16}").touch()
    keep = root / "files" / "a" / ".nfs0001"
    keep.touch()
    await start_and_close(root)
    assert sorted(root.rglob(".*")) == [keep, root / "spool" / dead]


async def test_p01_a_start_leaves_files_alone_that_another_process_is_writing(
    root: Path, store: DirectoryStore
) -> None:
    await store.put("files/a", b"so that it has a lock")
    [lock] = root.glob(".lock-*")
    writing = root / "files" / f".tmp-{lock.name.removeprefix('.lock-')}-{'1' * 16}"
    writing.write_bytes(b"half")
    await start_and_close(root)
    assert writing.exists()
    assert lock.exists()
    writing.unlink()


async def test_l06_a_folder_deleted_under_the_running_store_is_made_anew(root: Path, store: DirectoryStore) -> None:
    await store.put("files/a/1", b"1")
    shutil.rmtree(root)
    assert await store.open("files/a/1") is None
    assert await keys_of(store) == []
    await store.put("files/a/1", b"again")
    assert (root / "files/a/1").read_bytes() == b"again"
    await store.check()
    await start_and_close(root)


async def test_l06_a_folder_emptied_under_the_running_store_is_a_store_again(root: Path, store: DirectoryStore) -> None:
    await store.put("files/a/1", b"1")
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    await asyncio.gather(*(store.put(f"files/a/{n}", b"again") for n in range(8)))
    assert len(await keys_of(store)) == 8
    await start_and_close(root)


async def test_l06_a_strange_folder_in_its_place_is_not_written_to(root: Path, store: DirectoryStore) -> None:
    shutil.rmtree(root)
    root.mkdir()
    (root / "thesis.tex").touch()
    with pytest.raises(StoreFailure):
        await store.put("files/a", b"body")
    with pytest.raises(StoreFailure):
        await store.check()
    assert [p.name for p in root.iterdir()] == ["thesis.tex"]


async def test_a_long_listing_is_whole_and_in_order(root: Path, store: DirectoryStore) -> None:
    folder = root / "files" / "a"
    folder.mkdir(parents=True)
    for number in range(2345):
        (folder / f"{number}").touch()
    (folder / ".hidden").touch()
    (folder / "link").symlink_to("1")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch()
    (root / "spool").mkdir()
    (root / "spool" / "unfinished").touch()
    assert await keys_of(store) == sorted(f"files/a/{number}" for number in range(2345))


async def test_adopt_moves_without_copying_and_a_second_time_too(
    root: Path, store: DirectoryStore, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(version(1))
    inode = source.stat().st_ino
    (root / "files").mkdir()
    (root / "files" / "a").hardlink_to(source)  # as after a crash between publishing and removing the source
    await store.adopt("files/a", source)
    assert (root / "files" / "a").stat().st_ino == inode
    assert not source.exists()
    assert list((root / "files").iterdir()) == [root / "files" / "a"]


async def test_a_source_that_is_being_read_can_be_taken_over(store: DirectoryStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(version(1))
    with source.open("rb") as follower:
        await store.adopt("files/a", source)
        assert number_of(follower.read()) == 1


async def test_a_failed_adopt_leaves_the_source(root: Path, store: DirectoryStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(version(1))
    await store.put("files/a", b"a file, where a folder would be needed")
    with pytest.raises(StoreFailure):
        await store.adopt("files/a/b", source)
    assert number_of(source.read_bytes()) == 1


async def test_an_open_object_can_be_sent_by_the_kernel(store: DirectoryStore) -> None:
    await store.put("files/a", b"0123456789")
    content = await store.open("files/a")
    assert content is not None
    read, write = os.pipe()
    assert os.sendfile(write, content.handle.fileno(), 2, 3) == 3
    assert os.read(read, 10) == b"234"
    content.close()
    os.close(read)
    os.close(write)


async def test_a_cancelled_open_leaks_no_descriptor(store: DirectoryStore) -> None:
    await store.put("files/a", b"body")
    await body_of(await store.open("files/a"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        opening = asyncio.ensure_future(store.open("files/a"))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    await store.read("files/a", 100)
    while len(os.listdir("/proc/self/fd")) > before:
        await asyncio.sleep(0.001)


async def test_errors_tell_no_path(root: Path, store: DirectoryStore) -> None:
    (root / "files").symlink_to("/etc")
    with pytest.raises(StoreFailure) as failure:
        await store.open("files/passwd")
    assert str(root) not in str(failure.value)
    assert failure.value.key == "files/passwd"


async def test_closing_ends_the_threads(root: Path) -> None:
    before = set(threading.enumerate())
    await start_and_close(root)
    assert not [t for t in threading.enumerate() if t not in before and t.name.startswith("store-")]


async def test_a_store_that_was_not_started_says_so(root: Path) -> None:
    store = DirectoryStore(root)
    with pytest.raises(RuntimeError):
        await store.put("files/a", b"")
    await store.aclose()
