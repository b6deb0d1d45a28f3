"""The clients, installed before the first test that drives one, and fresh workspaces for them to run in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.tools import CLIENTS, Client
from tests.clients.workspace import Outcome, Workspace
from tests.support.environments import CannotInstall, home_of, install
from tests.support.needs import missing

_FAILURES = pytest.StashKey[dict[str, CannotInstall]]()

NewWorkspace = Callable[[str], Workspace]
"""Makes a workspace that knows the index of this URL."""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Installs here rather than in a fixture: no test's time limit is meant for it, and its progress is seen."""
    here = Path(__file__).parent
    if session.config.option.collectonly or not any(item.path.is_relative_to(here) for item in session.items):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    say = reporter.write_line if reporter else print
    session.config.stash[_FAILURES] = install((_lock_of(name) for name in CLIENTS), say)


class Crowd:
    """All clients that could be installed, at the same time, each in a new workspace."""

    def __init__(self, clients: Sequence[Client], new_workspace: NewWorkspace) -> None:
        self.clients, self._new_workspace = clients, new_workspace

    def install(
        self, index: str, requirements: Callable[[Client], Sequence[str]], environ: Mapping[str, str] | None = None
    ) -> dict[str, Outcome]:
        """What came of it, by client; each installs its own `requirements`, with `environ` in its environment."""

        def run(client: Client) -> Outcome:
            workspace = self._new_workspace(index)
            workspace.environ |= environ or {}
            return client.install(workspace, *requirements(client))

        with ThreadPoolExecutor(len(self.clients)) as pool:
            return dict(zip((each.name for each in self.clients), pool.map(run, self.clients), strict=True))


@pytest.fixture(scope="session")
def client_named(pytestconfig: pytest.Config) -> Callable[[str], Client]:
    """A client by its name in `CLIENTS`; skips the test if it could not be installed."""

    def find(name: str) -> Client:
        if failure := pytestconfig.stash[_FAILURES].get(name):
            missing(name, str(failure))
        return CLIENTS[name](name, home_of(_lock_of(name)))

    return find


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, client_named: Callable[[str], Client]) -> Client:
    """Each client in turn."""
    return client_named(request.param)


@pytest.fixture
def pip(client_named: Callable[[str], Client]) -> Client:
    """The newest pip."""
    return client_named("pip-26.3")


@pytest.fixture
def uv(client_named: Callable[[str], Client]) -> Client:
    return client_named("uv")


@pytest.fixture
def poetry(client_named: Callable[[str], Client]) -> Client:
    return client_named("poetry")


@pytest.fixture
def pdm(client_named: Callable[[str], Client]) -> Client:
    return client_named("pdm")


@pytest.fixture
def new_workspace(tmp_path: Path) -> NewWorkspace:
    numbers = itertools.count(1)

    def make(index: str) -> Workspace:
        folder = tmp_path / f"workspace-{next(numbers)}"
        folder.mkdir()
        return Workspace(folder, index)

    return make


@pytest.fixture
def crowd(pytestconfig: pytest.Config, new_workspace: NewWorkspace) -> Crowd:
    """Those that are missing are missed by `test_every_client_is_there`, once and loudly."""
    found = [
        CLIENTS[name](name, home_of(_lock_of(name))) for name in CLIENTS if name not in pytestconfig.stash[_FAILURES]
    ]
    if not found:
        missing("every client")
    return Crowd(found, new_workspace)


def _lock_of(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.txt")
