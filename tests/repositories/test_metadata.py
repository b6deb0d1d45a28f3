"""Core metadata and provenance: upstream's where it is right, else out of the wheel, advertised only if servable."""

from __future__ import annotations

import hashlib

import pytest

from mirror.errors import IntegrityError, MirrorError, NoSuchSidecar, NotHeld, UpstreamDown, UpstreamMisbehaved
from mirror.model import File, FileRef, Learned, Span
from mirror.names import archive_key
from tests.repositories.world import P, World, rewrite
from tests.support.packages import Archive, archive_of, sdist, wheel

WHEEL = wheel("p", "1.0", requires=["other>=2"], blob=150_000)
BROKEN = archive_of("p-3.0-py3-none-any.whl", "3.0", b"this is no zip file" * 1000, b"")
WRONG = b"Metadata-Version: 2.1\nName: p\nVersion: 1.0\n"


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def promising(w: World, archive: Archive, served: bytes | None, digest: object = None) -> File:
    """Publishes a wheel whose page promises its metadata, and serves `served` in its place."""
    file = w.publish(archive, core_metadata={"sha256": sha256(archive.metadata)} if digest is None else digest)
    if served is not None:
        w.upstream.files[f"{file.url}.metadata"] = served
    return file


async def advertised(w: World, archive: Archive = WHEEL) -> object:
    await w.settle()
    return (await w.entry(archive.filename)).core_metadata


async def test_upstreams_metadata_is_fetched_once_and_kept(any_world: World) -> None:
    w = any_world
    file = promising(w, WHEEL, WHEEL.metadata)
    for _ in range(3):
        assert await w.metadata(file) == WHEEL.metadata
    assert w.upstream_calls("small:") == 1
    await w.restart(offline=True)
    assert await w.metadata(file) == WHEEL.metadata


async def test_a_promise_without_digest_becomes_one_with(any_world: World) -> None:
    w = any_world
    file = promising(w, WHEEL, WHEEL.metadata, digest=True)
    assert await w.metadata(file) == WHEEL.metadata
    assert await advertised(w) == {"sha256": sha256(WHEEL.metadata)}


async def test_u25_wrong_metadata_gives_way_to_that_in_the_wheel(any_world: World) -> None:
    w = any_world
    file = promising(w, WHEEL, WRONG)
    assert await w.metadata(file) == WHEEL.metadata
    assert w.counters["metadata_mismatches"] == 1
    assert await w.metadata(file) == WHEEL.metadata
    assert w.upstream_calls("small:") == 1


async def test_u25_a_promise_that_cannot_be_kept_is_dropped(any_world: World) -> None:
    w = any_world
    file = promising(w, BROKEN, WRONG, digest={"sha256": sha256(b"right")})
    with pytest.raises(IntegrityError):
        await w.metadata(file)
    assert await advertised(w, BROKEN) is False
    with pytest.raises(NoSuchSidecar):
        await w.metadata(file)
    await w.restart()
    assert await advertised(w, BROKEN) is False
    assert w.counters["metadata_mismatches"] == 1


async def test_u25_a_promise_that_the_wheel_contradicts_is_corrected(any_world: World) -> None:
    w = any_world
    file = promising(w, WHEEL, WRONG, digest={"sha256": sha256(b"right")})
    with pytest.raises(IntegrityError):
        await w.metadata(file)
    assert await advertised(w) == {"sha256": sha256(WHEEL.metadata)}
    assert await w.metadata(file) == WHEEL.metadata


async def test_missing_at_upstream_comes_out_of_the_wheel(any_world: World) -> None:
    w = any_world
    file = promising(w, WHEEL, None)
    assert await w.metadata(file) == WHEEL.metadata
    assert await advertised(w) == {"sha256": sha256(WHEEL.metadata)}


