"""Clients that refuse young releases learn each file's upload time from the mirror."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.clients.conftest import NewWorkspace
from tests.clients.tools import Client
from tests.clients.workspace import Workspace
from tests.support.mirror import MirrorProcess
from tests.support.packages import Project, wheel
from tests.support.upstream import ThreadedUpstream

pytestmark = pytest.mark.clients


def days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="microseconds").replace("+00:00", "Z")


YESTERDAY, LAST_WEEK = days_ago(1), days_ago(7)
TIMED = Project("timed", (wheel("timed", "1.0"), wheel("timed", "2.0", upload_time=YESTERDAY)))


def assert_old_release(client: Client, workspace: Workspace, *options: str) -> None:
    outcome = client.install(workspace, "timed", options=options)
    assert (outcome.code, outcome.installed) == (0, {"timed": "1.0"}), outcome


def test_the_young_release_is_not_chosen(
    uv: Client, pip: Client, poetry: Client, pdm: Client, new_workspace: NewWorkspace, tmp_path: Path
) -> None:
    with (
        ThreadedUpstream([TIMED]) as upstream,
        MirrorProcess(data_dir=tmp_path / "data", upstream_url=upstream.url) as mirror,
    ):
        any_age = uv.install(new_workspace(mirror.url), "timed")
        assert (any_age.code, any_age.installed) == (0, {"timed": "2.0"}), any_age
        assert_old_release(uv, new_workspace(mirror.url), f"--exclude-newer={LAST_WEEK}")
        assert_old_release(pip, new_workspace(mirror.url), f"--uploaded-prior-to={LAST_WEEK}")
        assert_old_release(pdm, new_workspace(mirror.url), f"--exclude-newer={LAST_WEEK}")
        workspace = new_workspace(mirror.url)
        workspace.environ["POETRY_SOLVER_MIN_RELEASE_AGE"] = "3"
        assert_old_release(poetry, workspace)
        assert not mirror.troubles()


def test_html_with_upload_times_serves_clients_that_read_them_in_json_alone(
    uv: Client, pip: Client, new_workspace: NewWorkspace, tmp_path: Path
) -> None:
    with (
        ThreadedUpstream([TIMED], json=False) as upstream,
        MirrorProcess(data_dir=tmp_path / "data", upstream_url=upstream.url) as mirror,
    ):
        assert_old_release(uv, new_workspace(mirror.url), f"--exclude-newer={LAST_WEEK}")
        assert_old_release(pip, new_workspace(mirror.url), f"--uploaded-prior-to={LAST_WEEK}")
        assert not mirror.troubles()
