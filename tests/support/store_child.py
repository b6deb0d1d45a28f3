"""A process of its own that works on a directory store, to be killed or lied to.

The server forks one child per scenario, so that a sweep over hundreds of them costs one start of Python.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mirror.adapters.directory.store import DirectoryStore
from mirror.errors import StoreFailure
from tests.support.objects import body_of, version

Say = Callable[[str], None]
_PR_SET_PTRACER = 0x59616D61


class StoreChild:
    """The server's other end."""

    def __init__(self, line: socket.socket) -> None:
        self._lines = line.makefile("rw", encoding="utf-8")

    @contextmanager
    def ready(
        self, scenario: str, root: Path, *, hear: Callable[[str], None] = lambda _: None
    ) -> Iterator[tuple[int, Callable[[], tuple[list[str], int]]]]:
        """A child that waits to run `scenario`: its pid, and what lets it run and returns what it said and its status.

        `hear` is told all that it says while it runs.
        """
        self._send({"scenario": scenario, "root": str(root)})
        pid = self._receive()["pid"]
        has_run = False

        def run() -> tuple[list[str], int]:
            nonlocal has_run
            has_run = True
            self._send({"go": True})
            said = []
            while "status" not in (answer := self._receive()):
                said.append(answer["said"])
                hear(said[-1])
            return said, answer["status"]

        try:
            yield pid, run
        finally:
            if not has_run:
                run()

    def _send(self, message: dict[str, Any]) -> None:
        self._lines.write(json.dumps(message) + "\n")
        self._lines.flush()

    def _receive(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer


@contextmanager
def store_child() -> Iterator[StoreChild]:
    """Starts the server, and ends it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = subprocess.Popen([sys.executable, "-m", __name__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        try:
            yield StoreChild(ours)
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            server.wait(timeout=60)


def _serve(line: socket.socket) -> None:
    requests = line.makefile("r", encoding="utf-8")
    while request := requests.readline():
        order = json.loads(request)
        go, release = os.pipe()
        pid = os.fork()
        if pid == 0:
            # Lets a strace that is not our parent attach, where the kernel asks for that (Yama).
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
            os.read(go, 1)
            # Said over a socket with send(2), for write(2) is among the calls that are tampered with.
            os._exit(_run(SCENARIOS[order["scenario"]], Path(order["root"]), lambda text: _say(line, {"said": text})))
        _say(line, {"pid": pid})
        requests.readline()
        os.write(release, b"x")
        _, status = os.waitpid(pid, 0)
        os.close(go)
        os.close(release)
        _say(line, {"status": os.waitstatus_to_exitcode(status)})


def _run(scenario: Callable[[Path, Say], Coroutine[None, None, None]], root: Path, say: Say) -> int:
    try:
        asyncio.run(scenario(root, say))
    except Exception as error:  # noqa: BLE001 - whatever it is, the test must hear of it
        say(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _say(line: socket.socket, message: dict[str, Any]) -> None:
    line.sendall(json.dumps(message).encode() + b"\n")


# One thread, so that strace counts the store's calls in one row.


def _store(root: Path) -> DirectoryStore:
    return DirectoryStore(root, readers=1, writers=1)


async def every_write(root: Path, say: Say) -> None:
    """Each of the store's ways to write, once; says what was acknowledged."""
    store = _store(root)
    await store.start()
    say("started")
    await store.put("files/one/ab/cd/p/new.whl", version(1))
    say("new 1")
    await store.put("files/one/ab/cd/p/new.whl", version(2))
    say("new 2")
    await store.adopt("files/one/ab/cd/p/adopted.whl", root / "spool" / "adopted")
    say("adopted 3")
    await store.delete("local/deleted")
    say("deleted")
    await store.quarantine("local/damaged")
    say("quarantined")
    await store.check()
    await store.aclose()


async def one_put(root: Path, say: Say) -> None:
    store = _store(root)
    await store.start()
    say("started")
    try:
        await store.put("local/new", version(1))
        say("acknowledged")
    except StoreFailure as failure:
        say(str(failure))
    await store.aclose()


async def one_adopt(root: Path, say: Say) -> None:
    store = _store(root)
    await store.start()
    say("started")
    try:
        await store.adopt("local/new", root / "spool" / "adopted")
        say("acknowledged")
    except StoreFailure as failure:
        say(str(failure))
    await store.aclose()


async def read_while_writing(root: Path, say: Say) -> None:
    store = DirectoryStore(root, readers=2, writers=2)
    await store.start()
    say("started")
    while not (root / "begin").exists():
        await asyncio.sleep(0.005)

    async def put() -> None:
        await store.put("local/new", version(1))
        say("put")

    async def read() -> None:
        for _ in range(100):
            assert await body_of(await store.open("local/old")) == version(0)
        say("read 100 times")

    await asyncio.gather(put(), put(), put(), put(), read())
    await store.aclose()


SCENARIOS: dict[str, Callable[[Path, Say], Coroutine[None, None, None]]] = {
    f.__name__: f for f in (every_write, one_put, one_adopt, read_while_writing)
}

if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