@pytest.mark.parametrize("failure", [UpstreamDown, UpstreamMisbehaved])
async def test_u1_a_passing_failure_drops_no_promise(any_world: World, failure: type[UpstreamDown]) -> None:
    w = any_world
    file = promising(w, WHEEL, WHEEL.metadata)
    await w.page()
    with w.upstream.failing(failure("memory", "it answered 502")), pytest.raises(MirrorError):
        await w.metadata(file)
    assert await advertised(w) == {"sha256": sha256(WHEEL.metadata)}
    assert await w.metadata(file) == WHEEL.metadata


async def test_a_wheel_that_is_kept_gets_its_metadata_advertised(any_world: World) -> None:
    w = any_world
    file = w.publish(WHEEL)
    assert await advertised(w) is False
    with pytest.raises(NoSuchSidecar):
        await w.metadata(file)
    await w.get(file)
    assert await advertised(w) == {"sha256": sha256(WHEEL.metadata)}
    asked = sum(w.upstream.calls.values())
    assert await w.metadata(file) == WHEEL.metadata
    assert sum(w.upstream.calls.values()) == asked, "it was read from the wheel that is held"
    assert w.upstream_calls("file:") == 1
    await w.restart()
    with w.upstream.failing():
        assert await advertised(w) == {"sha256": sha256(WHEEL.metadata)}
        assert await w.metadata(file) == WHEEL.metadata


async def test_who_reads_a_wheel_by_ranges_makes_its_metadata_advertised(any_world: World) -> None:
    w = any_world
    big = wheel("p", "2.0", blob=1_500_000)
    file = w.publish(big)
    await w.get(file, Span(suffix=1000))
    assert await advertised(w, big) == {"sha256": sha256(big.metadata)}
    assert await w.metadata(file) == big.metadata
    assert await w.store.open(archive_key("memory", P, file.filename)) is None


async def test_head_makes_metadata_advertised_too(any_world: World) -> None:
    w = any_world
    file = w.publish(WHEEL, size=None)
    await w.repository.file_facts(FileRef(file.path))
    assert await advertised(w) == {"sha256": sha256(WHEEL.metadata)}


async def test_nothing_is_advertised_that_cannot_be_kept(any_world: World) -> None:
    w = any_world
    w.publish(WHEEL)
    entry = await w.entry(WHEEL.filename)
    w.store.writes = False
    await w.get(entry)
    assert await advertised(w) is False


async def test_metadata_is_not_derived_where_it_is_not_wanted(any_world: World) -> None:
    w = any_world
    await w.restart(derive_metadata=False)
    file = w.publish(WHEEL)
    await w.repository.file_facts(FileRef(file.path))
    await w.get(file)
    assert await advertised(w) is False


@pytest.mark.parametrize("archive", [BROKEN, sdist("p", "4.0")], ids=["broken", "sdist"])
async def test_what_is_no_readable_wheel_has_no_metadata(any_world: World, archive: Archive) -> None:
    w = any_world
    file = w.publish(archive)
    assert await w.get(file) == archive.content
    assert await advertised(w, archive) is False


async def test_metadata_read_by_ranges_is_audited_when_the_wheel_is_held(any_world: World) -> None:
    w = any_world
    big = wheel("p", "2.0", blob=1_500_000)
    other = wheel("p", "2.0", blob=1_500_000, requires=["evil"])
    file = w.publish(big)
    true = w.upstream.files[file.url]
    w.upstream.files[file.url] = other.content[: len(true)].ljust(len(true), b"\0")
    lied = wheel("p", "2.0", blob=1_500_000, requires=["evil"]).metadata
    await w.settle()
    w.repository._pages.learn(P, file.filename, Learned(metadata_sha256=sha256(lied)))
    await w.page()
    w.repository._pages.learn(P, file.filename, Learned(metadata_sha256=sha256(lied)))
    await w.store.put(archive_key("memory", P, file.filename, ".metadata"), lied)
    assert await advertised(w, big) == {"sha256": sha256(lied)}
    assert await w.metadata(file) == lied
    w.upstream.files[file.url] = true
    assert await w.get(file) == big.content
    assert await advertised(w, big) == {"sha256": sha256(big.metadata)}
    assert await w.metadata(file) == big.metadata
    assert w.counters["metadata_mismatches"] == 1


