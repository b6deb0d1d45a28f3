"""Bodies of fault tests of the caches: some mount file systems, some run in a process that is killed or lied to."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import resource
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from mirror.adapters.caches.archives import DiskArchiveCache
from mirror.adapters.caches.records import DiskRecordCache
from mirror.adapters.system_clock import SystemClock
from mirror.counters import Counters
from mirror.ports import Clock
from mirror.testing import MovableClock
from tests.support.namespaces import make_disk, mount
from tests.support.objects import body_of, is_whole, number_of, version

MIB = 1 << 20
_PR_SET_PTRACER = 0x59616D61

Say = Callable[[str], None]


def records(
    root: Path, counters: Counters, clock: Clock | None = None, *, size: int = 16 * MIB, patience: float = 60
) -> DiskRecordCache:
    return DiskRecordCache(
        root, size=size, free_space=0, counters=counters, clock=clock or SystemClock(), patience=patience
    )


def archives(
    root: Path, counters: Counters, clock: Clock | None = None, *, size: int = 16 * MIB, patience: float = 60
) -> DiskArchiveCache:
    return DiskArchiveCache(
        root, size=size, free_space=0, counters=counters, clock=clock or SystemClock(), patience=patience
    )


def key(number: int) -> str:
    return f"files/one/ab/cd/p{number}/p-{number}.whl"


def fill(path: Path) -> None:
    """Takes all the room that there is."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


async def comes_back(cache: DiskRecordCache, clock: MovableClock) -> None:
    """Within a minute or two of the clock's time a record is kept again."""
    for _ in range(20):
        clock.advance(10)
        await cache.remember("again", b"body")
        if await cache.recall("again") == b"body":
            return
    raise AssertionError("the cache did not come back")


async def takes_again(cache: DiskArchiveCache, clock: MovableClock, path: Path) -> None:
    """Within a minute or two of the clock's time the file is taken."""
    for _ in range(20):
        clock.advance(10)
        if await cache.adopt("files/again", path):
            assert not path.exists()
            await body_of(await cache.open("files/again"))
            return
        assert path.exists()
    raise AssertionError("the cache did not come back")


# --- with mounts of their own ---------------------------------------------------------------------


async def records_full_by_bytes(folder: Path) -> None:
    mount("-t", "tmpfs", "-o", "size=6m", "tmpfs", folder)
    counters, clock = Counters(), MovableClock()
    cache = records(folder / "cache", counters, clock)
    await cache.start()
    await cache.remember("small", b"body")
    for number in range(40):
        await cache.remember(f"{number}", os.urandom(300_000))
        clock.advance(0.3)
    assert counters["cache_failures"] > 0
    fill(folder / "filler")
    for number in range(40):
        await cache.remember(f"{number}", os.urandom(300_000))
        assert await cache.recall("small") in (b"body", None)
        clock.advance(0.3)
    (folder / "filler").unlink()
    await comes_back(cache, clock)
    await cache.aclose()
    assert sorted(p.name for p in (folder / "cache").iterdir()) == ["records"]
    assert {p.name for p in (folder / "cache" / "records").iterdir()} <= {"cache.db", "cache.db-wal", "cache.db-shm"}


async def records_full_by_inodes(folder: Path) -> None:
    mount("-t", "tmpfs", "-o", "size=8m,nr_inodes=12", "tmpfs", folder)
    counters, clock = Counters(), MovableClock()
    fillers = [folder / f"{number}" for number in range(9)]
    for filler in fillers:
        filler.touch()
    cache = records(folder / "cache", counters, clock)
    await cache.start()
    await cache.remember("key", b"body")
    assert await cache.recall("key") is None
    assert counters["cache_failures"] > 0
    for filler in fillers:
        filler.unlink()
    await comes_back(cache, clock)
    await cache.aclose()


