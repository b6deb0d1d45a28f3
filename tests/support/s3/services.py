"""Real S3 services as processes on free ports of 127.0.0.1, for tests to store in, stop and start again."""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import os
import random
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Protocol, Self

import botocore.config
import botocore.session

START_TIMEOUT: Final = 60.0
"""Seconds until a service has to answer."""

STOP_TIMEOUT: Final = 60.0
"""Seconds until it has to have ended after SIGTERM."""

_ATTEMPTS = 5
_NUMBERS = itertools.count(1)


class DidNotStart(Exception):
    """A service ended, or never answered; the text has the end of its log."""


class Endpoint(Protocol):
    """What a client of S3 has to know; a service has it, and a proxy before one."""

    @property
    def endpoint_url(self) -> str: ...
    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def region(self) -> str: ...


class S3Service(ABC):
    """A service whose data lie in `folder`, as a context manager that never leaves a process behind.

    After `stop` or `kill`, `start` begins anew on the same port and folder.
    """

    name: ClassVar[str]
    access_key: str = "testkey"
    secret_key: str = "testsecret"
    region: str = "us-east-1"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        """0 before the first start, then the same in every run."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def start(self) -> None:
        """Returns once it answers. Raises `DidNotStart`."""

    @abstractmethod
    def stop(self) -> None:
        """Ends it in good order; ending what has ended is no error."""

    def restart(self) -> None:
        self.stop()
        self.start()

    def new_bucket(self) -> str:
        """The name of a bucket that was made just now and is empty."""
        name = self.unused_name()
        self.client().create_bucket(Bucket=name)
        return name

    def unused_name(self) -> str:
        """The name of a bucket that does not exist."""
        return f"bucket-{next(_NUMBERS):04}"

    def client(self) -> Any:
        """A blocking client, to look behind the mirror's back; see `client_of`."""
        return client_of(self)


class SingleProcess(S3Service):
    """A service that is one process, which stays in the foreground."""

    _process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, port: int) -> Sequence[str | Path]:
        """What to run so that it listens on 127.0.0.1:`port`."""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """What it wrote on stdout and stderr."""
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        assert not self.running
        self.folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(_ATTEMPTS):
            port = self.port or free_port()
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self.command(port), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=plain_environment()
                )
            try:
                wait_until_answered(port, self._process)
            except DidNotStart as error:
                self.kill()
                # Somebody else may have taken the port in between.
                if self.port or attempt == _ATTEMPTS - 1:
                    raise DidNotStart(f"{self.name}: {error}\n{self._end_of_log()}") from error
            else:
                self.port = port
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _end_of_log(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


class Rclone(SingleProcess):
    """`rclone serve s3`: every bucket is a directory in `folder`/buckets, every object a file in it."""

    name = "rclone"

    @property
    def root(self) -> Path:
        """Where the buckets lie, as plain directories."""
        return self.folder / "buckets"

    def command(self, port: int) -> Sequence[str | Path]:
        self.root.mkdir(exist_ok=True)
        keys = f"{self.access_key},{self.secret_key}"
        return [
            program("rclone"),
            "serve",
            "s3",
            "--config=",
            f"--addr=127.0.0.1:{port}",
            f"--auth-key={keys}",
            self.root,
        ]


class Moto(SingleProcess):
    """moto's server: everything in memory and gone with it; any key and signature is good enough."""

    name = "moto"

    def __init__(self, folder: Path, python: Path) -> None:
        """`python` is the interpreter of the environment that moto is installed in."""
        super().__init__(folder)
        self._python = python

    def command(self, port: int) -> Sequence[str | Path]:
        return [self._python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]


def program(name: str) -> Path:
    """A program that came with a package of this environment."""
    return Path(sys.executable).parent / name


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment, and that no outgoing connection will be given."""
    while True:
        port = random.randrange(10_000, 32_000)  # below what Linux gives to outgoing connections
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def plain_environment() -> dict[str, str]:
    """The surroundings without what would change how a service behaves."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_", "MOTO_"))}


def wait_until_answered(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Returns once HTTP is answered there, with whatever status. Raises `DidNotStart`, also if `process` ends."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        if process is not None and process.poll() is not None:
            raise DidNotStart(f"exit code {process.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                raise DidNotStart(f"no answer within {START_TIMEOUT:.0f} s: {error}") from error
        finally:
            connection.close()
        time.sleep(0.05)  # between two looks at a process that says nothing when it is ready


def client_of(endpoint: Endpoint) -> Any:
    """A blocking client of botocore's that asks once and never again; several threads may use it."""
    return _client(endpoint.endpoint_url, endpoint.access_key, endpoint.secret_key, endpoint.region)


@functools.cache
def _client(endpoint_url: str, access_key: str, secret_key: str, region: str) -> Any:
    return botocore.session.Session().create_client(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=botocore.config.Config(
            signature_version="s3v4",  # also of presigned URLs
            s3={"addressing_style": "path"},
            proxies={},
            retries={"mode": "standard", "total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
