"""The archive cache: how much it holds, what it lets go first, and what several processes make of one folder."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mirror.adapters.caches.archive_folder import ArchiveFolder, Claim
from mirror.adapters.caches.archives import DiskArchiveCache
from mirror.adapters.caches.folder import MOUNTS
from mirror.counters import Counters
from mirror.errors import StartError
from mirror.testing import MovableClock
from tests.support.descriptors import open_files
from tests.support.needs import missing
from tests.support.objects import body_of, number_of, version

MIB = 1 << 20
Make = Callable[[bytes], Path]


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "above" / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Make:
    """Makes a complete file outside the cache at each call."""
    numbers = itertools.count()
    (tmp_path / "files").mkdir()

    def make(body: bytes) -> Path:
        path = tmp_path / "files" / str(next(numbers))
        path.write_bytes(body)
        return path

    return make


@contextlib.asynccontextmanager
async def opened(root: Path, counters: Counters | None = None, **settings: Any) -> AsyncIterator[DiskArchiveCache]:
    all_settings: dict[str, Any] = {"size": MIB, "free_space": 0, "clock": MovableClock(), "patience": 60.0} | settings
    cache = DiskArchiveCache(root, counters=counters or Counters(), **all_settings)
    try:
        await cache.start()
        yield cache
    finally:
        await cache.aclose()


def on_disk(root: Path) -> int:
    """Bytes that files take, those with several names once."""
    files = {}
    for folder, _, names in os.walk(root):
        for name in set(names) - {"room"}:
            with contextlib.suppress(FileNotFoundError):  # evicted just now
                facts = os.lstat(os.path.join(folder, name))
                files[facts.st_ino] = facts.st_blocks * 512
    return sum(files.values())


def on_another_disk(path: Path) -> Path:
    """The file moved to where it cannot be linked from."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == path.stat().st_dev:
        missing("a second file system at /dev/shm")
    handle, name = tempfile.mkstemp(dir=memory)
    os.close(handle)
    return Path(shutil.move(path, name))


def needs_attributes(path: Path) -> None:
    """Skips unless the file system of `path` has extended attributes."""
    try:
        os.listxattr(path)
    except OSError:
        missing("extended attributes of files")


def key(number: int) -> str:
    return f"files/one/ab/cd/p{number}/p-{number}.whl"


async def held(cache: DiskArchiveCache, numbers: range) -> list[int]:
    found = []
    for number in numbers:
        if (content := await cache.open(key(number))) is not None:
            content.close()
            found.append(number)
    return found


async def test_the_folder_is_made_for_us_alone_and_files_are_read_only(root: Path, file: Make) -> None:
    async with opened(root) as cache:
        assert await cache.adopt(key(1), file(b"body"), owed=True)
        for path in (root.parent, root, *root.rglob("*")):
            mode = path.stat().st_mode
            if path.is_dir():
                assert stat.S_IMODE(mode) == 0o700, path
            elif "p-1" in path.name:
                assert stat.S_IMODE(mode) == 0o444, path
    assert sorted(p.name for p in root.iterdir()) == ["archives", "owed", "room"]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
async def test_a_folder_where_others_may_write_is_refused(root: Path, mode: int) -> None:
    root.mkdir(parents=True)
    root.chmod(mode)
    with pytest.raises(StartError, match="Other users may write"):
        async with opened(root):
            pass


async def test_p05_a_network_file_system_is_refused_by_name(tmp_path: Path, root: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"30 22 0:50 / {tmp_path} rw - nfs4 server:/export rw\n")
    with pytest.raises(StartError, match=r"network file system \(nfs4\)"):
        async with opened(root, mounts=mounts):
            pass
    assert not root.exists()


