"""A user with nothing: own home and caches, an empty project, an empty virtual environment, no configuration."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.environments import python_of
from tests.support.packages import normal

TIMEOUT: Final = 90.0
"""Seconds for one command."""


@dataclass(frozen=True)
class Outcome:
    """How a client's command, or the last one of several, ended."""

    command: str
    code: int
    output: str
    """Standard output and standard error as they came."""
    installed: dict[str, str]
    """What is in the virtual environment now: versions by normalised name."""

    def __str__(self) -> str:
        return f"{self.command}\nexit code {self.code}, installed {self.installed}\n{self.output}"


class Workspace:
    """A folder in which clients run; `index` is the only index they know, as a variable."""

    def __init__(self, folder: Path, index: str) -> None:
        self.index = index
        self.folder = folder / "project"
        """The current folder of every command."""
        self.venv = folder / "venv"
        self.environ = _environment(folder, self.venv, index)
        """The whole environment of every command."""
        for name in ("HOME", "TMPDIR"):
            Path(self.environ[name]).mkdir(parents=True)
        self.folder.mkdir()
        venv.create(self.venv, with_pip=False, symlinks=True)

    @property
    def python(self) -> Path:
        return python_of(self.venv)

    def write(self, name: str, text: str) -> Path:
        """A file in the project."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def run(self, *command: str | Path, environ: Mapping[str, str] | None = None) -> Outcome:
        """Runs a command to its end; `environ` is added to the environment."""
        words = [str(word) for word in command]
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environ | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
        return Outcome(" ".join(words), done.returncode, done.stdout, self.installed())

    def installed(self) -> dict[str, str]:
        """What is in the virtual environment: versions by normalised name."""
        (packages,) = self.venv.glob("lib/python*/site-packages")
        found = importlib.metadata.distributions(path=[str(packages)])
        return {normal(each.metadata["Name"]): each.version for each in found}


def _environment(folder: Path, environment: Path, index: str) -> dict[str, str]:
    """Nothing of this machine's settings; every client's own in one, as their names do not meet."""
    return {
        "PATH": os.defpath,
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "VIRTUAL_ENV": str(environment),
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index,
        "PIP_CACHE_DIR": str(folder / "pip-cache"),
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_PROGRESS_BAR": "off",
        "UV_NO_CONFIG": "1",
        "UV_DEFAULT_INDEX": index,
        "UV_CACHE_DIR": str(folder / "uv-cache"),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "POETRY_CACHE_DIR": str(folder / "poetry-cache"),
        "POETRY_CONFIG_DIR": str(folder / "poetry-config"),
        "POETRY_DATA_DIR": str(folder / "poetry-data"),
        "POETRY_NO_INTERACTION": "1",
        "PDM_PYPI_URL": index,
        "PDM_CACHE_DIR": str(folder / "pdm-cache"),
        "PDM_CONFIG_FILE": str(folder / "pdm.toml"),
        "PDM_LOG_DIR": str(folder / "pdm-log"),
        "PDM_CHECK_UPDATE": "0",
        "PDM_NON_INTERACTIVE": "1",
    }