async def archives_full_by_bytes(folder: Path) -> None:
    source, disk = folder / "source", folder / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", disk)
    counters, clock = Counters(), MovableClock()
    cache = archives(disk / "cache", counters, clock)
    await cache.start()
    source.write_bytes(version(0, 300_000))
    assert await cache.adopt(key(0), source)
    for number in range(1, 20):  # what others leave is what there is: the oldest go
        source.write_bytes(version(number, 300_000))
        assert await cache.adopt(key(number), source)
    assert counters["cache_evicted"] >= 14
    assert counters["cache_failures"] == 0
    assert number_of(await body_of(await cache.open(key(19)))) == 19
    held = len(list((disk / "cache" / "archives").rglob("*.whl")))
    fill(disk / "filler")
    source.write_bytes(version(20, 1_900_000))
    assert not await cache.adopt(key(20), source)  # all that is held would not be enough
    assert source.exists()
    assert counters["cache_failures"] == 1
    assert len(list((disk / "cache" / "archives").rglob("*.whl"))) == held
    assert list((disk / "cache" / "archives").rglob(".tmp-*")) == []
    (disk / "filler").unlink()
    source.write_bytes(version(21, 300_000))
    await takes_again(cache, clock, source)
    await cache.aclose()


async def archives_full_in_the_middle_of_a_copy(folder: Path) -> None:
    """The room that was there at the beginning is taken by others meanwhile; a quota says nothing beforehand at all."""
    source, disk = folder / "source", folder / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", disk)
    counters, clock = Counters(), MovableClock()
    cache = archives(disk / "cache", counters, clock)
    await cache.start()
    with source.open("wb") as file:
        file.truncate(4 * MIB)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for owed in (False, True):
        assert not await cache.adopt(key(0), source, owed=owed)
    assert source.stat().st_size == 4 * MIB
    assert await cache.owed() == []
    assert await cache.size() == 0
    assert [p for p in (disk / "cache").rglob("*") if p.is_file() and p.name != "room" and p.stat().st_size] == []
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await takes_again(cache, clock, source)
    assert counters["cache_failures"] >= 2
    await cache.aclose()


async def archives_full_by_inodes(folder: Path) -> None:
    source, disk = folder / "source", folder / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m,nr_inodes=40", "tmpfs", disk)
    counters, clock = Counters(), MovableClock()
    cache = archives(disk / "cache", counters, clock)
    await cache.start()
    for number in range(60):
        source.write_bytes(version(number, 1000))
        if not await cache.adopt(key(number), source):
            assert source.exists()
        clock.advance(3)
    assert counters["cache_failures"] + counters["cache_evicted"] > 0
    await takes_again(cache, clock, source) if source.exists() else None
    await cache.aclose()
    assert list((disk / "cache" / "archives").rglob(".tmp-*")) == []


async def read_only_at_start(folder: Path) -> None:
    source, disk = folder / "source", folder / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "tmpfs", disk)
    source.write_bytes(b"body")
    first = archives(disk / "cache", Counters())
    await first.start()
    assert await first.adopt(key(0), source)
    await first.aclose()
    mount("-o", "remount,ro", disk)
    for root in (disk / "cache", disk / "not-there"):
        counters, clock = Counters(), MovableClock()
        small, large = records(root, counters, clock), archives(root, counters, clock)
        await small.start()
        await large.start()
        await small.remember("key", b"body")
        assert await small.recall("key") is None
        source.write_bytes(b"body")
        assert not await large.adopt(key(1), source)
        assert not await large.adopt(key(1), source, owed=True)
        if root.exists():
            assert await body_of(await large.open(key(0))) == b"body"
        assert await large.owed() == []
        assert counters["cache_failures"] >= 5
        mount("-o", "remount,rw", disk)
        await comes_back(small, clock)
        await takes_again(large, clock, source)
        await small.aclose()
        await large.aclose()
        mount("-o", "remount,ro", disk)


