"""The running mirror with a disk that is full, read-only, failing, lying, damaged or tampered with (L1 to L4, L7, L9, L11)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.scene import SETTINGS, Scene, eventually, running
from tests.support.mirror import MirrorProcess
from tests.support.namespaces import with_mounts
from tests.support.needs import needs_strace
from tests.support.packages import Archive, Project, wheel
from tests.support.rawhttp import Ending
from tests.support.strace import attached, calls
from tests.support.upstream import ThreadedUpstream

LARGE = 3_000_000
NO_MEMORY = 1 << 20
"""A `memory_limit` of which no `LARGE` download has room in memory."""


async def announced(scene: Scene, name: str, size: int = LARGE) -> Archive:
    """A file that the mirror does not hold, on a page that it does, in its store too."""
    archive = scene.publish(name, size)
    assert archive.filename in await scene.files_of(name)
    await eventually(lambda: bool(scene.stored(f"{name}.json")), "the page was not stored")
    return archive


# --- L1: no room --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A mirror whose data folder is a disk of 8 MiB and 80 inodes that only it sees."""
    data = tmp_path_factory.mktemp("data")
    prefix = with_mounts(f"mount -t tmpfs -o size=8m,nr_inodes=80 tmpfs {data}")
    with (
        ThreadedUpstream() as upstream,
        MirrorProcess(
            prefix=prefix, data_dir=data, upstream_url=upstream.url, memory_limit=NO_MEMORY, **SETTINGS
        ) as mirror,
    ):
        seen_from_here = Path(f"/proc/{mirror.pid}/root{data}")
        yield Scene(upstream, mirror, seen_from_here)
        upstream.heal()
    assert not [entry for entry in mirror.log if "exception" in entry] + list(mirror.text)


def fill_bytes(folder: Path) -> None:
    """Leaves a megabyte."""
    stat = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(stat.f_bavail * stat.f_frsize - (1 << 20)))


