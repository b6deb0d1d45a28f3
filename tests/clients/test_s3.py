"""One replica fills the bucket, and another installs from it without upstream."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import NewWorkspace
from tests.clients.tools import Client
from tests.s3.disks import caches
from tests.s3.scene import Bucket, on_bucket
from tests.support import graphs
from tests.support.s3.services import Rclone

pytestmark = pytest.mark.clients

DOCUMENTED = re.compile(
    r"layout\.json"
    r"|files/pypi/[0-9a-f]{2}/[0-9a-f]{2}/[a-z0-9-]+/[A-Za-z0-9._+!-]+\.(?:whl|tar\.gz)(?:\.metadata|\.provenance)?"
    r"|meta/pypi/(?:upstream\.json|projects\.txt|[0-9a-f]{2}/[0-9a-f]{2}/[a-z0-9-]+(?:\.legacy[^/]*)?\.json)"
    r"|access/\d{4}-\d\d-\d\d/[A-Za-z0-9._-]+\.bin"
)
"""The keys of ARCHITECTURE.md that a mirror leaves behind when all is well."""


LOCKED = {"alpha": "2.0", "beta": "2.0", "gamma": "2.0", "delta": "2.0"}


@pytest.fixture
def bucket(rclone_service: Rclone) -> Iterator[Bucket]:
    with on_bucket(rclone_service, graphs.alpha()) as made:
        yield made


def test_one_replica_fills_and_another_installs_without_upstream(
    bucket: Bucket, pip: Client, uv: Client, new_workspace: NewWorkspace
) -> None:
    a = bucket.replica(page_ttl=600)
    for client in (pip, uv):
        outcome = client.install(new_workspace(a.mirror.url), "alpha")
        assert (outcome.code, outcome.installed) == (0, outcome.installed | LOCKED), outcome
    a.mirror.terminate()
    bucket.upstream.stop_now()
    b = bucket.replica(page_ttl=600)
    for client in (pip, uv):
        outcome = client.install(new_workspace(b.mirror.url), "alpha")
        assert (outcome.code, outcome.installed) == (0, outcome.installed | LOCKED), outcome
    b.mirror.terminate()
    kept = bucket.stored_keys()
    assert not [key for key in kept if not DOCUMENTED.fullmatch(key)]
    assert {key.split("/")[0] for key in kept} == {"layout.json", "files", "meta", "access"}


def test_an_offline_replica_installs_from_the_bucket_alone(
    bucket: Bucket, pip: Client, new_workspace: NewWorkspace
) -> None:
    a = bucket.replica()
    assert pip.install(new_workspace(a.mirror.url), "alpha").code == 0
    a.mirror.terminate()
    bucket.upstream.stop_now()
    b = bucket.replica(offline=True)
    outcome = pip.install(new_workspace(b.mirror.url), "alpha")
    assert (outcome.code, outcome.installed) == (0, outcome.installed | LOCKED), outcome


def test_k20_clients_install_archives_through_redirects_that_nobody_keeps(
    bucket: Bucket, pip: Client, uv: Client, new_workspace: NewWorkspace
) -> None:
    archives = [file for project in graphs.alpha() for file in project.files if file.version == "2.0"]
    first = bucket.replica(page_ttl=600)
    assert pip.install(new_workspace(first.mirror.url), "alpha").code == 0
    first.mirror.terminate()
    bucket.upstream.stop_now()
    b = bucket.replica(page_ttl=600, redirect_networks="127.0.0.0/8")
    for client in (pip, uv):
        bucket.proxy.reset_log()
        outcome = client.install(new_workspace(b.mirror.url), "alpha")
        assert (outcome.code, outcome.installed) == (0, outcome.installed | LOCKED), outcome
        agent = client.name.partition("-")[0]
        fetched = [call for call in bucket.proxy.log if call.headers["user-agent"].startswith(f"{agent}/")]
        assert {call.key.rpartition("/")[2] for call in fetched} == {each.filename for each in archives}
        assert {call.operation for call in fetched} == {"GetObject"}
    for archive in archives:
        answer = asyncio.run(b.get(archive.path))
        assert (answer.status, answer.headers["cache-control"]) == (302, "no-store")
    b.mirror.terminate()
    answered = {(sort_of(entry["path"]), entry["status"]) for entry in b.mirror.events("request")}
    assert answered == {("page", 200), ("metadata", 200), ("archive", 302)}
    assert not any(entry.get("cache") == "HIT cache" for entry in b.mirror.log)


def sort_of(path: str) -> str:
    """What a client asks for with such a path."""
    if path.startswith("/simple/"):
        return "page"
    return "metadata" if path.endswith(".metadata") else "archive"


def test_clients_install_with_both_caches_and_after_these_were_emptied(
    bucket: Bucket, pip: Client, uv: Client, new_workspace: NewWorkspace, tmp_path: Path
) -> None:
    folders = caches(tmp_path / "caches")
    replica = bucket.replica(page_ttl=600, **folders)

    def install(client: Client) -> None:
        outcome = client.install(new_workspace(replica.mirror.url), "alpha")
        assert (outcome.code, outcome.installed) == (0, outcome.installed | LOCKED), outcome

    install(pip)
    install(uv)
    replica.mirror.restart()  # uploads what the bucket lacks still
    bucket.upstream.stop_now()
    bucket.proxy.reset_log()
    install(uv)
    install(pip)
    assert not bucket.proxy.calls("GET"), bucket.proxy.requests("GET")
    for name in ("metadata_cache_dir", "dist_cache_dir"):
        shutil.rmtree(folders[name])
    install(pip)
    assert bucket.proxy.calls("GET", "files/*.whl")
    replica.mirror.restart()
    install(uv)
