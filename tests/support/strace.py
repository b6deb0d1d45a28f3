"""Faults put into the system calls of a running process with strace."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_CALL = re.compile(r"^(\d+) +(\w+)\(", re.MULTILINE)


@contextmanager
def attached(pid: int, *, inject: Sequence[str] = (), trace: str = "all", log: Path | None = None) -> Iterator[None]:
    """Injects faults, as `strace -e inject=` spells them, into the process and its threads until the block ends.

    Its counters (`when=`) count per thread from here on, so what the process did before does not matter. A call that
    is being delayed goes on when the block ends.
    """
    command = ["strace", "-f", "-o", str(log or os.devnull), "-e", f"trace={trace}", "-p", str(pid)]
    for fault in inject:
        command += ["-e", f"inject={fault}"]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert strace.stderr is not None
    try:
        said = strace.stderr.readline()
        assert "attached" in said, said
        yield
    finally:
        strace.terminate()
        strace.communicate()


def calls(log: Path) -> dict[str, int]:
    """How often each system call was made, by the thread that made it most."""
    most: Counter[str] = Counter()
    for (_, name), count in Counter(_CALL.findall(log.read_text())).items():
        most[name] = max(most[name], count)
    return dict(most)
