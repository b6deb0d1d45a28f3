"""The caches on this machine's disk when the disk, the system or a stranger works against them (L1 to L12, P1)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.adapters.caches.archives import DiskArchiveCache
from mirror.adapters.caches.records import DiskRecordCache
from mirror.counters import Counters
from mirror.testing import MovableClock
from tests.faults import cache_scenarios
from tests.faults.cache_scenarios import archives, comes_back, key, records
from tests.support.namespaces import run_as_nobody, run_with_own_mounts
from tests.support.needs import missing, needs_loop_device, needs_root, needs_strace
from tests.support.objects import body_of, is_whole, number_of, version
from tests.support.strace import attached

pytestmark = pytest.mark.faults

_NOBODY = 65534


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@contextlib.asynccontextmanager
async def record_cache(root: Path, counters: Counters, clock: MovableClock) -> AsyncIterator[DiskRecordCache]:
    cache = records(root, counters, clock)
    await cache.start()
    yield cache
    await cache.aclose()


@dataclass
class Child:
    """A process that runs one of the scenarios once it is told to."""

    process: subprocess.Popen[bytes]
    line: socket.socket

    def run(self, hear: Callable[[str], None] = lambda _: None) -> tuple[list[str], int]:
        """What it said, each told to `hear` at once, and its status."""
        self.go()
        said = []
        with self.line.makefile("r") as lines:
            for text in lines:
                said.append(text.strip())
                hear(said[-1])
        return said, self.process.wait(timeout=60)

    def go(self) -> None:
        self.line.send(b"x")


@contextlib.contextmanager
def child(scenario: str, root: Path) -> Iterator[Child]:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-W", "error", "-m", "tests.faults.cache_scenarios", scenario, str(root)]
    with ours:
        with theirs:
            process = subprocess.Popen([*command, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        try:
            assert ours.recv(6) == b"ready\n"
            yield Child(process, ours)
        finally:
            process.kill()
            process.wait(timeout=60)


# --- L1: no room ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario",
    [
        cache_scenarios.records_full_by_bytes,
        cache_scenarios.records_full_by_inodes,
        cache_scenarios.archives_full_by_bytes,
        cache_scenarios.archives_full_in_the_middle_of_a_copy,
        cache_scenarios.archives_full_by_inodes,
    ],
)
def test_l01_a_full_disk_is_a_miss_leaves_nothing_and_is_recovered_from(
    tmp_path: Path, scenario: Callable[[Path], Coroutine[None, None, None]]
) -> None:
    run_with_own_mounts(scenario, tmp_path)


# --- L2: not writable -----------------------------------------------------------------------------


def test_l02_a_read_only_disk_does_not_stop_the_start_and_is_used_once_it_can_be(tmp_path: Path) -> None:
    run_with_own_mounts(cache_scenarios.read_only_at_start, tmp_path)


def test_l02_a_disk_that_turns_read_only_is_still_read(tmp_path: Path) -> None:
    needs_loop_device("ext4")
    run_with_own_mounts(cache_scenarios.turns_read_only, tmp_path)


def test_p37_a_folder_without_the_right_to_write_does_not_stop_the_start() -> None:
    needs_root()
    # Not below pytest's own folder, which no other user may enter.
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        (folder / "above").mkdir(mode=0o755)
        for name, mode in (("own", 0o700), ("own/cache", 0o500)):
            (folder / name).mkdir(mode=mode)
            os.chown(folder / name, _NOBODY, _NOBODY)
        run_as_nobody(cache_scenarios.as_another_user, folder)
    finally:
        shutil.rmtree(folder)


# --- L3, L4: calls that fail or lie ---------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        "pwrite64:error=EIO:when=1+",
        "pwrite64:error=EIO:when=9",
        "pwrite64:error=EIO:when=30+",
        "pwrite64:error=ENOSPC:when=20+",
        "fsync,fdatasync:error=EIO:when=1+",
        "pread64:error=EIO:when=4+",
        "ftruncate:error=EIO:when=1+",
        "fstatfs,statfs:error=EIO:when=1+",
        "flock:error=ENOLCK:when=1+",
    ],
)
def test_l03_a_record_cache_whose_disk_fails_answers_rightly_or_not_at_all(tmp_path: Path, fault: str) -> None:
    needs_strace()
    with child("use_records", tmp_path / "cache") as process, attached(process.process.pid, inject=[fault]):
        said, status = process.run()
    assert status == 0, said
    if "fsync" not in fault and "ftruncate" not in fault and "when=9" not in fault:  # SQLite may not need those calls
        assert said != ["failures 0"]
    with child("use_records", tmp_path / "cache") as process:
        assert process.run() == (["failures 0"], 0)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder on another disk than `tmp_path`."""
    if not os.path.isdir("/dev/shm"):
        missing("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("scenario", ["take_owed", "take_copy"])
@pytest.mark.parametrize("call", ["fsync", "linkat", "rename,renameat,renameat2", "pwrite64", "flock", "write"])
@pytest.mark.parametrize("when", ["1", "2", "1+"])
def test_l03_an_archive_whose_taking_fails_is_left_with_its_owner(
    tmp_path: Path, elsewhere: Path, scenario: str, call: str, when: str
) -> None:
    needs_strace()
    root = tmp_path / "cache"
    source = _prepared(root, elsewhere, scenario)
    with child(scenario, root) as process, attached(process.process.pid, inject=[f"{call}:error=EIO:when={when}"]):
        said, status = process.run()
    assert status == 0, said
    if call == "fsync":
        assert "taken True" not in said  # neither the file nor its name was certain to last
    if "taken True" in said:
        assert not source.exists()
        asyncio.run(_assert_held(root))
    else:
        assert number_of(source.read_bytes()) == 1
        assert "failures 0" not in said
        asyncio.run(_assert_nothing_held(root))


@pytest.mark.parametrize("lie", ["1", "99999", "100032"])
def test_l04_a_write_that_lies_about_its_length_is_not_believed(tmp_path: Path, elsewhere: Path, lie: str) -> None:
    needs_strace()
    root = tmp_path / "cache"
    source = _prepared(root, elsewhere, "take_copy")
    # The first is to the log, or to wake a thread: only those that lie about a file's content matter here.
    with child("take_copy", root) as process, attached(process.process.pid, inject=[f"write:retval={lie}:when=1+"]):
        said, _ = process.run()
    assert "taken True" not in said
    assert number_of(source.read_bytes()) == 1
    asyncio.run(_assert_nothing_held(root))


def _prepared(root: Path, elsewhere: Path, scenario: str) -> Path:
    (root / "spool").mkdir(parents=True, mode=0o700)
    root.chmod(0o700)
    source = root / "spool" / "source" if scenario == "take_owed" else elsewhere / "source"
    source.write_bytes(version(1))
    (root / "elsewhere").write_text(str(source))
    return source


async def _assert_held(root: Path) -> None:
    cache = archives(root, Counters())
    await cache.start()
    assert number_of(await body_of(await cache.open(key(1)))) == 1
    assert await cache.owed() == [key(1)]
    await cache.aclose()


async def _assert_nothing_held(root: Path) -> None:
    """A file that could not be removed after a failure is removed, or whole, after the next start."""
    cache = archives(root, Counters())
    await cache.start()
    if (content := await cache.open(key(1))) is not None:
        assert number_of(await body_of(content)) == 1
    assert await cache.owed() in ([], [key(1)])
    for owed in await cache.owed():
        lent = await cache.lend(owed)
        assert lent is not None
        assert number_of(lent.read_bytes()) == 1
        await cache.settled(owed)
    await cache.forget(key(1))
    assert await cache.size() == 0
    await cache.aclose()
    assert list(root.rglob(".*")) == []


# --- L5: SQLite -----------------------------------------------------------------------------------


@pytest.mark.parametrize("junk", [b"", b"x", b"no database" * 10_000, bytes(8192)])
@pytest.mark.parametrize("running", [False, True])
async def test_l05_k29_a_database_that_is_none_is_replaced(
    tmp_path: Path, counters: Counters, clock: MovableClock, junk: bytes, running: bool
) -> None:
    async with record_cache(tmp_path / "cache", counters, clock) as cache:
        for number in range(60):
            await cache.remember(f"{number}", version(number, 60_000))
        if running:
            (tmp_path / "cache" / "records" / "cache.db").write_bytes(junk)
            for number in range(60):
                assert await cache.recall(f"{number}") in (None, version(number, 60_000))
                await cache.remember(f"{number}", version(number, 60_000))
                clock.advance(1)
            await comes_back(cache, clock)
    if running:
        assert counters["cache_failures"] + counters["cache_rebuilt"] > 0
    else:
        for name in ("cache.db", "cache.db-wal", "cache.db-shm"):
            (tmp_path / "cache" / "records" / name).unlink(missing_ok=True)
        (tmp_path / "cache" / "records" / "cache.db").write_bytes(junk)
        async with record_cache(tmp_path / "cache", counters, clock) as cache:
            assert await cache.recall("1") is None
            await cache.remember("1", b"body")
            assert await cache.recall("1") == b"body"
        assert counters["cache_rebuilt"] == (len(junk) > 1)  # SQLite takes a file of one byte for a new one


async def test_l05_a_database_that_stays_locked_is_replaced(
    tmp_path: Path, counters: Counters, clock: MovableClock
) -> None:
    root = tmp_path / "cache"
    async with record_cache(root, counters, clock) as cache:
        await cache.remember("key", b"body")
        with contextlib.closing(sqlite3.connect(root / "records" / "cache.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            await cache.remember("other", b"body")
            assert await cache.recall("key") == b"body"  # readers do not wait for writers
            assert counters["cache_failures"] == 1
            await comes_back(cache, clock)
            assert counters["cache_rebuilt"] == 1


async def test_l05_a_start_beside_a_locked_database_goes_on(
    tmp_path: Path, counters: Counters, clock: MovableClock
) -> None:
    root = tmp_path / "cache"
    async with record_cache(root, counters, clock) as cache:
        await cache.remember("key", b"body")
    with contextlib.closing(sqlite3.connect(root / "records" / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with record_cache(root, counters, clock) as cache:
            await comes_back(cache, clock)
    assert counters["cache_rebuilt"] == 1


# --- L6: removed under foot -----------------------------------------------------------------------


@pytest.mark.parametrize("what", [".", "records", "records/cache.db", ".."])
async def test_l06_what_was_removed_is_noticed_and_made_again(
    tmp_path: Path, counters: Counters, clock: MovableClock, what: str
) -> None:
    root = tmp_path / "above" / "cache"
    async with record_cache(root, counters, clock) as cache:
        await cache.remember("key", b"body")
        target = (root / what).resolve()
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        assert await cache.recall("key") is None
        await cache.remember("key", b"newer")
        assert await cache.recall("key") == b"newer"
        assert (root / "records" / "cache.db").exists()
        assert counters["cache_rebuilt"] == 1
        assert (root / "records").stat().st_mode & 0o077 == 0


# --- L7, L8: bytes that change --------------------------------------------------------------------


async def test_l07_flipped_bits_are_never_recalled(tmp_path: Path, counters: Counters, clock: MovableClock) -> None:
    root = tmp_path / "cache"
    chance = random.Random(7)
    for _ in range(12):
        async with record_cache(root, counters, clock) as cache:
            for number in range(30):
                await cache.remember(f"{number}", version(number, 30_000))
        database = root / "records" / "cache.db"
        body = bytearray(database.read_bytes())
        for _ in range(40):
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        database.write_bytes(body)
        async with record_cache(root, counters, clock) as cache:
            for number in range(30):
                assert await cache.recall(f"{number}") in (None, version(number, 30_000))
    assert counters["cache_damaged"] > 0


def test_l07_a_database_cut_short_is_not_recalled_from_and_kills_nobody(tmp_path: Path) -> None:
    with child("cut_short", tmp_path / "cache") as process:
        assert process.run() == (["alive"], 0)


async def test_l07_a_record_in_anothers_place_is_refused(
    tmp_path: Path, counters: Counters, clock: MovableClock
) -> None:
    root = tmp_path / "cache"
    async with record_cache(root, counters, clock) as cache:
        await cache.remember("one", b"1")
        await cache.remember("two", b"2")
        _sql(root, "UPDATE Cache SET value = (SELECT value FROM Cache WHERE key = 'one')")
        assert await cache.recall("two") is None
        assert await cache.recall("one") == b"1"
        assert counters["cache_damaged"] == 1


@pytest.mark.parametrize("mode", [4, 2, 3, 0, 1])
async def test_l08_a_planted_pickle_does_not_run(
    tmp_path: Path, counters: Counters, clock: MovableClock, mode: int
) -> None:
    root, proof = tmp_path / "cache", tmp_path / "proof"
    # What `pickle.loads` would call: os.mkdir(proof).
    pickled = b"cos\nmkdir\n(V" + str(proof).encode() + b"\ntR."
    async with record_cache(root, counters, clock) as cache:
        await cache.remember("key", b"body")
        _sql(root, "UPDATE Cache SET mode = ?, value = ?", mode, pickled)
        assert await cache.recall("key") is None
        assert not proof.exists()
        assert counters["cache_damaged"] == 1
        await cache.remember("key", b"body")
        assert await cache.recall("key") == b"body"


@pytest.mark.parametrize("how", ["recall", "forget", "remember", "evict"])
async def test_l08_a_planted_file_name_is_neither_read_nor_removed(
    tmp_path: Path, counters: Counters, clock: MovableClock, how: str
) -> None:
    root, secret = tmp_path / "cache", tmp_path / "secret"
    secret.write_bytes(b"secret")
    async with record_cache(root, counters, clock) as cache:
        for name in ("../../secret", str(secret), "../../../../etc/hostname"):
            await cache.remember("key", b"body")
            _sql(root, "UPDATE Cache SET mode = 2, filename = ?, value = NULL", name)
            if how == "recall":
                assert await cache.recall("key") is None
            elif how == "forget":
                await cache.forget("key")
            elif how == "remember":
                await cache.remember("key", b"newer")
            else:
                _sql(root, "UPDATE Cache SET size = 1000000000")  # so that it is over its limit
                await cache.remember("other", b"body")
                assert counters["cache_evicted"] > 0
            assert secret.read_bytes() == b"secret"
            assert os.path.exists("/etc/hostname")
    assert counters["cache_damaged"] == (3 if how == "recall" else 0)


def _sql(root: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(root / "records" / "cache.db")) as base, base:
        base.execute(statement, values)


# --- L11, L12 -------------------------------------------------------------------------------------


def test_l11_files_from_other_disks_are_copied(tmp_path: Path) -> None:
    run_with_own_mounts(cache_scenarios.other_file_systems, tmp_path)


async def test_l12_archives_are_read_while_every_writer_hangs(tmp_path: Path) -> None:
    needs_strace()
    root = tmp_path / "cache"
    await _fill(root)
    with child("read_while_writing_archives", root) as process, contextlib.ExitStack() as hanging:
        hanging.enter_context(attached(process.process.pid, inject=["fsync:delay_enter=100s"]))

        def hear(said: str) -> None:
            if said == "read 100 times":
                hanging.close()

        said, status = process.run(hear)
    assert status == 0, said
    assert said.index("read 100 times") == 1, said
    assert [text.split()[0] for text in said[2:]] == ["taken"] * 4


async def _fill(root: Path) -> None:
    cache = archives(root, Counters())
    await cache.start()
    (root / "spool").mkdir()
    for number in range(5):
        (root / "spool" / f"{number}").write_bytes(version(number))
    assert await cache.adopt(key(0), root / "spool" / "0")
    await cache.aclose()


def test_l12_records_are_read_while_the_writer_hangs(tmp_path: Path) -> None:
    """The disk hangs once the cache is open; whoever remembers something is let go after a while."""
    needs_strace()
    root = tmp_path / "cache"
    with child("read_while_writing_records", root) as process, contextlib.ExitStack() as hanging:

        def hear(said: str) -> None:
            if said == "started":
                hanging.enter_context(attached(process.process.pid, inject=["pwrite64:delay_enter=100s"]))
                (root / "go").touch()
            elif said.startswith("failures"):
                hanging.close()

        said, status = process.run(hear)
    assert status == 0, said
    assert set(said[:3]) == {"started", "remembered", "read 100 times"}
    assert said[3] != "failures 0"


# --- P1: killed; several processes ------------------------------------------------------------------


def test_k04_p01_whatever_is_there_after_a_kill_is_whole(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    chance = random.Random(4)
    for _ in range(6):
        last = f"{chance.randrange(3, 40)}"
        with child("write_until_killed", root) as process:
            process.go()
            with process.line.makefile("r") as lines:
                for text in lines:
                    if text.strip() == last:
                        process.process.send_signal(signal.SIGKILL)
                        break
            assert process.process.wait(timeout=60) == -signal.SIGKILL
        asyncio.run(_assert_whole(root))


async def _assert_whole(root: Path) -> None:
    counters = Counters()
    small, large = records(root, counters, size=2 << 20), archives(root, counters, size=2 << 20)
    await small.start()
    await large.start()
    found = 0
    for number in range(50):
        if (body := await small.recall(f"{number}")) is not None:
            assert is_whole(body)
            assert number_of(body) % 50 == number
            found += 1
        if (content := await large.open(key(number))) is not None:
            assert number_of(await body_of(content)) % 50 == number
            found += 1
    assert found
    for owed in await large.owed():
        lent = await large.lend(owed)
        assert lent is not None
        assert is_whole(lent.read_bytes())
    assert counters["cache_failures"] == counters["cache_damaged"] == counters["cache_rebuilt"] == 0
    files = {
        f.stat().st_ino: f.stat().st_blocks * 512 for top in ("archives", "owed") for f in (root / top).rglob("*.whl")
    }
    assert await large.size() == sum(files.values())
    assert list((root / "archives").rglob(".*")) == []
    await small.aclose()
    await large.aclose()


async def test_several_processes_share_one_folder(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(child("share", root)) for _ in range(3)]
        results = await asyncio.gather(*(asyncio.to_thread(process.run) for process in children))
    assert results == [(["damaged 0"], 0)] * 3
    cache = DiskArchiveCache(root, size=2 << 20, free_space=0, counters=Counters(), clock=MovableClock(), patience=60)
    await cache.start()
    files = list((root / "archives").rglob("*.whl"))
    assert await cache.size() == sum(file.stat().st_blocks * 512 for file in files) <= 2 << 20
    await cache.aclose()