async def turns_read_only(folder: Path) -> None:
    """ext4 that meets an error goes read-only under its users; `abort` brings that about."""
    image, disk, source = folder / "image", folder / "disk", folder / "source"
    disk.mkdir()
    make_disk("ext4", image)
    mount("-o", "loop", image, disk)
    counters, clock = Counters(), MovableClock()
    small, large = records(disk / "small", counters, clock), archives(disk / "large", counters, clock)
    await small.start()
    await large.start()
    source.write_bytes(b"body")
    assert await large.adopt(key(0), source, owed=True)
    await small.remember("key", b"body")
    mount("-o", "remount,abort", disk)
    source.write_bytes(b"body")
    failures = 0
    for _ in range(12):
        await small.remember("key", b"newer")
        assert await small.recall("key") is None
        await small.forget("key")
        assert not await large.adopt(key(1), source)
        await large.settled(key(0))
        await large.forget(key(0))
        assert await body_of(await large.open(key(0))) == b"body"
        clock.advance(1)
        assert counters["cache_failures"] >= failures + 5
        failures = counters["cache_failures"]
    assert source.exists()
    assert not small.usable
    assert not large.usable
    await small.aclose()
    await large.aclose()


async def as_another_user(folder: Path) -> None:
    """`cache` belongs to whoever runs this and is 0500; `above` belongs to root."""
    counters, clock = Counters(), MovableClock()
    source = folder / "own" / "source"
    for root in (folder / "own" / "cache", folder / "above" / "cache"):
        small, large = records(root, counters, clock), archives(root, counters, clock)
        await small.start()
        await large.start()
        before = counters["cache_failures"]
        assert before
        await small.remember("key", b"body")
        assert await small.recall("key") is None
        source.write_bytes(b"body")
        assert not await large.adopt(key(0), source)
        assert await large.open(key(0)) is None
        assert source.read_bytes() == b"body"
        assert counters["cache_failures"] > before
        if root.exists():
            root.chmod(0o700)
            await comes_back(small, clock)
            await takes_again(large, clock, source)
        await small.aclose()
        await large.aclose()


async def other_file_systems(folder: Path) -> None:
    """The spool is on another disk, and on the same one by another mount, where rename and link fail too."""
    root, other, bound = folder / "cache", folder / "other", folder / "bound"
    for made in (root, other, bound):
        made.mkdir(mode=0o700)
    mount("-t", "tmpfs", "tmpfs", other)
    mount("--bind", root.parent, bound)
    counters = Counters()
    cache = archives(root, counters)
    await cache.start()
    for number, spool in enumerate((other, bound)):
        source = spool / "source"
        source.write_bytes(version(number, 3_000_000))
        with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
            os.link(source, root / "probe")
        assert await cache.adopt(key(number), source, owed=True)
        assert not source.exists()
        assert number_of(await body_of(await cache.open(key(number)))) == number
        lent = await cache.lend(key(number))
        assert lent is not None
        assert number_of(lent.read_bytes()) == number
        await cache.settled(key(number))
    assert await cache.size() == sum(p.stat().st_blocks * 512 for p in root.rglob("*.whl"))
    assert counters["cache_failures"] == 0
    await cache.aclose()
    assert list(root.rglob(".*")) == []


# --- in a process of their own ----------------------------------------------------------------------


async def use_records(root: Path, say: Say) -> None:
    """Writes and reads some records, whatever happens; says what was counted."""
    counters = Counters()
    cache = records(root, counters)
    await cache.start()
    for number in range(6):
        await cache.remember(f"{number}", version(number, 60_000))
        body = await cache.recall(f"{number}")
        assert body is None or body == version(number, 60_000)
        await cache.remember("same", version(number, 1_000))
        assert await cache.recall("same") in (None, version(number, 1_000))
    await cache.forget("0")
    assert await cache.recall("0") is None
    await cache.aclose()
    say(f"failures {counters['cache_failures']}")


async def cut_short(root: Path, say: Say) -> None:
    """The database loses its end while it is open, which would kill a process that had it mapped."""
    counters = Counters()
    cache = records(root, counters)
    await cache.start()
    for number in range(100):
        await cache.remember(f"{number}", version(number, 30_000))
    with contextlib.closing(sqlite3.connect(root / "records" / "cache.db")) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    os.truncate(root / "records" / "cache.db", 500_000)
    missed = 0
    for number in range(100):
        body = await cache.recall(f"{number}")
        assert body in (None, version(number, 30_000))
        missed += body is None
    await cache.aclose()
    assert missed
    assert counters["cache_failures"] + counters["cache_damaged"]
    say("alive")


async def take_owed(root: Path, say: Say) -> None:
    await _take(root, say, root / "spool" / "source")


