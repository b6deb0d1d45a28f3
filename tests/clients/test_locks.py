"""Lock files with the mirror's file URLs work on a mirror that has never read a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import NewWorkspace
from tests.clients.tools import Client
from tests.clients.traffic import asked_of
from tests.support import graphs
from tests.support.mirror import MirrorProcess
from tests.support.pages import MINIMAL, Style
from tests.support.upstream import ThreadedUpstream

pytestmark = pytest.mark.clients

WANTED = ["alpha", "torchy==2.0+cpu"]
LOCKED = {"alpha": "2.0", "beta": "2.0", "gamma": "2.0", "delta": "2.0", "torchy": "2.0+cpu"}

PROJECT = """\
[project]
name = "consumer"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["alpha", "torchy==2.0+cpu"]
"""


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with ThreadedUpstream([*graphs.alpha(), graphs.torchy()]) as upstream:
        yield upstream


class Replicas:
    """One address, behind which a mirror with an empty store follows upon another."""

    def __init__(self, mirror: MirrorProcess, folder: Path) -> None:
        self.mirror, self._folder = mirror, folder
        self._number = 0

    def fresh(self) -> None:
        """Replaces the mirror by one that knows nothing."""
        self._number += 1
        if self.mirror.running:
            asked_of(self.mirror)
        self.mirror.start(data_dir=self._folder / f"data-{self._number}")

    def assert_only_files_asked(self) -> None:
        asked = asked_of(self.mirror)
        assert sorted(path.rpartition("/")[2].partition("-")[0] for _, path, _ in asked) == sorted(LOCKED)
        assert {(method, path.split("/")[1], status) for method, path, status in asked} == {("GET", "packages", 200)}
        assert not self.mirror.troubles()


@pytest.fixture
def replicas(upstream: ThreadedUpstream, tmp_path: Path) -> Iterator[Replicas]:
    with MirrorProcess(data_dir=tmp_path / "data-0", upstream_url=upstream.url) as mirror:
        yield Replicas(mirror, tmp_path)


@pytest.mark.parametrize("style", [Style(), MINIMAL], ids=["json", "html"])
def test_uv_lock_and_sync(
    style: Style, uv: Client, upstream: ThreadedUpstream, replicas: Replicas, new_workspace: NewWorkspace
) -> None:
    upstream.site.style = style
    first = new_workspace(replicas.mirror.url)
    first.write("pyproject.toml", PROJECT)
    locked = uv.run(first, "lock")
    assert locked.code == 0, locked
    assert "torchy-2.0+cpu-py3-none-any.whl" in first.read("uv.lock")

    replicas.fresh()
    second = new_workspace("http://127.0.0.1:9/simple/")
    second.write("pyproject.toml", PROJECT)
    second.write("uv.lock", first.read("uv.lock"))
    synced = uv.run(second, "sync", "--frozen", "--active")
    assert (synced.code, synced.installed) == (0, LOCKED), synced
    replicas.assert_only_files_asked()


def test_pylock_of_uv_and_of_pip(uv: Client, pip: Client, replicas: Replicas, new_workspace: NewWorkspace) -> None:
    first = new_workspace(replicas.mirror.url)
    first.write("requirements.in", "\n".join(WANTED))
    compiled = uv.run(first, "pip", "compile", "--format", "pylock.toml", "-o", "pylock.uv.toml", "requirements.in")
    assert compiled.code == 0, compiled
    locked = pip.run(first, "lock", "-r", "requirements.in", "-o", "pylock.pip.toml")
    assert locked.code == 0, locked
    assert "torchy-2.0%2Bcpu-py3-none-any.whl" in first.read("pylock.pip.toml")

    # Each by the other one, which is harder.
    for client, *command in ((uv, "pip", "sync", "pylock.pip.toml"), (pip, "install", "-r", "pylock.uv.toml")):
        replicas.fresh()
        second = new_workspace("http://127.0.0.1:9/simple/")
        second.write(command[-1], first.read(command[-1]))
        installed = client.run(second, *command)
        assert (installed.code, installed.installed) == (0, LOCKED), installed
        replicas.assert_only_files_asked()


def test_pdm_with_static_urls(pdm: Client, replicas: Replicas, new_workspace: NewWorkspace) -> None:
    first = new_workspace(replicas.mirror.url)
    first.write("pyproject.toml", f"{PROJECT}\n[tool.pdm]\ndistribution = false\n")
    first.write(".pdm-python", f"{first.python}\n")
    locked = pdm.run(first, "lock", "--static-urls")
    assert locked.code == 0, locked

    replicas.fresh()
    second = new_workspace(replicas.mirror.url)
    second.write("pyproject.toml", first.read("pyproject.toml"))
    second.write("pdm.lock", first.read("pdm.lock"))
    second.write(".pdm-python", f"{second.python}\n")
    synced = pdm.run(second, "sync")
    assert (synced.code, synced.installed) == (0, LOCKED), synced
    replicas.assert_only_files_asked()


def test_poetry_on_a_fresh_machine(poetry: Client, replicas: Replicas, new_workspace: NewWorkspace) -> None:
    first = new_workspace(replicas.mirror.url)
    cold = poetry.install(first, *WANTED)
    assert (cold.code, cold.installed) == (0, LOCKED), cold

    replicas.fresh()
    second = new_workspace(replicas.mirror.url)
    for name in ("pyproject.toml", "poetry.lock"):
        second.write(name, first.read(name))
    installed = poetry.run(second, "install")
    assert (installed.code, installed.installed) == (0, LOCKED), installed
    asked = asked_of(replicas.mirror)
    assert sum(each.path.endswith(".whl") for each in asked) == sum(each.path.endswith("/") for each in asked) == 5
    assert not replicas.mirror.troubles()
