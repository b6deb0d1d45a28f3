"""Files that are known to have passed their check are not read again, and all others are."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mirror.counters import Counters
from mirror.errors import IntegrityError
from mirror.flight import Tasks
from mirror.model import File, LocalFile, Origin
from mirror.repositories.proof import Identity, Proofs, contents

BODY = b"0123456789" * 1000
RIGHT = File("p-1.tar.gz", "", "packages/p-1.tar.gz", {"sha256": hashlib.sha256(BODY).hexdigest()})
OTHER = File("p-1.tar.gz", "", "packages/p-1.tar.gz", {"sha256": "0" * 64})


class Bench:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.proofs = Proofs(Tasks(Counters()))
        self.failed = 0

    async def prove(self, file: File) -> None:
        async def fails(_: Identity, error: IntegrityError) -> None:
            self.failed += 1

        with self.path.open("rb") as handle:
            size = self.path.stat().st_size
            await self.proofs.prove(file, LocalFile(handle, size, 0, size, Origin.CACHE), fails)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    path = tmp_path / "a"
    path.write_bytes(BODY)
    return Bench(path)


async def test_a_file_is_read_unless_it_is_vouched_for(bench: Bench) -> None:
    await bench.prove(RIGHT)
    with pytest.raises(IntegrityError):
        await bench.prove(OTHER)
    assert bench.failed == 1
    bench.proofs.vouch(os.stat(bench.path), OTHER)
    await bench.prove(OTHER)


async def test_what_was_handed_over_is_known_under_its_new_name(bench: Bench, tmp_path: Path) -> None:
    bench.proofs.hand_over(contents(os.stat(bench.path)), OTHER)
    bench.path = bench.path.rename(tmp_path / "b")
    await bench.prove(OTHER)
    await bench.prove(OTHER)
    bench.path = bench.path.rename(tmp_path / "c")
    with pytest.raises(IntegrityError):
        await bench.prove(OTHER)


async def test_what_was_written_to_after_it_was_handed_over_is_read(bench: Bench) -> None:
    bench.proofs.hand_over(contents(os.stat(bench.path)), OTHER)
    with bench.path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(IntegrityError):
        await bench.prove(OTHER)