async def test_f08_ten_times_its_size_stays_within_it(root: Path, file: Make, counters: Counters) -> None:
    async with opened(root, counters) as cache:
        for number in range(100):
            assert await cache.adopt(key(number), file(version(number)))
            assert on_disk(root) <= MIB
        assert await held(cache, range(100)) == list(range(100 - len(await held(cache, range(100))), 100))
        assert on_disk(root) >= MIB - 3 * 106_496
        assert await cache.size() == on_disk(root)
    assert counters["cache_evicted"] == 100 - len(list(root.rglob("*.whl")))
    assert counters["cache_failures"] == 0
    assert [p for p in root.rglob("*") if p.is_dir() and not list(p.iterdir())] == []


async def test_what_was_used_longest_ago_goes_first(root: Path, file: Make, clock: MovableClock) -> None:
    async with opened(root, clock=clock) as cache:
        for number in range(9):
            assert await cache.adopt(key(number), file(version(number)))
            clock.advance(4000)
        assert await held(cache, range(1)) == [0]
        clock.advance(4000)
        assert await cache.adopt(key(9), file(version(9)))
        assert await cache.adopt(key(10), file(version(10)))
        there = await held(cache, range(11))
        assert 0 in there
        assert 1 not in there


async def test_a_use_is_noted_once_an_hour(root: Path, file: Make, clock: MovableClock) -> None:
    async with opened(root, clock=clock) as cache:
        assert await cache.adopt(key(1), file(b"body"))
        noted = []
        for seconds in (0, 3599, 1, 10, 3600):
            clock.advance(seconds)
            await held(cache, range(1, 2))
            noted.append((root / "archives" / key(1)).stat().st_mtime - clock.now())
        assert noted == [0, -3599, 0, -10, 0]
        clock.set_wall_clock(1_600_000_000)
        await held(cache, range(1, 2))
        assert (root / "archives" / key(1)).stat().st_mtime == 1_600_000_000


async def test_open_handles_outlive_eviction(root: Path, file: Make) -> None:
    async with opened(root) as cache:
        assert await cache.adopt(key(0), file(version(0)))
        content = await cache.open(key(0))
        for number in range(1, 30):
            assert await cache.adopt(key(number), file(version(number)))
        assert await cache.open(key(0)) is None
        assert number_of(await body_of(content)) == 0


async def test_what_is_owed_is_not_evicted_and_counts(root: Path, file: Make, counters: Counters) -> None:
    async with opened(root, counters) as cache:
        taken = [n for n in range(15) if await cache.adopt(key(n), file(version(n)), owed=True)]
        assert taken == list(range(10))
        assert on_disk(root) <= MIB
        last = file(version(99))
        assert not await cache.adopt(key(99), last)  # there is nothing that could go for it
        assert number_of(last.read_bytes()) == 99
        assert counters["cache_failures"] == 6
        for number in taken:
            await cache.settled(key(number))
        assert await cache.adopt(key(99), last)
        assert await cache.owed() == []
        assert counters["cache_evicted"] > 0


