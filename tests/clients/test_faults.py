"""What clients cannot bear from upstream, they bear with the mirror in between; and wrong bytes reach nobody."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.conftest import Crowd, NewWorkspace
from tests.clients.tools import Client
from tests.support import graphs
from tests.support.mirror import MirrorProcess
from tests.support.packages import Archive, Project, wheel
from tests.support.upstream import ThreadedUpstream

pytestmark = pytest.mark.clients

SIZE = 8_000_000
CUT = 3_000_000
FEW_TRIES = {"UV_HTTP_RETRIES": "1", "PIP_RETRIES": "1", "PIP_RESUME_RETRIES": "1", "POETRY_REQUESTS_MAX_RETRIES": "1"}
"""So that nobody waits for a client that has understood nothing; what it makes of it in the end stays the same."""


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with ThreadedUpstream(graphs.alpha()) as upstream:
        yield upstream


@pytest.fixture
def mirror(upstream: ThreadedUpstream, tmp_path: Path) -> Iterator[MirrorProcess]:
    with MirrorProcess(data_dir=tmp_path / "data", upstream_url=upstream.url) as mirror:
        yield mirror
        assert not mirror.troubles()


@functools.cache
def big(client: Client) -> Archive:
    """A wheel that only this client asks for."""
    return wheel(f"big-{client.name}", "1.0", blob=SIZE)


def project(client: Client, archive: Archive) -> Project:
    return Project(f"big-{client.name}", (archive,))


def wanted(client: Client) -> list[str]:
    return [f"big-{client.name}"]


def test_a_download_that_is_cut_off_is_resumed(crowd: Crowd, upstream: ThreadedUpstream, mirror: MirrorProcess) -> None:
    for client in crowd.clients:
        upstream.publish(project(client, big(client)))
        upstream.fault(f"/{big(client).path}", cut_after=CUT, times=1)
    outcomes = crowd.install(mirror.url, wanted)
    for client in crowd.clients:
        outcome = outcomes[client.name]
        assert (outcome.code, outcome.installed) == (0, {f"big-{client.name}".replace(".", "-"): "1.0"}), outcome
        first, second = (request for request in upstream.log if request.path == f"/{big(client).path}")
        assert "range" not in first.headers
        start = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
        assert 0 < start <= CUT


def test_u12_wrong_bytes_of_the_right_length(crowd: Crowd, upstream: ThreadedUpstream, mirror: MirrorProcess) -> None:
    for client in crowd.clients:
        spoilt = bytearray(big(client).content)
        spoilt[SIZE // 2] ^= 0xFF
        upstream.publish(project(client, replace(big(client), content=bytes(spoilt))))
    for outcome in crowd.install(mirror.url, wanted, FEW_TRIES).values():
        assert outcome.code != 0, outcome
        assert outcome.installed == {}
    assert mirror.counters()["integrity_failures"] >= len(crowd.clients)

    for client in crowd.clients:
        upstream.publish(project(client, big(client)))
    for outcome in crowd.install(mirror.url, wanted).values():
        assert outcome.code == 0, outcome
        assert len(outcome.installed) == 1


def test_503_twice_harms_no_client_that_never_retries(
    pdm: Client, upstream: ThreadedUpstream, mirror: MirrorProcess, new_workspace: NewWorkspace
) -> None:
    names = ("alpha", "beta", "gamma", "delta")
    patterns = [f"/simple/{name}/" for name in names] + [f"/packages/*/{name}-2.0-*.whl" for name in names]
    faults = [upstream.fault(pattern, status=503, times=2) for pattern in patterns]
    outcome = pdm.install(new_workspace(mirror.url), "alpha")
    assert outcome.code == 0, outcome
    assert outcome.installed == dict.fromkeys(("alpha", "beta", "gamma", "delta"), "2.0")
    assert [fault.hits for fault in faults] == [2] * len(faults)
    assert mirror.counters()["upstream_retries"] == 2 * len(faults)
