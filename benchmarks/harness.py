"""Starts, pins, watches and stops the processes of a benchmark: the server, the upstream and the load."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from benchmarks.load import Job, Outcome

T = TypeVar("T")

SERVER_CPU: Final = 0
OTHERS_CPU: Final = 1
"""For the upstream and the load; so the server has a core to itself, and no more than one."""


class BenchmarkError(Exception):
    """There is no figure, and why."""


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Children that are started within inherit this core, with every thread they will have; where there are two."""
    if not hasattr(os, "sched_setaffinity") or len(usual := os.sched_getaffinity(0)) < 2:
        yield
        return
    os.sched_setaffinity(0, {sorted(usual)[cpu]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


class Worker:
    """A helper process that answers lines of JSON; as a context manager, which stops it."""

    def __init__(self, module: str) -> None:
        with pinned(OTHERS_CPU):
            self._process = subprocess.Popen(
                [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        self._module = module

    def ask(self, command: msgspec.Struct, answer: type[T], *, patience: float = 120.0) -> T:
        """Gives a command and returns its answer. Raises `BenchmarkError`."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()
        return self.hear(answer, patience=patience)

    def hear(self, answer: type[T], *, patience: float = 120.0) -> T:
        """The next line; a process that says nothing for so long is killed."""
        assert self._process.stdout is not None
        timer = threading.Timer(patience, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise BenchmarkError(f"{self._module} ended, or was silent for {patience:.0f} seconds")
        return msgspec.json.decode(line, type=answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._process)


class Load(Worker):
    """The load generator."""

    def __init__(self) -> None:
        super().__init__("benchmarks.load")

    def run(self, job: Job) -> Outcome:
        """The timings of an answer that was right in every byte. Raises `BenchmarkError`."""
        outcome = self.ask(job, Outcome, patience=job.patience + 60)
        if outcome.error is not None:
            raise BenchmarkError(f"GET {job.target} from port {job.port}: {outcome.error}")
        return outcome


@dataclass(frozen=True)
class Recipe:
    """How a server is run: ours, or a peer. `{port}` in the command stands for the port that it gets."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: str = "/simple/"
    """The path that answers 200 as soon as the server can be asked."""


class Server:
    """A running server, alone on its core; as a context manager, which stops it."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.name = recipe.name
        self.port = _free_port()
        self._log = folder / f"{recipe.name}.log"
        command = [word.replace("{port}", str(self.port)) for word in recipe.command]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
        with pinned(SERVER_CPU), self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment | dict(recipe.environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.pid = self._process.pid
        try:
            self._await_ready(recipe.ready)
        except BaseException:  # Ctrl-C, too: no process may be left behind
            _end(self._process)
            raise

    def _await_ready(self, path: str, patience: float = 30.0) -> None:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchmarkError(f"{self.name} ended at once:\n{self.log_tail()}")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", path)
                if connection.getresponse().status == http.client.OK:
                    return
            except OSError:
                pass  # not yet
            finally:
                connection.close()
            time.sleep(0.02)  # between two looks at whether it answers; not part of any figure
        raise BenchmarkError(f"{self.name} does not answer {path} with 200:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines that the server wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def cpu_seconds(self) -> float | None:
        """Processor time that it has used so far; None where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def await_idle(self, patience: float = 20.0) -> None:
        """Returns when it has nothing to do, so that no point pays for the one before. Raises `BenchmarkError`."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            # The window over which processor time is counted: the kernel tells it in steps of 10 ms. Before any clock runs.
            time.sleep(0.15)
            after = self.cpu_seconds()
            if before is None or after is None or after - before < 0.03:
                return
        raise BenchmarkError(f"{self.name} is still busy after {patience:.0f} seconds")

    def forget_peak(self) -> None:
        """Lets `peak_memory` begin anew (proc(5), clear_refs)."""
        if (counters := Path(f"/proc/{self.pid}/clear_refs")).exists():
            counters.write_text("5")

    def peak_memory(self) -> float | None:
        """The most resident memory, in bytes, since `forget_peak`: the kernel's own high-water mark, no sampling.

        None where the system does not tell.
        """
        if not (status := Path(f"/proc/{self.pid}/status")).exists():
            return None
        peak = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        return int(peak[1]) * 1024 if peak else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._process)


def mirror(upstream_url: str, data: Path) -> Recipe:
    """This mirror with its defaults, a directory as store."""
    return Recipe(
        name="mirror",
        command=(
            *(sys.executable, "-m", "mirror", "serve"),
            *("--listen", "127.0.0.1:{port}", "--upstream", upstream_url, "--data-dir", str(data)),
        ),
        ready="/readyz",
    )


def mirror_in_bucket(
    upstream_url: str, endpoint_url: str, bucket: str, access_key: str, secret_key: str, **environment: str
) -> Recipe:
    """This mirror with a bucket as store; `environment` are more of its variables."""
    return Recipe(
        name="mirror",
        command=(
            *(sys.executable, "-m", "mirror", "serve", "--listen", "127.0.0.1:{port}", "--upstream", upstream_url),
            *("--storage", "s3", "--s3-bucket", bucket, "--s3-endpoint-url", endpoint_url),
        ),
        environment={"MIRROR_S3_ACCESS_KEY_ID": access_key, "MIRROR_S3_SECRET_ACCESS_KEY": secret_key} | environment,
        ready="/readyz",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the process to end, by its id; kills it if it does not."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
