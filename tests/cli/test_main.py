from __future__ import annotations

import subprocess
import sys

import click
import pytest

import mirror
from mirror.cli.main import main
from mirror.errors import ConfigError, MirrorError, StartError, StoreFailure


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mirror", *args], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("one", "two\nlines"), 2, "mirror: one\nmirror: two\\x0alines\n"),
        (StartError("Port 80 is in use."), 1, "mirror: Port 80 is in use.\n"),
        (StoreFailure("write", "a", "no space"), 1, "mirror: The store could not write a: no space.\n"),
        (MirrorError("x\r\ny"), 1, "mirror: x\\x0d\\x0ay\n"),
        (KeyboardInterrupt(), 130, "\n"),
        (click.UsageError("wrong"), 2, "Usage: mirror [OPTIONS]\nTry 'mirror --help' for help.\n\nError: wrong\n"),
    ],
)
def test_every_foreseen_failure_has_its_code_and_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        raise error

    assert main([], command) == code
    assert capsys.readouterr() == ("", said)


def test_an_unforeseen_error_is_not_hidden() -> None:
    @click.command()
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main([], command)


@pytest.mark.parametrize("code", [0, 3])
def test_the_code_of_a_command_is_the_code_of_the_process(code: int) -> None:
    @click.command()
    def command() -> int:
        return code

    assert main([], command) == code


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"mirror {mirror.__version__}\n")


def test_an_unknown_command() -> None:
    result = run("srve")
    assert result.returncode == 2
    assert "srve" in result.stderr


def test_a_command_imports_only_what_it_needs() -> None:
    program = "import sys; from mirror.cli.main import main; main(['config']); assert 'aiohttp' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
