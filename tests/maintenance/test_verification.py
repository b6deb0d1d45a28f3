"""Damage is done for real, and found from the store alone."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from mirror.adapters.directory.store import DirectoryStore
from mirror.maintenance.findings import Account, Finding, Kind
from mirror.maintenance.last_use import pack_record
from mirror.maintenance.verification import Verification
from mirror.model import Learned
from mirror.names import archive_key, page_key, project_name, shard
from mirror.ports import Store
from mirror.repositories.envelope import pack
from tests.maintenance.stocked import (
    SOURCE,
    bytes_of,
    contents,
    directory,
    document,
    flip,
    metadata_of,
    names_of,
    sha256,
    some_tasks,
    stock,
)
from tests.repositories.world import rewrite, world
from tests.support.packages import wheel

PROJECTS = [f"project-{n}" for n in range(40)]
P = project_name("p")


async def verified(store: Store, *, repair: bool = False, sample: float = 1.0) -> tuple[Account, dict[str, Finding]]:
    found: list[Finding] = []
    async with some_tasks() as tasks:
        account = await Verification(store, tasks, repair=repair, sample=sample, found=found.append).run()
    by_key = {finding.key: finding for finding in found}
    assert len(by_key) == len(found)
    assert Counter(finding.kind for finding in found) == account.findings
    return account, by_key


def kinds(found: dict[str, Finding]) -> dict[str, Kind]:
    return {key: finding.kind for key, finding in found.items()}


async def test_a_sound_store_is_sound_and_not_changed(tmp_path: Path) -> None:
    async with directory(tmp_path) as store:
        keys = await stock(store, PROJECTS, count=4)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        account, found = await verified(store, repair=True)
        assert found == {}
        assert account.sound
        assert (account.projects, account.objects, account.unproven) == (len(PROJECTS), len(keys), 0)
        assert account.bytes_read == sum((tmp_path / key).stat().st_size for key in keys if key.startswith("files/"))
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


async def test_every_flipped_bit_is_found_wherever_it_is(tmp_path: Path) -> None:
    """Promise 14."""
    chance = random.Random(14)
    async with directory(tmp_path) as store:
        keys = [key for key in await stock(store, PROJECTS, count=3) if not key.endswith("upstream.json")]
        damaged = chance.sample(keys, len(keys) // 10)
        for key in damaged:
            flip(tmp_path / key, chance)
        account, found = await verified(store)
        assert found.keys() >= set(damaged)
        pages = {key for key in damaged if key.startswith("meta/")}
        # An archive whose page is damaged cannot be told sound from damaged; nor is it served.
        assert {key for key, finding in found.items() if finding.kind is Kind.ORPHAN} == {
            key for key in keys if key.startswith("files/") and any(is_of(key, page) for page in pages)
        }
        assert {key for key, kind in kinds(found).items() if kind is Kind.DAMAGED} == {
            key for key in damaged if key in pages or not any(is_of(key, page) for page in pages)
        }
        assert not account.sound
        assert account.quarantined == 0
        assert {key for key in keys if not (tmp_path / key).exists()} == set()


def is_of(key: str, page: str) -> bool:
    return page.removesuffix(".json").removeprefix("meta/") + "/" in key


async def test_every_page_that_is_gone_is_noticed_by_its_archives(tmp_path: Path) -> None:
    """Promise 14: a random tenth of the metadata is deleted."""
    chance = random.Random(10)
    async with directory(tmp_path) as store:
        keys = await stock(store, PROJECTS)
        gone = chance.sample([key for key in keys if key.startswith("meta/") and "upstream" not in key], 4)
        for key in gone:
            (tmp_path / key).unlink()
        _, found = await verified(store, repair=True)
        orphans = {key for key in keys if key.startswith("files/") and any(is_of(key, page) for page in gone)}
        assert kinds(found) == dict.fromkeys(orphans, Kind.ORPHAN)
        assert all((tmp_path / key).exists() for key in orphans), "repair takes only what is damaged"


@pytest.mark.parametrize("sample", [1.0, 0.000001])
async def test_a_truncated_archive_is_found_even_where_it_is_not_read(tmp_path: Path, sample: float) -> None:
    async with directory(tmp_path) as store:
        keys = await stock(store, PROJECTS[:3])
        key = next(key for key in keys if key.endswith(".tar.gz"))
        os.chmod(tmp_path / key, 0o644)
        os.truncate(tmp_path / key, 1999)
        _, found = await verified(store, sample=sample)
        assert kinds(found) == {key: Kind.DAMAGED}
        assert "1999 of 2000" in found[key].why


async def test_a_sample_reads_about_its_part(tmp_path: Path) -> None:
    async with directory(tmp_path) as store:
        await stock(store, PROJECTS, count=10)
        whole, _ = await verified(store)
        part, found = await verified(store, sample=0.3)
        assert found == {}
        assert part.objects == whole.objects
        assert 0.05 * whole.bytes_read < part.bytes_read < 0.7 * whole.bytes_read


async def test_repair_quarantines_what_is_damaged_and_keeps_its_bytes(tmp_path: Path) -> None:
    chance = random.Random(3)
    async with directory(tmp_path) as store:
        keys = await stock(store, PROJECTS[:6], count=3)
        damaged = [key for key in keys if "project_0" in key or "project-1.json" in key]
        bodies = set()
        for key in damaged:
            flip(tmp_path / key, chance)
            bodies.add((tmp_path / key).read_bytes())
        account, found = await verified(store, repair=True)
        assert account.quarantined == len(damaged)
        assert {key for key, finding in found.items() if finding.quarantined} == set(damaged)
        assert [key for key in damaged if (tmp_path / key).exists()] == []
        assert {p.read_bytes() for p in (tmp_path / "quarantine").rglob("*") if p.is_file()} == bodies
        _, again = await verified(store)
        assert {finding.kind for finding in again.values()} == {Kind.ORPHAN}, "those whose page went"


async def test_what_cannot_be_read_is_said_and_left_alone(tmp_path: Path) -> None:
    async with directory(tmp_path) as store:
        keys = await stock(store, PROJECTS[:3])
        page = next(key for key in keys if key.startswith("meta/") and "upstream" not in key)
        (tmp_path / page).rename(tmp_path / "tmp-away")
        os.symlink(tmp_path / "tmp-away", tmp_path / page)
        sidecar = next(key for key in keys if key.endswith(".metadata") and not is_of(key, page))
        os.chmod(tmp_path / sidecar, 0o644)
        os.truncate(tmp_path / sidecar, 9 << 20)
        account, found = await verified(store, repair=True)
        assert kinds(found) == {page: Kind.UNREADABLE, sidecar: Kind.UNREADABLE}
        assert account.quarantined == 0
        assert (tmp_path / page).is_symlink()
        (tmp_path / "tmp-away").unlink()


async def test_an_archive_that_was_withdrawn_is_held_against_the_earlier_page(tmp_path: Path) -> None:
    old, new = names_of("p", 3)[:2]
    async with directory(tmp_path) as store:
        await stock(store, [])
        for name in (old, new):
            await store.put(archive_key(SOURCE, P, name), bytes_of(name))
        page = document("p", {new: bytes_of(new)}, withdrawn={old: bytes_of(old)})
        await store.put(page_key(SOURCE, P), pack(page))
        assert (await verified(store))[1] == {}
        flip(tmp_path / archive_key(SOURCE, P, old), random.Random(1))
        assert kinds((await verified(store))[1]) == {archive_key(SOURCE, P, old): Kind.DAMAGED}


async def test_core_metadata_that_only_the_mirror_has_is_missed(tmp_path: Path) -> None:
    name = names_of("p")[0]
    sidecar = archive_key(SOURCE, P, name, ".metadata")
    async with directory(tmp_path) as store:
        await stock(store, [])
        page = document("p", {name: bytes_of(name)}, learned={name: Learned(metadata_sha256=sha256(metadata_of(name)))})
        await store.put(page_key(SOURCE, P), pack(page))
        assert (await verified(store))[1] == {}, "neither the archive nor its metadata is held"
        await store.put(archive_key(SOURCE, P, name), bytes_of(name))
        assert kinds((await verified(store))[1]) == {sidecar: Kind.MISSING}
        await store.put(sidecar, metadata_of(name))
        assert (await verified(store))[1] == {}
        flip(tmp_path / sidecar, random.Random(2))
        assert kinds((await verified(store, repair=True))[1]) == {sidecar: Kind.DAMAGED}


async def test_hosted_files_are_checked_and_never_touched(tmp_path: Path) -> None:
    folder = f"local/{shard(P)}/p"
    good, bad, bare = names_of("p", 3)
    async with directory(tmp_path) as store:
        for name in (good, bad):
            record = {"hashes": {"sha256": sha256(bytes_of(name))}, "size": 2000, "yanked": False}
            await store.put(f"{folder}/{name}", bytes_of(name))
            await store.put(f"{folder}/{name}.json", msgspec.json.encode(record))
        await store.put(f"{folder}/{bare}", b"an upload that was cut short")
        await store.put(f"{folder}/lost-1.tar.gz.json", b"{}")
        flip(tmp_path / folder / bad, random.Random(5))
        before = await contents(store)
        account, found = await verified(store, repair=True)
        assert kinds(found) == {
            f"{folder}/{bad}": Kind.DAMAGED,
            f"{folder}/{bare}": Kind.ORPHAN,
            f"{folder}/lost-1.tar.gz": Kind.MISSING,
        }
        assert account.quarantined == 0
        assert await contents(store) == before


async def test_other_objects_are_looked_at_too(tmp_path: Path) -> None:
    lines = b"one\ntwo\n"
    facts = {"fetched_at": 0, "revision": sha256(lines), "names": 2, "stop": len(lines)}
    sound = {
        "meta/pypi/projects.txt": lines + msgspec.json.encode(facts),
        "meta/pypi/upstream.json": b'{"url": "https://index.example.com/simple/"}',
        "access/2026-01-02/a.bin": pack_record([3, 1, 2]),
        "pins/release.json": b'["files/pypi/ac/f3/requests/requests-1.tar.gz"]',
        page_key(SOURCE, P, ".legacy"): b'{"info": {}, "vulnerabilities": [], "last_serial": 1, "fetched_at": 1}',
    }
    wrong = {
        "meta/other/projects.txt": b"one\nTwo\n" + msgspec.json.encode(facts),
        "meta/other/upstream.json": b'{"url": ',
        "access/2026-01-02/b.bin": pack_record([3, 1, 2])[:-1],
        "access/2026-01-02/c.bin": pack_record([3, 1, 2])[::-1],
        "pins/broken.json": b"{}",
        page_key(SOURCE, P, ".legacy-1.0"): b'{"info": {}, "vulner',
    }
    stray = {"access/yesterday/a.bin": b"", "files/pypi/README": b"hello"}
    async with directory(tmp_path) as store:
        for key, body in (sound | wrong | stray).items():
            await store.put(key, body)
        _, found = await verified(store, repair=True)
        assert kinds(found) == dict.fromkeys(wrong, Kind.DAMAGED) | dict.fromkeys(stray, Kind.STRAY)
        kept = {"pins/broken.json", "meta/other/upstream.json"}
        assert {key for key, finding in found.items() if not finding.quarantined} == kept | stray.keys()


async def test_what_a_mirror_has_stored_is_sound_and_after_repair_it_is_fetched_anew(tmp_path: Path) -> None:
    """Promise 14: the mirror goes on over what verify leaves, and comes to the same bytes."""
    async with world(tmp_path) as mirror:
        files = [mirror.publish(wheel("p", f"{n}.0")) for n in range(4)]
        before = [await mirror.get(file) for file in files]
        await mirror.settle()  # core metadata is read out of the wheels behind
        for file in files:
            await mirror.metadata(await mirror.entry(file.filename))
        await mirror.settle()
        account, found = await verified(mirror.store)
        assert (found, account.projects) == ({}, 1)
        assert account.objects >= 1 + 2 * len(files)
        rewrite(mirror.archive_on_disk(files[0]), b"x" * 100)
        rewrite(mirror.archive_on_disk(files[1], ".metadata"), b"x" * 100)
        _, found = await verified(mirror.store, repair=True)
        assert {key for key, each in found.items() if each.quarantined} == {
            archive_key("memory", P, files[0].filename),
            archive_key("memory", P, files[1].filename, ".metadata"),
        }
        flip(mirror.page_on_disk(), random.Random(7))
        await mirror.restart()
        _, found = await verified(mirror.store, repair=True)
        assert found[page_key("memory", P)].quarantined
        assert [await mirror.get(file) for file in files] == before
        await mirror.settle()
        _, found = await verified(mirror.store)
        assert found == {}


async def test_a_page_that_is_replaced_meanwhile_is_no_finding(tmp_path: Path) -> None:
    """The listing shows an archive that the page, when it is read first, does not name yet."""
    names = names_of("p", 3)

    class Late(DirectoryStore):
        reads = 0

        async def read(self, key: str, limit: int) -> bytes | None:
            if key == page_key(SOURCE, P):
                self.reads += 1
                known = names if self.reads > 1 else names[:1]
                return pack(document("p", {name: bytes_of(name) for name in known}))
            return await super().read(key, limit)

    store = Late(tmp_path)
    await store.start()
    await stock(store, ["p"], count=3)
    _, found = await verified(store)
    assert store.reads == 2
    assert found == {}
    await store.aclose()
