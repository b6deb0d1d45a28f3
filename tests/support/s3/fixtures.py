"""The S3 services as fixtures: each is started by the first test that asks for it and lasts until the last test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.environments import CannotInstall, home_of, install, python_of
from tests.support.needs import missing, needs
from tests.support.s3.ceph import PROGRAMS, Ceph
from tests.support.s3.services import Moto, Rclone, S3Service, program

_MOTO: Final = Path(__file__).with_name("moto.txt")
_FAILURES = pytest.StashKey[dict[str, CannotInstall]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Installs moto here rather than in its fixture: no test's time limit is meant for it, and its progress is seen."""
    if session.config.option.collectonly or not any(_uses_moto(item) for item in session.items):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    say = reporter.write_line if reporter else print
    session.config.stash[_FAILURES] = install([_MOTO], say)


@pytest.fixture(scope="session")
def rclone_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rclone]:
    """`rclone serve s3`, shared by all tests."""
    with _rclone(tmp_path_factory.mktemp("rclone")) as service:
        yield service


@pytest.fixture
def own_rclone(tmp_path: Path) -> Iterator[Rclone]:
    """Another one for this test alone, which may stop, kill and start it."""
    with _rclone(tmp_path / "rclone") as service:
        yield service


@pytest.fixture(scope="session")
def moto_service(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Moto]:
    """moto's server in an environment of its own."""
    # Tests that ask for it by name while they run were not seen when the tests were collected.
    failures = pytestconfig.stash.get(_FAILURES, None)
    if failures is None:
        failures = install([_MOTO], print)
    if failure := failures.get("moto"):
        missing("moto", str(failure))
    with Moto(tmp_path_factory.mktemp("moto"), python_of(home_of(_MOTO))) as service:
        yield service


@pytest.fixture(scope="session")
def ceph_service() -> Iterator[Ceph]:
    """Ceph's gateway; who asks for it carries the marker `ceph`."""
    needs(*PROGRAMS)
    # Not below pytest's own folder, whose path may be too long for Unix sockets.
    with (
        tempfile.TemporaryDirectory(prefix="ceph-", ignore_cleanup_errors=True) as folder,
        Ceph(Path(folder) / "c") as service,
    ):
        yield service


@pytest.fixture(params=["rclone", "moto", pytest.param("ceph", marks=pytest.mark.ceph)])
def s3_service(request: pytest.FixtureRequest) -> S3Service:
    """Each service in turn."""
    service: S3Service = request.getfixturevalue(f"{request.param}_service")
    return service


def _rclone(folder: Path) -> Rclone:
    if not program("rclone").exists():
        missing("rclone")
    return Rclone(folder)


def _uses_moto(item: pytest.Item) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return "moto_service" in getattr(item, "fixturenames", ()) or any(value == "moto" for value in parameters.values())
