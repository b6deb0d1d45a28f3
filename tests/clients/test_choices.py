"""What clients choose, refuse and build is what they would with upstream itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Crowd, NewWorkspace
from tests.clients.tools import Client
from tests.support import graphs
from tests.support.mirror import MirrorProcess
from tests.support.packages import Archive, Project, wheel
from tests.support.upstream import ThreadedUpstream

pytestmark = pytest.mark.clients

PICKY = Project("picky", (wheel("picky", "1.0"), wheel("picky", "2.0", requires_python=">=3.99")))
"""Its newest version is for a Python that nobody has."""

PROJECTS = [*graphs.everything(), PICKY]

ODD = ["torchy==2.0+cpu", "yanked", "sourceful", "Foo._Bar", "picky"]
ODD_INSTALLED = {"torchy": "2.0+cpu", "yanked": "1.0", "sourceful": "1.0", "foo-bar": "1.0", "picky": "1.0"}
"""A local version; a newest version that is yanked; a source archive alone; a name to be normalised; `picky`."""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirrorProcess]:
    with (
        ThreadedUpstream(PROJECTS) as upstream,
        MirrorProcess(data_dir=tmp_path_factory.mktemp("data"), upstream_url=upstream.url) as mirror,
    ):
        yield mirror
        assert not mirror.troubles()


@pytest.mark.parametrize("json", [True, False], ids=["json", "html"])
def test_odd_releases(json: bool, crowd: Crowd, tmp_path: Path) -> None:
    with (
        ThreadedUpstream(PROJECTS, json=json) as upstream,
        MirrorProcess(data_dir=tmp_path / "data", upstream_url=upstream.url) as mirror,
    ):
        for outcome in crowd.install(mirror.url, lambda client: ODD).values():
            assert (outcome.code, outcome.installed) == (0, ODD_INSTALLED), outcome
        assert not mirror.troubles()


@pytest.mark.parametrize("client", ["pip-26.3", "uv"], indirect=True)
def test_a_pin_gets_a_yanked_version_and_its_reason(
    client: Client, mirror: MirrorProcess, new_workspace: NewWorkspace
) -> None:
    outcome = client.install(new_workspace(mirror.url), "yanked==2.0")
    assert (outcome.code, outcome.installed) == (0, {"yanked": "2.0"}), outcome
    assert graphs.HOSTILE_REASON in outcome.output


@pytest.mark.parametrize(
    ("client", "text"),
    [("pip-26.3", "Ignored the following yanked versions: 1.0"), ("uv", "yanked")],
    indirect=["client"],
)
def test_nothing_but_yanked_versions(
    client: Client, text: str, mirror: MirrorProcess, new_workspace: NewWorkspace
) -> None:
    outcome = client.install(new_workspace(mirror.url), "regretted")
    assert (outcome.code, outcome.installed) == (1, {}), outcome
    assert text in outcome.output


def test_pip_download(pip: Client, mirror: MirrorProcess, new_workspace: NewWorkspace) -> None:
    workspace = new_workspace(mirror.url)
    outcome = pip.run(workspace, "download", "-d", "files", "alpha")
    assert outcome.code == 0, outcome
    got = {path.name: path.read_bytes() for path in (workspace.folder / "files").iterdir()}
    newest = [project.files[-1] for project in graphs.alpha()]
    assert got == {file.filename: file.content for file in newest if isinstance(file, Archive)}
    assert len(got) == len(newest)


def test_pip_index_versions(pip: Client, mirror: MirrorProcess, new_workspace: NewWorkspace) -> None:
    outcome = pip.run(new_workspace(mirror.url), "index", "versions", "alpha")
    assert outcome.code == 0, outcome
    assert "alpha (2.0)\nAvailable versions: 2.0, 1.0\n" in outcome.output


@pytest.mark.parametrize("client", ["pip-23.0", "pip-23.2", "pip-26.3", "uv"], indirect=True)
def test_hashes_are_required_and_right(client: Client, mirror: MirrorProcess, new_workspace: NewWorkspace) -> None:
    workspace = new_workspace(mirror.url)
    files = {project.name: project.files[-1] for project in graphs.alpha()}
    lines = [f"{name}=={file.version} --hash=sha256:{file.sha256}\n" for name, file in files.items()]
    workspace.write("requirements.txt", "".join(lines))
    command = ("pip", "install") if client.name == "uv" else ("install",)
    right = client.run(workspace, *command, "--require-hashes", "-r", "requirements.txt")
    assert right.code == 0, right
    assert right.installed.keys() == files.keys()

    workspace = new_workspace(mirror.url)
    workspace.write("requirements.txt", "".join(lines).replace(files["delta"].sha256, files["gamma"].sha256))
    refused = client.run(workspace, *command, "--require-hashes", "-r", "requirements.txt")
    assert refused.code != 0, refused
    assert refused.installed == {}