def fill_all_bytes(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass


def fill_inodes(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for number in range(1000):
            (folder / f"filler-{number}").touch()


FILLS = {"bytes-but-some": fill_bytes, "bytes": fill_all_bytes, "inodes": fill_inodes}


def empty(folder: Path) -> None:
    for filler in folder.glob("filler*"):
        filler.unlink()


async def recovers(scene: Scene, archive: Archive) -> None:
    """With room again, the next request has it kept."""
    empty(scene.data)
    await scene.kept(archive)
    assert not scene.leftovers()
    scene.stored(archive.filename)[0].unlink()


@pytest.fixture
def full_disk(small_disk: Scene) -> Iterator[Scene]:
    """The same, emptied of what a test has filled it with."""
    yield small_disk
    empty(small_disk.data)


@pytest.mark.faults
@pytest.mark.parametrize("kind", FILLS)
async def test_l01_a_full_disk_streams_through_and_recovers(full_disk: Scene, kind: str) -> None:
    scene = full_disk
    archive = await announced(scene, f"full-by-{kind}")
    FILLS[kind](scene.data)
    async with scene.counting(fills_unspooled=1), scene.logging("spool cannot be written", file=archive.filename):
        answer = await scene.get_whole(archive)
        assert answer.headers["x-cache"] == "MISS upstream"
    if kind != "bytes-but-some":
        scene.publish(f"full-by-{kind}-late")
        async with scene.counting(store_failures=1), scene.logging("page not kept"):
            await scene.files_of(f"full-by-{kind}-late")
    assert not scene.stored(archive.filename)
    assert not scene.leftovers()
    await recovers(scene, archive)


@pytest.mark.faults
async def test_l01_on_a_full_disk_what_fits_into_memory_is_one_download_for_all(full_disk: Scene) -> None:
    scene = full_disk
    archive = await announced(scene, "small-on-full", 100_000)
    fill_all_bytes(scene.data)
    held = scene.upstream.fault(f"/{archive.path}", hang_mid_body=0)
    async with scene.counting(fills_in_memory=1, files_joined=4, fills_unspooled=0):
        readers = await scene.joined(*(scene.get_whole(archive) for _ in range(5)))
        held.release()
        await asyncio.gather(*readers)
    assert scene.asked(archive.path) == 1
    await recovers(scene, archive)


@pytest.mark.faults
async def test_l01_a_disk_that_fills_up_during_a_download(full_disk: Scene) -> None:
    """Those who read along lose nothing, and wrong bytes are still caught."""
    scene = full_disk
    archive = await announced(scene, "fills-up")
    wrong = await announced(scene, "fills-up-wrong")
    for each in (archive, wrong):
        at = {} if each is archive else {"corrupt_byte_at": -1}
        held = scene.upstream.fault(f"/{each.path}", hang_mid_body=1_000_000, **at)
        async with scene.counting(fills_unspooled=1):
            readers = await scene.joined(*(scene.get(each.path) for _ in range(5)))
            await scene.spooled(1_000_000)
            fill_all_bytes(scene.data)
            held.release()
            answers = await asyncio.gather(*readers)
        for answer in answers:
            assert answer.status == 200
            if each is archive:
                assert (answer.complete, answer.body) == (True, archive.content)
            else:
                assert answer.ending in (Ending.CUT, Ending.RESET)
        await scene.nothing_left()
        assert not scene.stored(each.filename)
        empty(scene.data)
        scene.upstream.heal()
    await recovers(scene, archive)


# --- L2: read-only at the start -----------------------------------------------------------------


@pytest.mark.faults
def test_l02_a_read_only_folder_refuses_the_start(tmp_path: Path) -> None:
    prefix = with_mounts(f"mount -t tmpfs tmpfs {tmp_path}; mount -o remount,ro {tmp_path}")
    command = [*prefix, sys.executable, "-m", "mirror", "serve", "--listen", "127.0.0.1:0"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
    environ["MIRROR_DATA_DIR"] = str(tmp_path / "data")
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("mirror: ")
    assert "Read-only file system" in line


# --- a disk that works --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running(tmp_path_factory.mktemp("data"), memory_limit=NO_MEMORY) as scene:
        yield scene


# --- L3, L4: errors and lies ---------------------------------------------------------------------

SPOOL_FAULTS = ["writev:error=EIO", "writev:error=EDQUOT:when=2+", "writev:retval=1", "writev:retval=65536"]
STORE_FAULTS = ["fsync:error=EIO", "linkat:error=EIO", "renameat:error=EIO", "rename:error=EIO"]


@pytest.mark.faults
@pytest.mark.parametrize("fault", SPOOL_FAULTS)
async def test_l03_l04_a_spool_that_fails_or_lies(scene: Scene, fault: str) -> None:
    needs_strace()
    archive = await announced(scene, "spool-" + fault.replace(":", "-").replace("=", "-").replace("+", "").lower())
    held = scene.upstream.fault(f"/{archive.path}", hang_mid_body=0)
    with attached(scene.mirror.pid, inject=[fault], trace="writev"):
        async with scene.counting(fills_unspooled=1), scene.logging("spool cannot be written"):
            readers = await scene.joined(*(scene.get(archive.path) for _ in range(3)))
            held.release()
            answers = await asyncio.gather(*readers)
    for answer in answers:
        assert (answer.status, answer.complete) == (200, True)
        assert answer.body == archive.content
    await scene.nothing_left()
    assert not scene.stored(archive.filename)
    scene.upstream.heal()
    await scene.kept(archive)


@pytest.mark.faults
@pytest.mark.parametrize("fault", STORE_FAULTS)
async def test_l03_a_store_that_cannot_finish_a_file(scene: Scene, fault: str) -> None:
    needs_strace()
    archive = await announced(scene, "store-" + fault.partition(":")[0])
    with attached(scene.mirror.pid, inject=[fault], trace=fault.partition(":")[0]):
        before = scene.mirror.counters()["store_failures"]
        await scene.get_whole(archive)
        await scene.nothing_left()
        failed = scene.mirror.counters()["store_failures"] - before
    if failed:  # else this system publishes without that call
        told = {"event": "archive not kept", "file": archive.filename}
        await eventually(lambda: any(told.items() <= entry.items() for entry in scene.mirror.log))
        assert not scene.stored(archive.filename)
    else:
        assert fault.startswith(("rename:", "renameat:"))
    await scene.kept(archive)


@pytest.mark.faults
async def test_l04_a_page_of_which_less_arrives_on_disk_than_was_said(scene: Scene) -> None:
    needs_strace()
    archive = scene.publish("lying-page")
    with attached(scene.mirror.pid, inject=["write:retval=100"], trace="write"):
        # Its log is written by the same call, so it is silent meanwhile; the counter is not.
        async with scene.counting(store_failures=1):
            assert archive.filename in await scene.files_of("lying-page")
    assert not scene.stored("lying-page.json")
    assert not scene.leftovers()
    await scene.files_of("lying-page")
    await eventually(lambda: bool(scene.stored("lying-page.json")))


# --- L7, L9: what is stored is damaged or planted ------------------------------------------------


def damaged(path: Path, how: str) -> None:
    body = bytearray(path.read_bytes())
    match how:
        case "flip-first":
            body[0] ^= 1
        case "flip-last":
            body[-1] ^= 0x80
        case "truncate":
            del body[len(body) // 2 :]
        case "empty":
            body.clear()
        case "append":
            body += b"\0"
    path.chmod(0o644)
    path.write_bytes(body)


DAMAGES = ["flip-first", "flip-last", "truncate", "empty", "append"]


async def test_l07_damage_between_two_runs_is_found_quarantined_and_healed(tmp_path: Path) -> None:
    with running(tmp_path / "data") as scene:
        archives = {how: await announced(scene, f"damaged-{how}", 400_000) for how in DAMAGES}
        by_range = await announced(scene, "damaged-range", 400_000)
        for archive in (*archives.values(), by_range):
            await scene.kept(archive)
        scene.mirror.terminate()
        for how, archive in archives.items():
            damaged(scene.stored(archive.filename)[0], how)
            damaged(scene.stored(f"damaged-{how}.json")[0], how)
        damaged(scene.stored(by_range.filename)[0], "flip-last")
        scene.mirror.start()
        count = len(archives) + 1
        async with scene.counting(store_quarantined=count + len(archives)), scene.logging("stored archive is damaged"):
            for how, archive in archives.items():
                assert list(await scene.files_of(f"damaged-{how}")) == [archive.filename]
                assert (await scene.get_whole(archive)).headers["x-cache"] == "MISS upstream"
            # A part that is sound itself is not served out of a file that is not.
            part = await scene.get(by_range.path, {"Range": "bytes=0-99"})
            assert (part.status, part.body) == (206, by_range.content[:100])
            assert part.headers["x-cache"] == "MISS upstream"
        assert len(scene.quarantined()) == count + len(archives)
        for archive in (*archives.values(), by_range):
            await scene.kept(archive)
        # And while it runs: what was found sound once may be damaged later.
        victim = archives["truncate"]
        async with scene.counting(store_quarantined=1):
            damaged(scene.stored(victim.filename)[0], "flip-first")
            await scene.get_whole(victim)
        await scene.kept(victim)


async def test_l07_a_damaged_file_without_upstream_is_not_served(tmp_path: Path) -> None:
    with running(tmp_path / "data") as scene:
        archive = await announced(scene, "damaged", 400_000)
        sound = await announced(scene, "sound", 400_000)
        await scene.kept(archive)
        await scene.kept(sound)
        scene.mirror.terminate()
        damaged(scene.stored(archive.filename)[0], "flip-last")
        scene.mirror.start(offline="on")
        for _ in range(2):
            answer = await scene.get(archive.path)
            assert (answer.status, answer.complete) == (404, True)
            assert archive.content[:100] not in answer.body
        assert scene.mirror.counters()["store_quarantined"] == 1
        await scene.get_whole(sound)
        scene.mirror.restart(offline="off")
        await scene.kept(archive)


async def test_l09_planted_links_are_not_followed(scene: Scene, tmp_path: Path) -> None:
    archive, other = await announced(scene, "planted", 50_000), await announced(scene, "planted-folder", 50_000)
    secret = tmp_path / other.filename
    secret.write_bytes(b"secret" * 10_000)
    await scene.kept(archive)
    (place,) = scene.stored(archive.filename)
    place.unlink()
    place.symlink_to(secret)
    async with scene.counting(store_failures=1), scene.logging("archive not read", file=archive.filename):
        await scene.get_whole(archive)
    # The download has taken the link's place, and what it led to is untouched.
    await scene.kept(archive)
    assert not place.is_symlink()

    await scene.kept(other)
    (place,) = scene.stored(other.filename)
    folder = place.parent
    folder.rename(folder.with_name("away"))
    folder.symlink_to(tmp_path)
    async with scene.logging("archive not read", file=other.filename), scene.logging("archive not kept"):
        await scene.get_whole(other)
    assert secret.read_bytes() == b"secret" * 10_000
    assert list(tmp_path.iterdir()) == [secret]
    folder.unlink()
    folder.with_name("away").rename(folder)
    await scene.kept(other)


# --- L11, L12 ------------------------------------------------------------------------------------


@pytest.mark.faults
async def test_l11_archives_may_lie_on_another_disk_than_the_spool(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "files").mkdir(parents=True)
    (data / "layout.json").write_text('{"layout":1,"shard":"xxh3_64/2x2"}')
    prefix = with_mounts(f"mount -t tmpfs tmpfs {data / 'files'}")
    with (
        ThreadedUpstream([Project("elsewhere", (wheel("elsewhere", "1.0", blob=LARGE),))]) as upstream,
        MirrorProcess(prefix=prefix, data_dir=data, upstream_url=upstream.url, **SETTINGS) as mirror,
    ):
        scene = Scene(upstream, mirror, Path(f"/proc/{mirror.pid}/root{data}"))
        (archive,) = upstream.site.archives.values()
        async with scene.counting(store_failures=0, fills_unspooled=0, files_store=1):
            await scene.files_of("elsewhere")
            await scene.get_whole(archive)
            await scene.nothing_left()
            await scene.get_whole(archive)
        (place,) = scene.stored(archive.filename)
        assert place.stat().st_dev != (scene.data / "spool").stat().st_dev
        assert place.read_bytes() == archive.content
    assert not mirror.troubles()


@pytest.mark.faults
async def test_l12_a_disk_that_hangs_delays_nobody_else(scene: Scene) -> None:
    """While every sync to disk takes its time, what is warm, and even the cold file itself, is served."""
    needs_strace()
    warm, cold = await announced(scene, "hangs-warm"), await announced(scene, "hangs-cold")
    await scene.kept(warm)
    with attached(scene.mirror.pid, inject=["fsync:delay_enter=100s"], trace="fsync"):
        await scene.get_whole(cold)
        await scene.get_whole(warm)
        assert (await scene.get("livez")).status == 200
        assert not scene.stored(cold.filename)
    # The sync was over only now: whoever is delayed goes on when the tracer leaves.
    await scene.kept(cold)


# --- P1: killed at a system call -------------------------------------------------------------------

CALLS = (
    "openat",
    "writev",
    "write",
    "fsync",
    "link",
    "linkat",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
)


@pytest.mark.faults
async def test_p1_killed_at_the_calls_that_make_a_file_last(tmp_path: Path) -> None:
    """Whatever the moment, the next run has nothing partial to serve, sweeps what is left, and serves the right bytes."""
    needs_strace()
    with running(tmp_path / "data") as scene:
        with attached(scene.mirror.pid, trace=",".join(CALLS), log=tmp_path / "calls"):
            archive = await announced(scene, "counted", 400_000)
            await scene.get_whole(archive)
            await eventually(lambda: bool(scene.stored(archive.filename)) and not scene.leftovers())
        made = calls(tmp_path / "calls")
        publishing = [call for call in CALLS if call in made and call not in ("openat", "write")]
        points = [(call, "page") for call in publishing if call.startswith("rename")]
        points += [(call, "file") for call in publishing]
        assert len(points) >= 5, made
        for number, (call, moment) in enumerate(points):
            archive = scene.publish(f"killed-{number}", 400_000)
            if moment == "file":
                await scene.files_of(f"killed-{number}")
                await eventually(lambda name=f"killed-{number}.json": bool(scene.stored(name)))  # type: ignore[misc]
            with attached(scene.mirror.pid, inject=[f"{call}:signal=SIGKILL"], trace=call):
                with contextlib.suppress(EOFError, ConnectionError):
                    await scene.page(f"killed-{number}")
                    answer = await scene.get(archive.path)
                    assert not answer.complete or answer.body == archive.content
                await eventually(lambda: not scene.mirror.running, f"{call} was not called")
            scene.mirror.kill()
            for place in scene.stored(archive.filename):
                assert place.read_bytes() == archive.content
            scene.mirror.start()
            assert not scene.leftovers()
            assert archive.filename in await scene.files_of(f"killed-{number}")
            await scene.kept(archive)