async def take_copy(root: Path, say: Say) -> None:
    await _take(root, say, Path((root / "elsewhere").read_text()))


async def _take(root: Path, say: Say, source: Path) -> None:
    counters = Counters()
    cache = DiskArchiveCache(
        root, size=16 * MIB, free_space=0, counters=counters, clock=SystemClock(), writers=1, patience=60
    )
    await cache.start()
    say("started")
    taken = await cache.adopt(key(1), source, owed=True)
    say(f"taken {taken}")
    say(f"failures {counters['cache_failures']}")
    await cache.aclose()


async def write_until_killed(root: Path, say: Say) -> None:
    small, large = records(root, Counters(), size=2 * MIB), archives(root, Counters(), size=2 * MIB)
    await small.start()
    await large.start()
    for number in range(100_000):
        source = root / f"source-{os.getpid()}"
        source.write_bytes(version(number))
        await asyncio.gather(
            small.remember(f"{number % 50}", version(number, 20_000)),
            large.adopt(key(number % 50), source, owed=number % 7 == 0),
        )
        if number % 7 == 6:
            await large.settled(key((number - 6) % 50))
        say(f"{number}")


async def share(root: Path, say: Say) -> None:
    """One of several processes that work on one folder."""
    counters = Counters()
    small, large = records(root, counters, size=2 * MIB), archives(root, counters, size=2 * MIB)
    await small.start()
    await large.start()
    for number in range(60):
        source = root / f"source-{os.getpid()}"
        source.write_bytes(version(number))
        await small.remember(f"{number % 20}", version(number, 20_000))
        body = await small.recall(f"{(number * 7) % 20}")
        assert body is None or is_whole(body)
        assert await large.adopt(key(number), source)
        if (content := await large.open(key((number * 7) % 60))) is not None:
            assert is_whole(await body_of(content))
    say(f"damaged {counters['cache_damaged']}")
    await small.aclose()
    await large.aclose()


async def read_while_writing_archives(root: Path, say: Say) -> None:
    cache = archives(root, Counters())
    await cache.start()
    say("started")

    async def adopt(number: int) -> None:
        taken = await cache.adopt(key(number), root / "spool" / f"{number}", owed=True)
        say(f"taken {taken}")

    async def read() -> None:
        for _ in range(100):
            assert number_of(await body_of(await cache.open(key(0)))) == 0
        say("read 100 times")

    await asyncio.gather(*(adopt(number) for number in range(1, 5)), read())
    await cache.aclose()


async def read_while_writing_records(root: Path, say: Say) -> None:
    counters = Counters()
    cache = records(root, counters, patience=1)
    await cache.start()
    while await cache.recall("old") is None:
        await cache.remember("old", b"body")
    say("started")
    while not (root / "go").exists():
        await asyncio.sleep(0.01)

    async def remember() -> None:
        for number in range(3):
            await cache.remember("new", version(number, 60_000))
        say("remembered")

    async def read() -> None:
        seen = 0
        while seen < 100:
            body = await cache.recall("old")
            assert body in (None, b"body")
            seen += body is not None
            assert await cache.recall("new") in (None, version(2, 60_000))
        say("read 100 times")

    await asyncio.gather(remember(), read())
    say(f"failures {counters['cache_failures']}")
    await cache.aclose()


SCENARIOS: dict[str, Callable[[Path, Say], Coroutine[None, None, None]]] = {
    f.__name__: f
    for f in (
        use_records,
        cut_short,
        take_owed,
        take_copy,
        write_until_killed,
        share,
        read_while_writing_archives,
        read_while_writing_records,
    )
}


def _main(name: str, root: str, descriptor: str) -> None:
    # Lets a strace that is not our parent attach, where the kernel asks for that (Yama).
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    with socket.socket(fileno=int(descriptor)) as line:
        line.send(b"ready\n")
        line.recv(1)
        # Said over a socket with send(2), for write(2) is among the calls that are tampered with.
        asyncio.run(SCENARIOS[name](Path(root), lambda text: line.sendall(f"{text}\n".encode())))


if __name__ == "__main__":
    _main(*sys.argv[1:])
