"""One replica fills the bucket, and another installs from it without upstream."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.clients.conftest import NewWorkspace
from tests.clients.tools import Client
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
    assert not [key for key in bucket.keys() if not DOCUMENTED.fullmatch(key)]
    assert {key.split("/")[0] for key in bucket.keys()} == {"layout.json", "files", "meta", "access"}


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
