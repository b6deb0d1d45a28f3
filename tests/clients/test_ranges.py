"""Clients read metadata by ranges where upstream offers none; the next ones need not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import NewWorkspace
from tests.clients.tools import Client
from tests.clients.traffic import Asked, asked_of
from tests.support import graphs
from tests.support.mirror import MirrorProcess
from tests.support.packages import Project, wheel
from tests.support.upstream import ThreadedUpstream

pytestmark = pytest.mark.clients

BIG = Project("big", (wheel("big", "1.0", requires=["alpha"], blob=8_000_000),))
INSTALLED = {"big": "1.0", "alpha": "2.0", "beta": "2.0", "gamma": "2.0", "delta": "2.0"}


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with ThreadedUpstream([BIG, *graphs.alpha()], json=False) as upstream:
        yield upstream


@pytest.fixture
def mirror(upstream: ThreadedUpstream, tmp_path: Path) -> Iterator[MirrorProcess]:
    with MirrorProcess(data_dir=tmp_path / "data", upstream_url=upstream.url) as mirror:
        yield mirror


@pytest.mark.parametrize("client", ["uv", "poetry"], indirect=True)
def test_ranges_first_and_metadata_from_then_on(
    client: Client,
    uv: Client,
    upstream: ThreadedUpstream,
    mirror: MirrorProcess,
    new_workspace: NewWorkspace,
) -> None:
    cold = client.install(new_workspace(mirror.url), "big")
    assert (cold.code, cold.installed) == (0, INSTALLED), cold
    asked = asked_of(mirror)
    assert any(each.status == 206 for each in asked), asked
    assert not any(each.path.endswith(".metadata") for each in asked), asked

    # Until somebody wants it whole, no more of the big wheel is fetched than its end; then it is, once.
    wheel_requests = [each for each in upstream.log if each.path == f"/{BIG.files[0].path}"]
    whole = [each for each in wheel_requests if each.method == "GET" and "range" not in each.headers]
    assert len(whole) == 1
    assert whole[0] is wheel_requests[-1]
    assert upstream.sent[f"/{BIG.files[0].path}"] < BIG.files[0].size + 200_000

    upstream.reset_counts()
    mirror.start()
    warm = uv.install(new_workspace(mirror.url), "big")
    assert (warm.code, warm.installed) == (0, INSTALLED), warm
    asked = asked_of(mirror)
    wheels, metadata = paths(asked, ".whl"), paths(asked, ".metadata")
    assert len(metadata) == len(INSTALLED)
    assert sorted(metadata) == sorted(f"{path}.metadata" for path in wheels)
    assert {(each.method, each.status) for each in asked} == {("GET", 200)}
    assert not upstream.requests
    assert not mirror.troubles()


def paths(asked: list[Asked], suffix: str) -> list[str]:
    return [each.path for each in asked if each.path.endswith(suffix)]
