"""The load generator: asks one URL with so many clients at once, times them, and verifies every byte afterwards.

A process of its own (`python -m benchmarks.load`) that takes one `Job` a line and answers one `Outcome` a line.
Plain sockets in one `select` loop: nothing to install, and little enough work that the server is what is measured.
"""

from __future__ import annotations

import gzip
import hashlib
import mmap
import selectors
import socket
import sys
import time
from collections.abc import Iterable
from html.parser import HTMLParser
from typing import Final

import msgspec

_RECEIVE: Final = 1024 * 1024
"""Most bytes that one client takes in one system call, so that all clients get on together."""
_HEAD: Final = 64 * 1024
"""Room for a head and for the framing of chunks."""


class LoadError(Exception):
    """An answer that failed, or that is not what was expected; never a figure."""


class Job(msgspec.Struct, frozen=True):
    """What to ask, and what must come back."""

    port: int
    """On 127.0.0.1."""
    target: str
    headers: dict[str, str]
    capacity: int
    """Most bytes of an answer's body, as sent."""
    sha256: str
    """Of the decoded body or, if `page`, the `fingerprint` of the files that it names."""
    page: bool = False
    clients: int = 1
    patience: float = 60.0
    """Seconds after which answers that are not complete have failed."""


class Outcome(msgspec.Struct, frozen=True):
    """Seconds from the first request's departure, one value a client; empty if there was an `error`."""

    first_byte: list[float]
    """Until the first byte of the body."""
    total: list[float]
    """Until its last one."""
    error: str | None = None


class _Client:
    """One connection and its answer, received into memory that is there before the clock starts."""

    def __init__(self, job: Job) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
        self._buffer = mmap.mmap(-1, job.capacity + _HEAD, flags=flags)
        self._view = memoryview(self._buffer)
        self._request = _request(job)
        self._filled = 0
        self._body_at = 0
        self._length: int | None = None
        self._chunk_at = 0
        self.headers: dict[str, str] = {}
        self.first_byte = 0.0
        self.total = 0.0
        self.socket = socket.create_connection(("127.0.0.1", job.port), timeout=10)
        self.socket.setblocking(False)

    def send(self) -> None:
        sent = self.socket.send(self._request)
        if sent != len(self._request):
            raise LoadError("the request did not fit into an empty connection")

    def receive(self, started: float) -> bool:
        """Takes what is there; whether the answer is complete."""
        if self._filled == len(self._view):
            raise LoadError(f"the answer is longer than {len(self._view)} bytes")
        count = self.socket.recv_into(self._view[self._filled : self._filled + _RECEIVE])
        now = time.perf_counter() - started
        if count == 0:
            raise LoadError(f"the server closed after {self._filled} bytes")
        self._filled += count
        if not self._body_at and not self._read_head():
            return False
        if not self.first_byte and self._filled > self._body_at:
            self.first_byte = now
        if not self._is_complete():
            return False
        self.total = now
        return True

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        if first.split(" ")[1:2] != ["200"]:
            raise LoadError(f"the answer is {first!a}")
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._body_at = self._chunk_at = end + 4
        if "content-length" in self.headers:
            self._length = int(self.headers["content-length"])
            if self._length == 0:
                raise LoadError("the answer is empty")
        elif self.headers.get("transfer-encoding", "").lower() != "chunked":
            raise LoadError("the answer does not say where it ends")
        return True

    def _is_complete(self) -> bool:
        if self._length is not None:
            if self._filled > self._body_at + self._length:
                raise LoadError("bytes follow the end of the answer")
            return self._filled == self._body_at + self._length
        while (end := self._buffer.find(b"\r\n", self._chunk_at, self._filled)) >= 0:
            size = int(self._buffer[self._chunk_at : end], 16)
            behind = end + 2 + size + 2
            if behind > self._filled:
                return False
            if size == 0:
                return True
            self._chunk_at = behind
        return False

    def body(self) -> bytes:
        """The complete body, without its framing and coding."""
        if self._length is not None:
            raw = self._buffer[self._body_at : self._body_at + self._length]
        else:
            raw = b"".join(self._chunks())
        match self.headers.get("content-encoding", "identity"):
            case "identity":
                return raw
            case "gzip":
                return gzip.decompress(raw)
            case other:
                raise LoadError(f"the answer has the coding {other!a}, for which nobody asked")

    def _chunks(self) -> Iterable[bytes]:
        at = self._body_at
        while True:
            end = self._buffer.find(b"\r\n", at, self._filled)
            size = int(self._buffer[at:end], 16)
            if size == 0:
                return
            yield self._buffer[end + 2 : end + 2 + size]
            at = end + 2 + size + 2

    def close(self) -> None:
        self.socket.close()
        self._view.release()
        self._buffer.close()


def run(job: Job) -> Outcome:
    """Opens all connections, starts the clock, asks, and verifies when the clock has stopped. Raises `LoadError`."""
    clients: list[_Client] = []
    try:
        clients.extend(_Client(job) for _ in range(job.clients))
        _receive_all(clients, job.patience)
        for client in clients:
            _verify(job, client)
        return Outcome([client.first_byte for client in clients], [client.total for client in clients])
    finally:
        for client in clients:
            client.close()


def _receive_all(clients: list[_Client], patience: float) -> None:
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        started = time.perf_counter()
        for client in clients:
            client.send()
        waiting = len(clients)
        while waiting:
            left = started + patience - time.perf_counter()
            if left <= 0:
                raise LoadError(f"{waiting} of {len(clients)} answers are not complete after {patience:.0f} seconds")
            for key, _ in selector.select(left):
                if key.data.receive(started):
                    selector.unregister(key.fileobj)
                    waiting -= 1


def _verify(job: Job, client: _Client) -> None:
    body = client.body()
    found = fingerprint(_named_files(body, client.headers)) if job.page else hashlib.sha256(body).hexdigest()
    if found != job.sha256:
        raise LoadError(f"the {len(body)} bytes of {job.target} are not those expected")


def fingerprint(files: Iterable[tuple[str, str]]) -> str:
    """One digest for a page's files, given as file name and sha256, whatever the page's form and their order."""
    return hashlib.sha256("\n".join(" ".join(file) for file in sorted(files)).encode()).hexdigest()


class _Page(msgspec.Struct):
    class Entry(msgspec.Struct):
        filename: str
        hashes: dict[str, str]

    files: list[Entry]


class _Anchors(HTMLParser):
    """The links of a project page; a parser that is not the mirror's."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            path, _, digest = (dict(attrs).get("href") or "").partition("#sha256=")
            self.files.append((path.rpartition("/")[2], digest))


def _named_files(body: bytes, headers: dict[str, str]) -> list[tuple[str, str]]:
    if "json" in headers.get("content-type", ""):
        return [(entry.filename, entry.hashes["sha256"]) for entry in msgspec.json.decode(body, type=_Page).files]
    anchors = _Anchors()
    anchors.feed(body.decode())
    return anchors.files


def _request(job: Job) -> bytes:
    lines = [f"GET {job.target} HTTP/1.1", f"Host: 127.0.0.1:{job.port}"]
    lines += [f"{name}: {value}" for name, value in job.headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def main() -> None:
    """Answers jobs until standard input ends."""
    for line in sys.stdin.buffer:
        try:
            outcome = run(msgspec.json.decode(line, type=Job))
        except (LoadError, OSError, ValueError, EOFError) as error:
            outcome = Outcome([], [], f"{type(error).__name__}: {error}")
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
