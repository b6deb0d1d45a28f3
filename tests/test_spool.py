"""Spools on disk: what is appended can be read, what fails adds nothing, what dies is swept."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
from pathlib import Path

import pytest

from mirror.spool import MAX_PIECES, DiskSpools
from tests.support.descriptors import open_files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_what_is_appended_can_be_read_anywhere(root: Path) -> None:
    before = open_files()
    spools = DiskSpools(root)
    spools.prepare()
    spool = spools.create(None)
    body = random.Random(1).randbytes(300_000)
    at = 0
    for count in (1, 3, MAX_PIECES, MAX_PIECES + 1, 2):
        spool.append([body[at + n * 100 : at + n * 100 + 100] for n in range(count)])
        at += count * 100
        assert spool.size == at
    assert spool.read(0, at) == body[:at]
    assert spool.read(at - 5, 100) == body[at - 5 : at]
    peeked = spool.peek(1000, 500)
    assert peeked is None or (peeked and body[1000:].startswith(peeked))
    spool.discard()
    assert spool.path is None
    assert spool.read(7, 3) == body[7:10], "what is open stays readable"
    spool.close()
    spool.close()
    spools.close()
    spools.close()
    assert list(root.iterdir()) == []
    assert open_files() == before


def test_l1_after_an_error_nothing_is_added(root: Path) -> None:
    spools = DiskSpools(root)
    spools.prepare()
    spool = spools.create(None)
    spool.append([b"x" * 90_000])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            spool.append([b"y" * 8_000, b"z" * 8_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert spool.size == 90_000
    spool.append([b"after"])
    assert spool.read(89_999, 6) == b"xafter"
    spool.close()
    spools.close()


def test_l1_a_file_that_cannot_fit_is_refused_at_once(root: Path) -> None:
    spools = DiskSpools(root)
    spools.prepare()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        spools.create(1 << 62)
    spools.close()


def test_p1_a_start_sweeps_the_dead_and_spares_the_living(root: Path) -> None:
    living = DiskSpools(root)
    living.prepare()
    spool = living.create(None)
    dead = root / "0123456789abcdef"
    dead.mkdir()
    (dead / "leftover").write_bytes(b"x")
    (root / "lost+found").mkdir()
    (root / "a file").write_bytes(b"somebody's")
    second = DiskSpools(root)
    second.prepare()
    assert not dead.exists()
    assert spool.path is not None
    assert spool.path.exists()
    assert (root / "lost+found").exists()
    assert (root / "a file").exists()
    spool.close()
    living.close()
    second.close()
