"""What diskcache does that the record cache is built to live with: a release that behaves otherwise shows here."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diskcache
import pytest


@contextlib.contextmanager
def plain(folder: Path, **settings: Any) -> Iterator[Any]:
    cache = diskcache.Cache(str(folder), timeout=0.2, **settings)
    try:
        yield cache
    finally:
        cache.close()


def plant(folder: Path, **columns: object) -> None:
    with contextlib.closing(sqlite3.connect(folder / "cache.db")) as base, base:
        base.execute(f"UPDATE Cache SET {', '.join(f'{c} = ?' for c in columns)}", tuple(columns.values()))


def test_trap_the_default_disk_runs_a_planted_pickle(tmp_path: Path) -> None:
    with plain(tmp_path) as cache:
        cache.set("key", b"body")
        plant(tmp_path, mode=4, value=b"cbuiltins\nlen\n(C\x03abctR.")
        assert cache.get("key") == 3  # a function was called


def test_trap_the_default_disk_reads_and_removes_what_a_planted_name_leads_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    with plain(tmp_path / "cache") as cache:
        cache.set("key", bytes(100_000))
        plant(tmp_path / "cache", filename="../outside")
        assert cache.get("key") == b"secret"
        cache.delete("key")
        assert not outside.exists()


def test_trap_a_truncated_file_is_returned_as_it_is(tmp_path: Path) -> None:
    with plain(tmp_path) as cache:
        cache.set("key", bytes(100_000))
        [file] = tmp_path.rglob("*.val")
        os.truncate(file, 100)
        assert cache.get("key") == bytes(100)


def test_trap_a_removed_folder_goes_unnoticed(tmp_path: Path) -> None:
    with plain(tmp_path / "cache") as cache:
        cache.set("key", b"body")
        os.rename(tmp_path / "cache", tmp_path / "elsewhere")
        cache.set("key", b"newer")
        assert cache.get("key") == b"newer"
        assert not (tmp_path / "cache").exists()


def test_trap_the_limit_is_passed_by_large_values(tmp_path: Path) -> None:
    with plain(tmp_path, size_limit=1_000_000, disk_min_file_size=0, cull_limit=10) as cache:
        for number in range(200):
            cache.set(number, bytes(4_000))
        for number in range(8):
            cache.set(f"large {number}", bytes(900_000))
        assert cache.volume() > 3_000_000


def test_trap_a_set_waits_for_a_lock_and_raises(tmp_path: Path) -> None:
    with plain(tmp_path) as cache, contextlib.closing(sqlite3.connect(tmp_path / "cache.db")) as other:
        other.isolation_level = None
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(diskcache.Timeout):
            cache.set("key", b"body")
        assert cache.get("key") is None  # reads are not kept waiting


def test_trap_a_refused_set_leaves_nothing_but_a_failed_write_leaves_its_file(tmp_path: Path) -> None:
    class Full(diskcache.Disk):  # type: ignore[misc] # diskcache ships no types
        def _write(self, full_path: str, iterator: Any, mode: str, encoding: str | None = None) -> int:
            return int(super()._write(full_path, _breaking(iterator), mode, encoding))

    def _breaking(iterator: Any) -> Iterator[bytes]:
        yield next(iter(iterator))
        raise OSError(28, "No space left on device")

    with plain(tmp_path, disk=Full, disk_min_file_size=0) as cache:
        with pytest.raises(OSError, match="No space"):
            cache.set("key", b"one line\n" * 100)
        assert len(list(tmp_path.rglob("*.val"))) == 1
        assert len(cache) == 0


def test_trap_settings_of_the_database_become_attributes(tmp_path: Path) -> None:
    with plain(tmp_path) as cache:
        cache.set("key", b"body")
    with contextlib.closing(sqlite3.connect(tmp_path / "cache.db")) as base, base:
        base.execute("INSERT INTO Settings VALUES ('planted', 'value')")
    with plain(tmp_path) as cache:
        assert cache.planted == "value"


def test_trap_names_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_TRAP", "elsewhere")
    with plain(tmp_path / "$MIRROR_TRAP"):
        assert (tmp_path / "elsewhere" / "cache.db").exists()


def test_trap_the_folder_is_open_to_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with plain(tmp_path / "cache"):
            assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_trap_the_disk_class_is_not_remembered(tmp_path: Path) -> None:
    with plain(tmp_path, disk=diskcache.JSONDisk) as cache:
        cache.set("key", "value")
    with plain(tmp_path) as cache:
        assert type(cache.disk) is diskcache.Disk


_CUT_SHORT = """
import diskcache, os, sys
cache = diskcache.Cache(sys.argv[1], disk_min_file_size=1 << 30, sqlite_cache_size=10, sqlite_mmap_size=int(sys.argv[2]))
for number in range(100):
    cache.set(number, bytes(30_000))
cache._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
cache.get(50)
os.truncate(os.path.join(sys.argv[1], "cache.db"), 200_000)
for number in range(100):
    try:
        cache.get(number)
    except Exception as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize(("mapped", "status"), [(2**26, -signal.SIGBUS), (0, 0)])
def test_trap_a_mapped_database_that_is_cut_short_kills_the_process(tmp_path: Path, mapped: int, status: int) -> None:
    """diskcache maps 64 MiB unless it is told not to."""
    command = [sys.executable, "-c", _CUT_SHORT, str(tmp_path), str(mapped)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
