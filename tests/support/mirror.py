"""The mirror as a process of its own: started, asked, killed and started again by a test."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

START_TIMEOUT: Final = 60.0
"""Seconds until it has to listen."""

STOP_TIMEOUT: Final = 90.0
"""Seconds until it has to have ended after SIGTERM."""

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class MirrorProcess:
    """`mirror serve` on a free port of 127.0.0.1, as a context manager that never leaves a process behind.

    Settings are keyword arguments by their names in `Config`, None for "not set":
    `MirrorProcess(data_dir=folder, upstream_url=upstream.url, page_ttl=0)`. Nothing of the surroundings' `MIRROR_…`
    variables reaches it. `prefix` is put before the command (`unshare …`, `prlimit …`), `environ` into its
    environment. After `terminate` or `kill`, `start` begins anew on the same port and data folder.
    """

    def __init__(
        self, *, prefix: Sequence[str] = (), environ: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        self.settings = settings
        """May be changed between two runs."""
        self.port = 0
        """0 before the first start, then the same in every run."""
        self.log: list[dict[str, Any]] = []
        """Every event logged so far, of all runs."""
        self.text: list[str] = []
        """Every line on stderr that was no JSON; a sound mirror writes none."""
        self._prefix, self._environ = list(prefix), dict(environ or {})
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._held: socket.socket | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.running:
                self.terminate()
        finally:
            self.kill()
            self._release_port()

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:port/`."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def url(self) -> str:
        """The simple index."""
        return f"{self.origin}simple/"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the run that is on, or was last."""
        assert self._process is not None
        return self._process.pid

    def start(self, **settings: Any) -> None:
        """Starts it and returns once it listens; `settings` change those of the runs before."""
        assert not self.running
        self.settings |= settings
        listening: list[str] = []
        told = threading.Event()
        command = [sys.executable, "-m", "mirror", "serve", "--listen", f"127.0.0.1:{self.port}"]
        self._release_port()
        self._process = process = subprocess.Popen(
            [*self._prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=self._environment(),
        )

        def read_stdout() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                if not told.is_set():
                    listening.append(line)
                    told.set()
            told.set()

        self._readers = [
            threading.Thread(target=read_stdout, name="stdout of the mirror"),
            threading.Thread(target=self._read_stderr, args=(process,), name="stderr of the mirror"),
        ]
        for reader in self._readers:
            reader.start()
        if not told.wait(START_TIMEOUT) or not listening:
            self.kill()
            raise AssertionError(f"the mirror did not start (exit code {process.returncode}):\n{self.tail()}")
        match = re.fullmatch(r"Listening on 127\.0\.0\.1:(\d+)\n", listening[0])
        assert match, listening[0]
        self.port = int(match[1])

    def terminate(self, *, code: int = 0) -> None:
        """Sends SIGTERM and waits for its end; the exit code has to be `code`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            ended = self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the mirror did not end after SIGTERM:\n{self.tail()}") from None
        self._collect()
        assert ended == code, f"exit code {ended}:\n{self.tail()}"

    def kill(self) -> None:
        """Sends SIGKILL, if it runs, and waits for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._collect()

    def restart(self, **settings: Any) -> None:
        """`terminate` and `start`."""
        self.terminate()
        self.start(**settings)

    def counters(self) -> dict[str, int]:
        """The counters by their names in `mirror.counters.EVENTS`."""
        with _NO_PROXY.open(f"{self.origin}metrics", timeout=60) as answer:
            text = answer.read().decode()
        return {name: int(value) for name, value in re.findall(r"^mirror_(\w+)_total (\d+)$", text, re.MULTILINE)}

    def rss(self) -> int:
        """Resident memory of the process in bytes (Linux)."""
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))

    def events(self, event: str) -> list[dict[str, Any]]:
        """What was logged under this name."""
        return [entry for entry in self.log if entry.get("event") == event]

    def troubles(self) -> list[object]:
        """Everything logged that no foreseen failure logs: tracebacks, errors, and lines that are not JSON."""
        entries = [entry for entry in self.log if "exception" in entry or entry.get("level") in ("error", "critical")]
        return [*entries, *self.text]

    def tail(self, lines: int = 40) -> str:
        """The last of the log, for people."""
        return "\n".join([*(json.dumps(entry) for entry in self.log[-lines:]), *self.text[-lines:]])

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
        settings = {"log_format": "json", **self.settings}
        given = {f"MIRROR_{name.upper()}": str(value) for name, value in settings.items() if value is not None}
        return kept | given | self._environ

    def _read_stderr(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.text.append(line.rstrip("\n"))

    def _collect(self) -> None:
        """After the end of a process: reads what it has left, and keeps its port from being given to others."""
        assert self._process is not None
        for reader in self._readers:
            reader.join()
        self._readers = []
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self.port and self._held is None:
            self._held = socket.socket()
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):  # somebody was faster; the next start will say so
                self._held.bind(("127.0.0.1", self.port))

    def _release_port(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