async def test_wrong_metadata_of_an_unreadable_wheel_is_dropped_by_the_audit(any_world: World) -> None:
    w = any_world
    file = w.publish(BROKEN)
    await w.page()
    w.repository._pages.learn(P, file.filename, Learned(metadata_sha256=sha256(WRONG)))
    await w.store.put(archive_key("memory", P, file.filename, ".metadata"), WRONG)
    assert await advertised(w, BROKEN) == {"sha256": sha256(WRONG)}
    await w.get(file)
    assert await advertised(w, BROKEN) is False


async def test_an_audit_waits_for_a_reading_by_ranges_that_is_under_way(any_world: World) -> None:
    w = any_world
    big = wheel("p", "2.0", blob=1_500_000)
    file = w.publish(big)
    await w.get(file, Span(1_400_000, 1_400_010))  # starts the reading behind
    assert await w.get(file) == big.content
    assert await advertised(w, big) == {"sha256": sha256(big.metadata)}
    assert await w.metadata(file) == big.metadata
    assert w.counters["metadata_derived"] == 2


@pytest.mark.parametrize("damage", [b"", WRONG])
async def test_l7_damaged_stored_metadata_is_not_served(disk_world: World, damage: bytes) -> None:
    w = disk_world
    file = w.publish(WHEEL)
    await w.get(file)
    await w.settle()
    rewrite(w.archive_on_disk(file, ".metadata"), damage)
    assert await w.metadata(file) == WHEEL.metadata
    w.archive_on_disk(file, ".metadata").unlink()
    assert await w.metadata(file) == WHEEL.metadata


async def test_offline_metadata_comes_out_of_a_held_wheel_and_upstream_is_not_asked(any_world: World) -> None:
    w = any_world
    kept, other = w.publish(WHEEL), w.publish(wheel("p", "2.0"), core_metadata=True)
    await w.get(kept)
    await w.settle()
    await w.store.delete(archive_key("memory", P, kept.filename, ".metadata"))
    await w.restart(offline=True)
    asked = sum(w.upstream.calls.values())
    assert await w.metadata(kept) == WHEEL.metadata
    with pytest.raises(NotHeld):
        await w.metadata(other)
    assert sum(w.upstream.calls.values()) == asked


# --- provenance ------------------------------------------------------------------------------------


async def provenance(w: World, file: File) -> bytes:
    return await w.repository.open_sidecar(FileRef(file.path), "provenance")


async def test_provenance_is_upstreams_as_it_is_now_else_the_copy_held(any_world: World) -> None:
    w = any_world
    url = "https://index.example.com/integrity/p/provenance"
    file = w.publish(WHEEL, provenance=url)
    w.upstream.files[url] = b'{"version": 1}'
    assert await provenance(w, file) == b'{"version": 1}'
    w.upstream.files[url] = b'{"version": 1, "more": 2}'
    assert await provenance(w, file) == b'{"version": 1, "more": 2}'
    with w.upstream.failing():
        assert await provenance(w, file) == b'{"version": 1, "more": 2}'
    del w.upstream.files[url]
    with pytest.raises(NoSuchSidecar):
        await provenance(w, file)
    await w.restart(offline=True)
    assert await provenance(w, file) == b'{"version": 1, "more": 2}'


async def test_provenance_that_is_not_to_be_had(any_world: World) -> None:
    w = any_world
    file, without = w.publish(WHEEL, provenance="https://index.example.com/i/p"), w.publish(BROKEN)
    with pytest.raises(NoSuchSidecar):
        await provenance(w, without)
    await w.page()
    with w.upstream.failing(), pytest.raises(UpstreamDown):
        await provenance(w, file)
    await w.settle()
    await w.restart(offline=True)
    with pytest.raises(NotHeld):
        await provenance(w, file)