@pytest.mark.parametrize("owed", [False, True])
async def test_a_file_that_has_just_been_written_is_known_again_by_its_time(root: Path, file: Make, owed: bool) -> None:
    path = file(b"body")
    written = path.stat()
    async with opened(root, clock=MovableClock(written.st_mtime + 1)) as cache:
        assert await cache.adopt(key(1), path, owed=owed)
        content = await cache.open(key(1))
        assert content is not None
        kept = os.fstat(content.handle.fileno())
        content.close()
    assert (kept.st_ino, kept.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("copied", [False, True])
async def test_l07_what_has_changed_on_disk_is_not_given_to_the_store(
    root: Path, file: Make, counters: Counters, restarted: bool, copied: bool
) -> None:
    body = version(1)
    source = file(body)
    if copied:
        source = on_another_disk(source)
    async with opened(root, counters) as cache:
        assert await cache.adopt(key(1), source, owed=True)
        sound = await cache.lend(key(1))
        assert sound is not None
        assert sound.read_bytes() == body
        if restarted:
            needs_attributes(sound)
        sound.chmod(0o600)
        with sound.open("r+b") as damaged:
            damaged.seek(len(body) // 2)
            damaged.write(bytes([body[len(body) // 2] ^ 1]))
        if not restarted:
            assert await cache.lend(key(1)) is None
            assert await cache.open(key(1)) is None
    async with opened(root, counters) as cache:
        assert await cache.lend(key(1)) is None
        assert await cache.open(key(1)) is None
        assert await cache.owed() == []
        assert await cache.size() == 0
        assert await cache.adopt(key(1), file(body), owed=True)
        assert await cache.lend(key(1)) is not None
    assert counters["cache_damaged"] == 1
    assert counters["cache_failures"] == 0


async def test_what_is_owed_and_forgotten_still_takes_room_until_it_is_settled(root: Path, file: Make) -> None:
    async with opened(root) as cache:
        assert await cache.adopt(key(0), file(version(0)), owed=True)
        lent = await cache.lend(key(0))
        await cache.forget(key(0))
        assert await cache.size() == on_disk(root) == 102_400
        await cache.settled(key(0))
        assert lent is not None
        assert not lent.exists()
        assert await cache.size() == on_disk(root) == 0


@pytest.mark.parametrize("owed", [False, True])
def test_l12_a_file_that_was_given_up_is_left_alone(root: Path, file: Make, owed: bool) -> None:
    """So it is where the disk hangs: whoever brought the file may have moved it on when its thread comes back."""
    folder = ArchiveFolder(root, size=MIB, free_space=0, clock=MovableClock(), mounts=MOUNTS)
    folder.prepare(threading.Event())
    claim, path = Claim(), file(version(1))
    assert claim.decide()
    assert not folder.adopt(key(1), path, owed, claim)
    assert number_of(path.read_bytes()) == 1
    assert folder.owed() == []
    assert folder.held() == on_disk(root) == 0
    assert folder.adopt(key(1), path, owed, Claim())
    folder.close()


async def test_replacing_a_file_frees_the_old_one(root: Path, file: Make) -> None:
    async with opened(root) as cache:
        for number in range(30):
            assert await cache.adopt(key(0), file(version(number)))
        assert await cache.size() == on_disk(root) == 102_400


async def test_the_disk_keeps_its_free_room_and_nothing_goes_in_vain(
    root: Path, file: Make, counters: Counters
) -> None:
    async with opened(root) as cache:
        assert await cache.adopt(key(0), file(version(0)))
    async with opened(root, counters, free_space=1 << 60) as cache:
        path = file(version(1))
        assert not await cache.adopt(key(1), path)
        assert path.exists()
        assert await held(cache, range(2)) == [0]
        assert cache.usable
    assert counters["cache_failures"] == 1
    assert counters["cache_evicted"] == 0


async def test_the_disk_gets_back_the_free_room_that_it_lacks(
    root: Path, file: Make, counters: Counters, clock: MovableClock
) -> None:
    async with opened(root, size=64 * MIB, clock=clock) as cache:
        for number in range(4):
            assert await cache.adopt(key(number), file(bytes(8 * MIB)))
            clock.advance(1)
    disk = os.statvfs(root)
    free = disk.f_bavail * disk.f_frsize
    async with opened(root, counters, size=64 * MIB, free_space=free + 4 * MIB, clock=clock) as cache:
        # Others write to this disk too, so how many go is not certain; the oldest go first.
        there = await held(cache, range(4))
        assert there == list(range(4 - len(there), 4))
        assert len(there) < 4
    assert counters["cache_evicted"] == 4 - len(there)


async def test_k04_archives_outlive_a_restart_and_a_smaller_limit_holds(root: Path, file: Make) -> None:
    async with opened(root) as cache:
        for number in range(9):
            assert await cache.adopt(key(number), file(version(number)))
    async with opened(root) as cache:
        assert await held(cache, range(9)) == list(range(9))
        assert await cache.size() == on_disk(root)
    async with opened(root, size=MIB // 2) as cache:
        assert on_disk(root) <= MIB // 2
        assert await held(cache, range(9))


async def test_what_a_crash_left_is_removed_and_counted_right(root: Path, file: Make) -> None:
    async with opened(root) as cache:
        assert await cache.adopt(key(1), file(version(1)))
    dead = f".tmp-{'0' * 16}-{'1' * 16}"
    (root / "lent").mkdir()
    (root / "spool").mkdir()
    for folder in (root, (root / "archives" / key(1)).parent, root / "lent", root / "spool"):
        (folder / dead).write_bytes(b"half")
    (root / "room").write_bytes(b"00000000000000999999 00000000000000999999 00000000000000999999\n")
    async with opened(root) as cache:
        assert list(root.rglob(dead)) == [root / "spool" / dead]
        assert await cache.size() == 102_400


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"0" * 62, b"x" * 100])
async def test_a_damaged_account_is_found_anew(root: Path, file: Make, counters: Counters, damage: bytes) -> None:
    async with opened(root, counters) as cache:
        for number in range(9):
            assert await cache.adopt(key(number), file(version(number)))
        (root / "room").write_bytes(damage)
        await cache.forget(key(0))
        for number in range(9, 12):
            assert await cache.adopt(key(number), file(version(number)))
            assert on_disk(root) <= MIB
        assert await cache.size() == on_disk(root)
    assert counters["cache_failures"] == counters["cache_rebuilt"] == 0


async def test_two_mirrors_on_one_folder_keep_one_limit_together(root: Path, file: Make) -> None:
    counters = Counters()
    async with opened(root, counters, size=8 * MIB) as one, opened(root, counters) as other:

        async def use(cache: DiskArchiveCache, first: int) -> None:
            for number in range(first, first + 30):
                assert await cache.adopt(key(number), file(version(number)))
                assert on_disk(root) <= MIB + 102_400  # one may be on its way out of the spool

        await asyncio.gather(use(one, 0), use(other, 100))
        assert on_disk(root) <= MIB
        assert await one.size() == await other.size() == on_disk(root)
        there = await held(one, range(200))
        assert there == await held(other, range(200))
        assert len(there) >= 8
        for number in there:
            assert number_of(await body_of(await other.open(key(number)))) == number
    # Each file went once at most: no two took each other's away in turns.
    assert counters["cache_evicted"] == 60 - len(there)
    assert counters["cache_failures"] == 0


async def test_a_start_beside_a_running_process_leaves_its_files_alone(root: Path, file: Make) -> None:
    async with opened(root) as one:
        assert await one.adopt(key(1), file(b"body"), owed=True)
        lent = await one.lend(key(1))
        async with opened(root):
            assert lent is not None
            assert lent.read_bytes() == b"body"
    async with opened(root):
        assert not lent.exists()


async def test_l06_a_removed_folder_is_made_again(root: Path, file: Make, counters: Counters) -> None:
    async with opened(root, counters) as cache:
        assert await cache.adopt(key(1), file(b"body"), owed=True)
        shutil.rmtree(root)
        assert await cache.open(key(1)) is None
        assert await cache.lend(key(1)) is None
        assert await cache.owed() == []
        assert await cache.adopt(key(2), file(b"body"), owed=True)
        assert counters["cache_rebuilt"] == 1
        for name in list(root.iterdir()):  # not the folder itself
            shutil.rmtree(name) if name.is_dir() else name.unlink()
        assert await cache.open(key(2)) is None
        assert await cache.adopt(key(3), file(b"body"))
        assert counters["cache_rebuilt"] == 2
        assert await held(cache, range(5)) == [3]
        assert await cache.size() == on_disk(root) == 4096
        async with opened(root, counters):
            assert await cache.adopt(key(4), file(b"body"))
    assert counters["cache_failures"] == 0
    assert sorted(p.name for p in root.iterdir()) == ["archives", "room"]


async def test_l06_folders_that_were_moved_away_are_not_written_to(root: Path, file: Make) -> None:
    async with opened(root) as cache:
        assert await cache.adopt(key(1), file(b"body"))
        os.rename(root, root.parent / "elsewhere")
        assert await cache.adopt(key(2), file(b"body"))
        assert await held(cache, range(3)) == [2]
        assert len(list((root.parent / "elsewhere").rglob("*.whl"))) == 1


async def test_l07_a_damaged_copy_is_forgotten_and_replaced(root: Path, file: Make) -> None:
    async with opened(root) as cache:
        assert await cache.adopt(key(1), file(version(1)))
        os.truncate(root / "archives" / key(1), 100)
        damaged = await cache.open(key(1))
        assert damaged is not None
        assert damaged.size == 100  # whoever opens it, verifies it
        damaged.close()
        await cache.forget(key(1))
        assert await cache.open(key(1)) is None
        assert await cache.adopt(key(1), file(version(1)))
        assert number_of(await body_of(await cache.open(key(1)))) == 1


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder-link"])
async def test_l09_what_is_no_file_is_not_opened_and_is_replaced(
    root: Path, file: Make, tmp_path: Path, counters: Counters, kind: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "sub" / "p-1.whl").write_bytes(b"secret")
    async with opened(root, counters) as cache:
        assert await cache.adopt(key(1), file(b"body"))
        planted = root / "archives" / key(1)
        planted.unlink()
        if kind == "link":
            planted.symlink_to(outside / "sub" / "p-1.whl")
        elif kind == "dangling":
            planted.symlink_to(tmp_path / "nowhere")
        elif kind == "pipe":
            os.mkfifo(planted)
        else:
            planted.parent.rmdir()
            planted.parent.symlink_to(outside / "sub")
        assert await cache.open(key(1)) is None
        assert counters["cache_damaged"] == 1
        if kind == "folder-link":
            path = file(b"body")
            assert not await cache.adopt(key(1), path)
            assert path.read_bytes() == b"body"
            await cache.forget(key(1))
        else:
            assert await cache.adopt(key(1), file(b"newer"))
            assert await body_of(await cache.open(key(1))) == b"newer"
    assert [p.name for p in outside.rglob("*")] == ["sub", "p-1.whl"]
    assert (outside / "sub" / "p-1.whl").read_bytes() == b"secret"


async def test_l09_links_are_neither_followed_nor_counted_when_room_is_made(
    root: Path, file: Make, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(bytes(300_000))
    async with opened(root) as cache:
        assert await cache.adopt(key(0), file(version(0)))
        (root / "archives" / "files" / "one" / "trap").symlink_to(outside)
        (root / "owed").symlink_to(outside)
        for number in range(1, 30):
            assert await cache.adopt(key(number), file(version(number)))
        assert len(await held(cache, range(30))) >= 8
        assert await cache.owed() == []
        assert await cache.lend("precious") is None
        assert not await cache.adopt(key(50), file(b"body"), owed=True)
    assert [p.name for p in outside.iterdir()] == ["precious"]


async def test_l09_a_link_is_not_adopted(root: Path, file: Make, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file(b"secret"))
    async with opened(root) as cache:
        assert not await cache.adopt(key(1), link)
        assert await cache.open(key(1)) is None
        assert await cache.size() == 0


async def test_nothing_stays_open(root: Path, file: Make) -> None:
    before = open_files()
    async with opened(root) as cache:
        for number in range(20):
            await cache.adopt(key(number), file(version(number)), owed=number % 5 == 0)
        await cache.lend(key(0))
        await held(cache, range(30))
        await cache.adopt(key(1), root / "gone")
        shutil.rmtree(root)
        await cache.adopt(key(1), file(b"body"))
    assert open_files() == before
