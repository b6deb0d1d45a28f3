"""Defects of caches before an object store that are known from elsewhere: wrong bytes, lost bytes, mixed-up names.

F-03 is tested in test_replicas, F-09, F-10 and F-13 in test_defects_of_answers, F-05 to F-08 in test_defects_of_disks.
F-11 needs accounts, which there are none of yet; F-15 is that such tests are missing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.names import ProjectName, archive_key, file_name, page_key, project_name
from mirror.simple.terms import SIDECARS
from tests.faults.scene import eventually, eventually_async
from tests.s3.disks import caches, comes_from_cache, copies
from tests.s3.scene import Bucket, Replica
from tests.s3.tuned import tuned
from tests.support.faults import Fault
from tests.support.packages import Archive, Project, sdist
from tests.support.rawhttp import RawResponse, fetch
from tests.support.s3.faults import S3Fault

# --- F-01 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", ["no cache", "both caches"])
async def test_f01_what_no_page_names_is_refused_in_every_state_of_caches_and_store(
    bucket: Bucket, tmp_path: Path, local: str
) -> None:
    replica = bucket.replica(page_ttl=600, **(caches(tmp_path) if local == "both caches" else {}))
    archive = replica.publish("known", 10_000)
    await replica.get_whole(archive)
    await bucket.holds(archive)
    planted = archive.filename.replace("1.0", "9.9")
    bucket.put(bucket.key_of(archive).replace(archive.filename, planted), archive.content)
    bucket.put(bucket.key_of(archive).replace(archive.filename, f"{planted}.metadata"), archive.metadata)
    assert bool(copies(tmp_path, archive)) == (local == "both caches")
    for place in copies(tmp_path, archive):
        place.with_name(planted).write_bytes(archive.content)
    folder = archive.path.rpartition("/")[0]
    unnamed = [
        f"{folder}/{planted}",
        f"{folder}/{planted}.metadata",
        f"packages/00/00/{'0' * 60}/{archive.filename}",  # a good name where upstream does not have it
        f"{folder}/elsewhere-1.0-py3-none-any.whl",
        f"{folder}/..%2f{archive.filename}",
    ]

    async def refused() -> None:
        for path in unnamed:
            for answer in (await replica.get(path), await fetch(replica.mirror.origin + path, method="HEAD")):
                assert answer.status == 404, (path, answer)
                assert not any(part in answer.body for part in (archive.content[:64], archive.metadata))

    await refused()
    bucket.proxy.fault("*", error="AccessDenied")
    await refused()
    bucket.proxy.fault("*", error="NoSuchBucket")
    await refused()
    bucket.proxy.fault("*", method="GET", cut_after=1)
    await refused()
    bucket.proxy.refuse()
    await refused()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(b"nonsense")
    await refused()
    bucket.proxy.accept()


# --- F-02 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["upstream", "bucket"])
async def test_f02_a_transfer_that_is_cut_is_never_served_as_whole(bucket: Bucket, tmp_path: Path, source: str) -> None:
    replica = bucket.replica(page_ttl=600, **caches(tmp_path))
    archives = [replica.publish(f"cut{number}", 400_000) for number in range(4)]
    if source == "bucket":
        first = bucket.replica()
        for archive in archives:
            await first.get_whole(archive)
            await bucket.holds(archive)
    for number in range(4):
        await replica.files_of(f"cut{number}")
    if source == "bucket":
        await bucket.upstream_gone()
    for archive, at in zip(archives, (0, 1, archives[2].size // 2, archives[3].size - 1), strict=True):
        if source == "upstream":
            cut: Fault | S3Fault = bucket.upstream.fault(f"/{archive.path}", cut_after=at)
        else:
            cut = bucket.proxy.fault(f"*/{archive.filename}", method="GET", cut_after=at)
        assert_right_so_far(await replica.get(archive.path), archive)
        assert cut.hits
        for place in copies(tmp_path, archive):
            assert place.read_bytes() == archive.content
        bucket.upstream.heal()
        bucket.proxy.heal()
    for archive in archives:
        await comes_from_cache_again(replica, archive)
        await bucket.holds(archive)


def assert_right_so_far(answer: RawResponse, archive: Archive) -> None:
    """An answer may fail and may break off; it may not be wrong, nor a part that passes for the whole."""
    if answer.status == 200:
        assert archive.content.startswith(answer.body)
        assert not answer.complete or len(answer.body) == archive.size


async def comes_from_cache_again(replica: Replica, archive: Archive) -> None:
    """Returns once the archive is answered from the cache; what is answered until then may fail."""

    async def is_held() -> bool:
        answer = await replica.get(archive.path)
        assert_right_so_far(answer, archive)
        return answer.status == 200 and answer.complete and answer.headers["x-cache"] == "HIT cache"

    await eventually_async(is_held)


# --- F-04 -----------------------------------------------------------------------------------------

BRIEFLY = tuned(breaker_first_pause=0.5, breaker_longest_pause=1.0)
"""The service is left alone for no longer than that."""


async def test_f04_c28_c29_an_archive_that_s3_refuses_is_written_later_without_upstream(
    bucket: Bucket, tmp_path: Path
) -> None:
    replica = bucket.replica(prefix=BRIEFLY, page_ttl=600, **caches(tmp_path))
    archive = replica.publish("refused", 300_000)
    bucket.proxy.fault("files/*", method="PUT", error="InternalError")
    await replica.get_whole(archive)
    await eventually(lambda: replica.mirror.counters()["store_writes_deferred"] == 1)
    assert not bucket.stored_keys("files/")
    await bucket.upstream_gone()
    bucket.proxy.heal()
    await bucket.holds(archive)
    assert bucket.upstream.requests[f"/{archive.path}"] == 1
    await comes_from_cache(replica, archive)
    await eventually(lambda: replica.mirror.counters()["store_writes_caught_up"] == 1)


async def test_f04_what_s3_refused_is_written_by_the_next_run_without_upstream(bucket: Bucket, tmp_path: Path) -> None:
    replica = bucket.replica(prefix=BRIEFLY, page_ttl=600, **caches(tmp_path))
    archive = replica.publish("refused", 300_000)
    bucket.proxy.fault("*", method="PUT", error="InternalError")
    await replica.files_of("refused")
    assert (await replica.get(f"{archive.path}.metadata")).body == archive.metadata
    await replica.get_whole(archive)
    await eventually(lambda: replica.mirror.counters()["store_writes_deferred"] == 1)
    await eventually(lambda: bool(replica.mirror.events("page not kept")))
    assert not any("refused" in key for key in (*bucket.stored_keys("files/"), *bucket.stored_keys("meta/")))
    await bucket.upstream_gone()
    replica.mirror.terminate()
    bucket.proxy.heal()
    replica.mirror.start()
    await bucket.holds(archive)
    assert archive.filename in await replica.files_of("refused")
    assert (await replica.get(f"{archive.path}.metadata")).body == archive.metadata
    await bucket.holds_page("refused")
    assert f"{bucket.key_of(archive)}.metadata" in bucket.stored_keys("files/")
    for path in ("simple/refused/", f"{archive.path}.metadata", archive.path):
        assert bucket.upstream.requests[f"/{path}"] == 1, path


# --- F-12 -----------------------------------------------------------------------------------------

_PARTS = ["foo", "FOO", ".", "_", "-", "__", "js", "1", "0", "meta", "json", "legacy", "metadata", "whl"]
_PROJECTS = st.lists(st.sampled_from(_PARTS)).map(lambda parts: project_name(f"a{''.join(parts)}z"))
_FILES = st.lists(st.sampled_from([*_PARTS, "+", "!"])).map(lambda parts: file_name(f"a{''.join(parts)}"))


@st.composite
def _inputs(draw: st.DrawFn) -> tuple[str, ...]:
    """What names one object: of an upstream, a project, a file that its page may list, and what stands beside it."""
    source = draw(st.sampled_from(["pypi", "pypi-2", "files", "meta"]))
    project = draw(_PROJECTS)
    if draw(st.booleans()):
        return source, project, draw(_FILES.filter(lambda f: not f.endswith(SIDECARS))), draw(_SUFFIXES)
    return source, project, draw(st.sampled_from(["", ".legacy", ".legacy-1.0"]))


_SUFFIXES = st.sampled_from(["", ".metadata", ".provenance"])


def key_of(named: tuple[str, ...]) -> str:
    match named:
        case (source, project, filename, suffix):
            return archive_key(source, ProjectName(project), filename, suffix)
        case (source, project, kind):
            return page_key(source, ProjectName(project), kind)
    raise AssertionError(named)


@given(st.lists(_inputs(), min_size=2, max_size=30, unique=True))
def test_f12_different_inputs_never_give_the_same_key(inputs: list[tuple[str, ...]]) -> None:
    assert len({key_of(named) for named in inputs}) == len(inputs)


async def test_f12_names_that_differ_in_a_sign_keep_their_own_bytes(bucket: Bucket, tmp_path: Path) -> None:
    spellings = ["foo.js", "foo_js", "Foo.JS", "foo-js"]
    archives = []
    for seed, spelling in enumerate(spellings):
        made = sdist("foo-js", "1.0", blob=10_000, seed=seed)
        archives.append(_renamed(made, f"{spelling}-1.0.tar.gz"))
    bucket.upstream.publish(Project("foo.js", tuple(archives)))
    replica = bucket.replica(page_ttl=600, **caches(tmp_path))
    for archive in archives:
        await replica.get_whole(archive)
    for archive in archives:
        await bucket.holds(archive)
        assert await replica.source_of(archive) == "HIT cache"
    other = bucket.replica(page_ttl=600)
    await bucket.upstream_gone()
    for archive in archives:
        assert await other.source_of(archive) == "HIT store"


def _renamed(archive: Archive, filename: str) -> Archive:
    return Archive(**{**vars(archive), "filename": filename})


# --- F-14 -----------------------------------------------------------------------------------------


async def test_f14_what_was_deleted_from_the_bucket_is_fetched_again_by_every_replica(bucket: Bucket) -> None:
    replicas = [bucket.replica() for _ in range(2)]
    archive = replicas[0].publish("purged", 300_000)
    for replica in replicas:
        await replica.get_whole(archive)
        await bucket.holds(archive)
    for replica in replicas:
        for key in (*bucket.stored_keys("files/"), *bucket.stored_keys("meta/")):
            if "/purged" in key:
                bucket.delete(key)
        before = bucket.upstream.requests[f"/{archive.path}"]
        assert archive.filename in await replica.files_of("purged")
        assert await replica.source_of(archive) == "MISS upstream"
        assert bucket.upstream.requests[f"/{archive.path}"] == before + 1
        await bucket.holds(archive)
        await bucket.holds_page("purged")
