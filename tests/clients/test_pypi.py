"""With PyPI itself as upstream: install, restart without network, install again."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from mirror.config import DEFAULT_UPSTREAM
from tests.clients.conftest import NewWorkspace
from tests.clients.tools import Client
from tests.clients.workspace import Outcome, Workspace
from tests.support.mirror import MirrorProcess
from tests.support.needs import missing

pytestmark = [pytest.mark.pypi, pytest.mark.clients]

SMALL = ["six", "idna"]
_PROGRAM = "import flask, six, idna; flask.Flask('consumer').test_client(); print(six.__name__, idna.__name__)"


@pytest.fixture(scope="module")
def needs_pypi() -> None:
    request = urllib.request.Request(f"{DEFAULT_UPSTREAM}six/", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=20):
            pass
    except (urllib.error.URLError, TimeoutError) as error:
        missing("PyPI", str(error))


@pytest.mark.usefixtures("needs_pypi")
@pytest.mark.timeout(300)
def test_flask_cold_and_offline(pip: Client, uv: Client, new_workspace: NewWorkspace, tmp_path: Path) -> None:
    with MirrorProcess(data_dir=tmp_path / "data") as mirror:
        cold = {client.name: install(client, new_workspace(mirror.url)) for client in (pip, uv)}
        assert {"flask", "werkzeug", "six", "idna"} <= cold["uv"].installed.keys()
        assert cold["pip-26.3"].installed == cold["uv"].installed
        counted = mirror.counters()
        assert counted["files_upstream"] == len(cold["uv"].installed)
        assert counted["files_store"] >= len(cold["uv"].installed)
        assert counted["integrity_failures"] == 0

        mirror.restart(offline=True)
        for client in (pip, uv):
            again = install(client, new_workspace(mirror.url))
            assert again.installed == cold[client.name].installed
        counted = mirror.counters()
        assert counted["upstream_requests"] == counted["files_upstream"] == counted["pages_upstream"] == 0
        assert not mirror.troubles()


def install(client: Client, workspace: Workspace) -> Outcome:
    """flask and two small packages, which have to be importable afterwards."""
    outcome = client.install(workspace, "flask", *SMALL)
    assert outcome.code == 0, outcome
    ran = workspace.run(workspace.python, "-c", _PROGRAM)
    assert (ran.code, ran.output) == (0, "six idna\n"), ran
    return outcome
