"""The command as a process of its own: what it prints, how it stops, how it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from distlib.index import DEFAULT_INDEX

from mirror.cli.serve import announce, command
from mirror.config import SETTINGS, Config

CANARY = "canary-7f3a"
NOWHERE = "http://127.0.0.1:9/simple/"
"""An upstream that nobody asks here."""


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
    return kept | {"MIRROR_UPSTREAM_URL": NOWHERE, "MIRROR_DATA_DIR": str(folder / "data")}


def refused(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mirror", "serve", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(folder),
    )


@contextmanager
def serving(folder: Path, *args: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A running mirror and the lines that it printed at start."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mirror", "serve", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder) | environ,
    )
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if "PDM_PYPI_URL" in line:
                break
        yield process, lines
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_when_told_to(ending: signal.Signals, tmp_path: Path) -> None:
    with serving(tmp_path, "--listen", "127.0.0.1:0") as (process, lines):
        found = re.fullmatch(r"Listening on (127\.0\.0\.1:(\d+))", lines[0])
        assert found
        assert f"  pip     pip install --index-url http://{found[1]}/simple/ PACKAGE" in lines
        with socket.create_connection(("127.0.0.1", int(found[2]))) as client:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.makefile("rb").readline().startswith(b"HTTP/1.1 200")
        process.send_signal(ending)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors


def test_a_secret_is_in_nothing_that_it_prints(tmp_path: Path) -> None:
    url = NOWHERE.replace("//", f"//ci:{CANARY}@")
    with serving(tmp_path, "--listen", "127.0.0.1:0", "--log-level", "debug", MIRROR_UPSTREAM_URL=url) as (
        process,
        lines,
    ):
        port = int(lines[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /simple/some-project/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = client.makefile("rb").read()
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
        assert answer.startswith(b"HTTP/1.1 503")
        assert CANARY not in "\n".join(lines) + out + errors + answer.decode("latin-1")


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = refused(tmp_path, "--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--log-level", "error")
    assert result.returncode == 1
    assert re.fullmatch(r"mirror: [^\n]*in use[^\n]*\n", result.stderr), result.stderr
    assert result.stdout == ""


def test_a_data_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    result = refused(tmp_path, "--listen", "127.0.0.1:0", "--log-level", "error")
    assert result.returncode == 1
    assert re.fullmatch(r"mirror: [^\n]+\n", result.stderr), result.stderr
    assert result.stdout == ""


def test_nonsense_for_upstream_is_one_line(tmp_path: Path) -> None:
    result = refused(tmp_path, "--upstream", "nonsense")
    assert result.returncode == 2
    assert re.fullmatch(r"mirror: upstream-url \(from flag --upstream\): [^\n]+\n", result.stderr), result.stderr


def test_the_lines_use_the_public_address(capsys: pytest.CaptureFixture[str]) -> None:
    announce(Config(public_url="https://packages.example.com/"), ["0.0.0.0:8080", "unix:/run/m.sock"])
    out = capsys.readouterr().out
    assert out.startswith("Listening on 0.0.0.0:8080, unix:/run/m.sock\n")
    assert "https://packages.example.com/simple/" in out


def test_a_unix_socket_alone_has_no_lines_for_clients(capsys: pytest.CaptureFixture[str]) -> None:
    announce(Config(), ["unix:/run/m.sock"])
    assert capsys.readouterr().out == "Listening on unix:/run/m.sock\n"


def test_a_stdout_that_cannot_be_written_stops_nobody() -> None:
    program = """
from mirror.cli.logs import configure_logging
from mirror.cli.serve import announce
from mirror.config import Config
configure_logging("json", "info")
announce(Config(), ["127.0.0.1:1"])
"""
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stderr)["why"] == "No space left on device"


def test_help_names_variable_and_default_of_every_flag() -> None:
    help_of = {option.opts[0]: option.help for option in command.params if isinstance(option, click.Option)}
    for setting in SETTINGS.values():
        if setting.flag:
            assert f"[{setting.variable}; default: {setting.default_text}]" in (help_of.pop(setting.flag) or "")
    assert "[MIRROR_CONFIG]" in (help_of.pop("--config") or "")
    assert help_of == {}


def test_help_names_no_registry(tmp_path: Path) -> None:
    result = refused(tmp_path, "--help")
    assert result.returncode == 0
    assert "--upstream URL" in result.stdout
    assert DEFAULT_INDEX.split("/")[2] not in result.stdout
