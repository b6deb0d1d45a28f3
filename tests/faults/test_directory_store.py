"""The directory store when the disk, the system or the power fails (L1 to L12, P1)."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mirror.adapters.directory.store import DirectoryStore
from mirror.errors import StoreFailure
from tests.faults import store_scenarios
from tests.support.namespaces import run_as_nobody, run_with_own_mounts
from tests.support.needs import needs, needs_loop_device, needs_root, needs_strace
from tests.support.objects import body_of, is_whole, keys_of, number_of, version
from tests.support.store_child import StoreChild, store_child
from tests.support.strace import attached, calls

pytestmark = pytest.mark.faults

EIO = os.strerror(errno.EIO)


@pytest.fixture(scope="module")
def child() -> Iterator[StoreChild]:
    needs_strace()
    with store_child() as child:
        yield child


async def prepared(root: Path, *, damaged: bool = False) -> None:
    """A store as an earlier process left it, with a complete file in its spool."""
    store = DirectoryStore(root)
    await store.start()
    await store.put("local/old", version(0))
    if damaged:
        await store.put("local/deleted", version(4))
        await store.put("local/damaged", version(5))
    await store.aclose()
    (root / "spool").mkdir()
    (root / "spool" / "adopted").write_bytes(version(3))


def hidden(root: Path) -> list[Path]:
    return list(root.rglob(".*"))


def test_l01_a_disk_full_by_bytes_refuses_the_write_leaves_nothing_and_recovers(tmp_path: Path) -> None:
    run_with_own_mounts(store_scenarios.full_by_bytes, tmp_path)


def test_l01_a_disk_full_by_inodes_refuses_the_write_leaves_nothing_and_recovers(tmp_path: Path) -> None:
    run_with_own_mounts(store_scenarios.full_by_inodes, tmp_path)


def test_l02_a_read_only_folder_is_refused_at_start(tmp_path: Path) -> None:
    run_with_own_mounts(store_scenarios.read_only, tmp_path)


def test_l02_a_folder_that_turns_read_only_is_still_read(tmp_path: Path) -> None:
    needs_loop_device("ext4")
    run_with_own_mounts(store_scenarios.turns_read_only, tmp_path)


@pytest.mark.parametrize("scenario", ["one_put", "one_adopt"])
@pytest.mark.parametrize("call", ["write", "fsync", "close"])
async def test_l03_an_io_error_at_any_call_publishes_nothing(
    child: StoreChild, tmp_path: Path, scenario: str, call: str
) -> None:
    count = await calls_of(child, scenario, tmp_path)
    failed = 0
    for when in range(1, count[call] + 1):
        root = tmp_path / f"{when}"
        await prepared(root)
        with child.ready(scenario, root) as (pid, run), attached(pid, inject=[f"{call}:error=EIO:when={when}"]):
            said, _ = run()
        source, new = root / "spool" / "adopted", root / "local" / "new"
        store = DirectoryStore(root)
        await store.start()
        if "acknowledged" in said:
            assert is_whole(new.read_bytes())
            assert source.exists() == (scenario == "one_put")
        else:
            failed += 1
            assert EIO in said[-1], said
            assert source.exists()
            if new.exists():
                # A file that is taken over was only read; an error at its closing comes when all is on disk.
                assert (scenario, call) == ("one_adopt", "close")
                assert is_whole(new.read_bytes())
            else:
                assert await keys_of(store) == ["local/old"]
        assert number_of(await body_of(await store.open("local/old"))) == 0
        await store.aclose()
        assert hidden(root) == []
    assert failed


async def calls_of(child: StoreChild, scenario: str, folder: Path, *, damaged: bool = False) -> dict[str, int]:
    """The system calls that `scenario` makes when nothing fails, on a store that is `prepared`."""
    root = folder / "counted"
    await prepared(root, damaged=damaged)
    log = folder / "counted.log"
    with child.ready(scenario, root) as (pid, run), attached(pid, log=log):
        said, status = run()
    assert status == 0, said
    return calls(log)


def test_l02_a_folder_without_the_right_to_write_is_refused_at_start() -> None:
    needs_root()
    # Not below pytest's own folder, which no other user may enter.
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        for name in ("empty", "a-store"):
            (folder / name).mkdir(mode=0o755)
        asyncio.run(prepared(folder / "a-store"))
        run_as_nobody(store_scenarios.without_rights, folder)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("lie", ["1", "99999", "100032"])
async def test_l04_a_write_that_lies_about_its_length_publishes_nothing(
    child: StoreChild, tmp_path: Path, lie: str
) -> None:
    """100032 bytes are the whole body: the system claims that all of them were written, and none was."""
    lied = 0
    for when in range(1, (await calls_of(child, "one_put", tmp_path))["write"] + 1):
        root = tmp_path / f"{when}"
        await prepared(root)
        with child.ready("one_put", root) as (pid, run), attached(pid, inject=[f"write:retval={lie}:when={when}"]):
            said, _ = run()
        assert "acknowledged" not in said
        assert not (root / "local" / "new").exists()
        if "started" in said:
            lied += 1
            assert "bytes arrived on disk instead of" in said[-1], said
        assert [p for p in hidden(root) if ".tmp-" in p.name] == []
    assert lied == 1


async def test_l09_a_symlink_planted_in_place_of_a_file_is_refused_and_replaced(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    store = DirectoryStore(tmp_path / "store")
    await store.start()
    await store.put("files/a/1", version(1))
    for target in (secret, Path("1"), tmp_path / "dangling"):
        planted = tmp_path / "store" / "files" / "a" / "2"
        planted.symlink_to(target)
        for attempt in (store.open("files/a/2"), store.read("files/a/2", 100)):
            with pytest.raises(StoreFailure, match="symbolic link"):
                await attempt
        assert await keys_of(store) == ["files/a/1"]
        await store.put("files/a/2", version(2))
        assert number_of(await body_of(await store.open("files/a/2"))) == 2
        assert secret.read_bytes() == b"secret"
        assert number_of(await body_of(await store.open("files/a/1"))) == 1
        await store.delete("files/a/2")
        planted.symlink_to(target)
        await store.quarantine("files/a/2")
        assert await store.open("files/a/2") is None
        assert secret.read_bytes() == b"secret"
    await store.aclose()


async def test_l09_a_symlink_planted_in_place_of_a_folder_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "a").mkdir(parents=True)
    (outside / "a" / "1").write_bytes(b"secret")
    source = tmp_path / "source"
    source.write_bytes(version(1))
    store = DirectoryStore(tmp_path / "store")
    await store.start()
    (tmp_path / "store" / "files").symlink_to(outside)
    for attempt in (
        store.open("files/a/1"),
        store.read("files/a/1", 100),
        store.put("files/a/2", b"body"),
        store.adopt("files/a/2", source),
        store.delete("files/a/1"),
        store.quarantine("files/a/1"),
        keys_of(store, "files/"),
    ):
        with pytest.raises(StoreFailure, match="symbolic link"):
            await attempt
    assert await keys_of(store) == []
    assert sorted(p.name for p in outside.rglob("*")) == ["1", "a"]
    assert (outside / "a" / "1").read_bytes() == b"secret"
    assert source.exists()
    await store.aclose()


async def test_l09_a_planted_link_is_not_taken_over(tmp_path: Path) -> None:
    secret, link = tmp_path / "secret", tmp_path / "link"
    secret.write_bytes(b"secret")
    link.symlink_to(secret)
    store = DirectoryStore(tmp_path / "store")
    await store.start()
    with pytest.raises(StoreFailure):
        await store.adopt("files/a", link)
    assert await store.open("files/a") is None
    assert secret.read_bytes() == b"secret"
    await store.aclose()


async def test_l09_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    await store.start()
    await store.put("files/a", b"body")
    os.mkfifo(tmp_path / "store" / "files" / "pipe")
    with pytest.raises(StoreFailure, match="not a regular file"):
        await store.open("files/pipe")
    assert await keys_of(store) == ["files/a"]
    await store.aclose()


def test_l10_after_a_power_cut_objects_are_whole_and_acknowledged_ones_are_there(tmp_path: Path) -> None:
    needs("xfs_io")
    needs_loop_device("xfs")
    run_with_own_mounts(store_scenarios.power_cuts, tmp_path)


def test_l11_spool_and_folders_may_lie_on_other_file_systems(tmp_path: Path) -> None:
    run_with_own_mounts(store_scenarios.other_file_systems, tmp_path)


async def test_l12_reads_are_answered_while_every_writer_hangs_in_fsync(child: StoreChild, tmp_path: Path) -> None:
    await prepared(tmp_path)
    with ExitStack() as hanging:

        def hear(said: str) -> None:
            if said == "started":
                hanging.enter_context(attached(pid, inject=["fsync:delay_enter=100s"], trace="fsync"))
                (tmp_path / "begin").touch()
            elif said == "read 100 times":
                hanging.close()

        with child.ready("read_while_writing", tmp_path, hear=hear) as (pid, run):
            said, status = run()
    assert status == 0, said
    assert said == ["started", "read 100 times", "put", "put", "put", "put"]


@pytest.mark.parametrize("call", ["openat", "mkdirat", "write", "fsync", "link", "rename", "unlink", "close"])
async def test_p01_kill_at_every_system_call_leaves_only_whole_objects(
    child: StoreChild, tmp_path: Path, call: str
) -> None:
    count = await calls_of(child, "every_write", tmp_path, damaged=True)
    names = [name for name in count if name in (call, f"{call}at", f"{call}at2")]
    assert names, f"no {call} among {sorted(count)}"
    for name in names:
        for when in range(1, count[name] + 1):
            root = tmp_path / f"{name}-{when}"
            await prepared(root, damaged=True)
            with (
                child.ready("every_write", root) as (pid, run),
                attached(pid, inject=[f"{name}:signal=SIGKILL:when={when}"]),
            ):
                said, status = run()
            assert status == -signal.SIGKILL, said
            await assert_recovers(root, said)
            shutil.rmtree(root)


async def assert_recovers(root: Path, said: list[str]) -> None:
    """Every object is whole, what was acknowledged is there, and a start sweeps the rest."""
    store = DirectoryStore(root)
    await store.start()
    found = {key: number_of(await body_of(await store.open(key))) for key in await keys_of(store)}
    assert found.pop("local/old") == 0
    new, adopted = found.pop("files/one/ab/cd/p/new.whl", 0), found.pop("files/one/ab/cd/p/adopted.whl", None)
    assert new >= ("new 1" in said) + ("new 2" in said)
    assert adopted in ((3,) if "adopted 3" in said else (None, 3))
    spooled = root / "spool" / "adopted"
    assert spooled.exists() or adopted == 3
    if spooled.exists():
        assert number_of(spooled.read_bytes()) == 3
        await store.adopt("files/one/ab/cd/p/adopted.whl", spooled)  # so the next process does; linked already or not
    assert found.pop("local/deleted", None) in ((None,) if "deleted" in said else (None, 4))
    damaged = found.pop("local/damaged", None)
    kept = [number_of(p.read_bytes()) for p in (root / "quarantine").rglob("*") if p.is_file()]
    assert (damaged, kept) in ([(None, [5])] if "quarantined" in said else [(None, [5]), (5, [])])
    assert found == {}
    await store.aclose()
    assert hidden(root) == []
    assert {p.name for p in root.iterdir()} <= {"layout.json", "files", "local", "quarantine", "spool"}
    assert list((root / "spool").iterdir()) == []
