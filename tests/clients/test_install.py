"""Every client installs through the mirror, and again from nothing when upstream is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.clients.conftest import Crowd, NewWorkspace
from tests.clients.tools import Client
from tests.support import graphs
from tests.support.mirror import MirrorProcess
from tests.support.packages import Project, wheel
from tests.support.upstream import ScriptedUpstream, ThreadedUpstream

pytestmark = pytest.mark.clients

SHARED = ("alpha", "beta", "gamma", "delta")


def own_projects(client: Client) -> list[Project]:
    """Two projects that nobody but this client asks for, so that every client meets a cold mirror too."""
    return [
        Project(f"own-{client.name}", (wheel(f"own-{client.name}", "2.0", requires=[f"need-{client.name}"]),)),
        Project(f"need-{client.name}", (wheel(f"need-{client.name}", "2.0"),)),
    ]


def assert_all_installed(crowd: Crowd, mirror: MirrorProcess) -> None:
    outcomes = crowd.install(mirror.url, lambda client: ["alpha", f"own-{client.name}"])
    for client in crowd.clients:
        outcome = outcomes[client.name]
        names = [*SHARED, *(project.normal for project in own_projects(client))]
        assert (outcome.code, outcome.installed) == (0, dict.fromkeys(names, "2.0")), outcome


def assert_asked_once(upstream: ScriptedUpstream, projects: Iterable[Project]) -> None:
    """Every page and every newest wheel exactly once, though heads and ranges may come before."""
    wholes = Counter(r.path for r in upstream.log if r.method == "GET" and "range" not in r.headers)
    projects = list(projects)
    wheels = {f"/{project.files[-1].path}" for project in projects}
    pages = {f"/simple/{project.normal}/" for project in projects}
    assert {path: count for path, count in wholes.items() if not path.endswith(".metadata")} == Counter(pages | wheels)
    if upstream.site.style.metadata:
        assert {request.method for request in upstream.log} == {"GET"}
        assert all("range" not in request.headers for request in upstream.log)
        assert all(upstream.requests[f"{path}.metadata"] <= 1 for path in wheels)
    else:
        assert not any(path.endswith(".metadata") for path in upstream.requests)
        assert max(Counter(request.path for request in upstream.log if request.method == "HEAD").values()) == 1


def test_every_client_is_there(client: Client, new_workspace: NewWorkspace) -> None:
    lock = Path(__file__).with_name(f"{client.name}.txt").read_text(encoding="utf-8")
    name = client.name.partition("-")[0]
    (version,) = (line.split()[0].partition("==")[2] for line in lock.splitlines() if line.startswith(f"{name}=="))
    outcome = client.run(new_workspace("http://127.0.0.1:9/simple/"), "--version")
    assert outcome.code == 0, outcome
    assert version in outcome.output


@pytest.mark.parametrize("json", [True, False], ids=["json", "html"])
def test_all_clients_install_and_again_without_upstream(json: bool, crowd: Crowd, tmp_path: Path) -> None:
    projects = [*graphs.alpha(), *(project for client in crowd.clients for project in own_projects(client))]
    with (
        ThreadedUpstream(projects, json=json) as upstream,
        MirrorProcess(data_dir=tmp_path / "data", upstream_url=upstream.url) as mirror,
    ):
        assert_all_installed(crowd, mirror)
        assert_asked_once(upstream, projects)

        upstream.reset_counts()
        if json:
            # Every page is past its lifetime, so that upstream would be asked, and nobody is there.
            upstream.stop_now()
            mirror.restart(page_ttl=0, page_stale=0)
            assert_all_installed(crowd, mirror)
            assert mirror.counters()["pages_stale"] >= len(projects)
            upstream.start_now()

        # Upstream is there, and must not be asked.
        mirror.restart(offline=True)
        assert_all_installed(crowd, mirror)
        assert not upstream.requests
        assert not mirror.troubles()


def test_later_runs_ask_nothing(pip: Client, uv: Client, new_workspace: NewWorkspace, tmp_path: Path) -> None:
    with (
        ThreadedUpstream(graphs.alpha()) as upstream,
        MirrorProcess(data_dir=tmp_path / "data", upstream_url=upstream.url) as mirror,
    ):
        for client in (uv, uv, pip):
            outcome = client.install(new_workspace(mirror.url), "alpha")
            assert (outcome.code, outcome.installed) == (0, dict.fromkeys(SHARED, "2.0")), outcome
        assert_asked_once(upstream, graphs.alpha())
        upstream.reset_counts()
        mirror.restart()
        again = pip.install(new_workspace(mirror.url), "alpha")
        assert (again.code, again.installed) == (0, dict.fromkeys(SHARED, "2.0")), again
        assert not upstream.requests
        assert not mirror.troubles()
