"""The clients as commands: how each of them installs requirements into an empty environment."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.clients.workspace import Outcome, Workspace

_PROJECT = """\
[project]
name = "consumer"
version = "1.0"
requires-python = ">=3.11"
dependencies = {requirements}
"""


@dataclass(frozen=True)
class Client(ABC):
    """One version of one client, which lies in the virtual environment `home`."""

    name: str
    home: Path

    @abstractmethod
    def run(self, workspace: Workspace, *arguments: str | Path) -> Outcome:
        """A command of the client."""

    @abstractmethod
    def install(self, workspace: Workspace, *requirements: str, options: Sequence[str] = ()) -> Outcome:
        """Resolves and installs, in as many commands as users of this client give; ends with the first that fails.

        `options` are for the command that resolves.
        """

    def _sequence(self, workspace: Workspace, *commands: tuple[str, ...]) -> Outcome:
        for command in commands:
            outcome = self.run(workspace, *command)
            if outcome.code:
                break
        return outcome


class Pip(Client):
    """`pip install`, run from outside of the environment that it installs into."""

    def run(self, workspace: Workspace, *arguments: str | Path) -> Outcome:
        # What `pip --python` comes to, without starting twice.
        (pip,) = self.home.glob("lib/python*/site-packages/pip")
        return workspace.run(workspace.python, pip, *arguments)

    def install(self, workspace: Workspace, *requirements: str, options: Sequence[str] = ()) -> Outcome:
        return self.run(workspace, "install", *options, *requirements)


class Uv(Client):
    """`uv pip install`."""

    def run(self, workspace: Workspace, *arguments: str | Path) -> Outcome:
        return workspace.run(self.home / "bin" / "uv", *arguments)

    def install(self, workspace: Workspace, *requirements: str, options: Sequence[str] = ()) -> Outcome:
        return self.run(workspace, "pip", "install", *options, *requirements)


class Poetry(Client):
    """`poetry lock` and `poetry install`. No variable names the index, so the project does."""

    def run(self, workspace: Workspace, *arguments: str | Path) -> Outcome:
        return workspace.run(self.home / "bin" / "poetry", *arguments)

    def install(self, workspace: Workspace, *requirements: str, options: Sequence[str] = ()) -> Outcome:
        source = f'[[tool.poetry.source]]\nname = "mirror"\nurl = "{workspace.index}"\npriority = "primary"\n'
        project = _PROJECT.format(requirements=json.dumps(requirements))
        workspace.write("pyproject.toml", f"{project}\n[tool.poetry]\npackage-mode = false\n\n{source}")
        return self._sequence(workspace, ("lock", *options), ("install",))


class Pdm(Client):
    """`pdm lock` and `pdm sync`."""

    def run(self, workspace: Workspace, *arguments: str | Path) -> Outcome:
        return workspace.run(self.home / "bin" / "pdm", *arguments)

    def install(self, workspace: Workspace, *requirements: str, options: Sequence[str] = ()) -> Outcome:
        project = _PROJECT.format(requirements=json.dumps(requirements))
        workspace.write("pyproject.toml", f"{project}\n[tool.pdm]\ndistribution = false\n")
        workspace.write(".pdm-python", f"{workspace.python}\n")
        return self._sequence(workspace, ("lock", *options), ("sync",))


CLIENTS: Final[dict[str, type[Client]]] = {
    "pip-23.0": Pip,
    "pip-23.2": Pip,
    "pip-26.3": Pip,
    "uv": Uv,
    "poetry": Poetry,
    "pdm": Pdm,
}
"""By the names of their lock files."""
