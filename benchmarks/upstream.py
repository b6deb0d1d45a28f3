"""The upstream of the benchmarks: the tests' scripted index in a process of its own, told what to do line by line.

`python -m benchmarks.upstream` takes one command a line and answers one line each; see `main`.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Any

import msgspec

from benchmarks.load import fingerprint
from tests.support import graphs
from tests.support.packages import Project, wheel
from tests.support.pages import Style
from tests.support.upstream import ScriptedUpstream

HTML_ONLY = Style(json=False, metadata=False, upload_time=False, sizes=False, serial=False, status=False)
"""What most indexes other than PyPI send: HTML, with compression and validators."""


class Hello(msgspec.Struct, frozen=True):
    """The first line, before any command."""

    port: int


class Command(msgspec.Struct, frozen=True, tag_field="do"):
    """One line of standard input."""


class PublishWheel(Command, frozen=True, tag="wheel"):
    """A new project with a wheel of `size` random bytes and a little more."""

    name: str
    size: int


class PublishPage(Command, frozen=True, tag="page"):
    """A new project with a page of two files a version, of which no bytes exist."""

    name: str
    versions: int


class Withdraw(Command, frozen=True, tag="withdraw"):
    """Forgets a project."""

    name: str


class Link(Command, frozen=True, tag="link"):
    """How far away upstream is from now on, and what it speaks."""

    latency: float
    """Seconds before each answer."""
    rate: int | None
    """Bytes a second of each archive; None for no limit."""
    html_only: bool = False


class Count(Command, frozen=True, tag="count"):
    """How often each path was asked for by GET since the last such command."""


class Published(msgspec.Struct, frozen=True):
    """The answer to both kinds of publishing."""

    page: str
    """Path of the project page."""
    files: str
    """Their `fingerprint`."""
    path: str = ""
    """Of the wheel."""
    size: int = 0
    sha256: str = ""


async def main() -> None:
    """Answers commands until standard input ends."""
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    decoder = msgspec.json.Decoder(PublishWheel | PublishPage | Withdraw | Link | Count)
    async with ScriptedUpstream() as upstream:
        _say(Hello(upstream.ports[0]))
        while line := await commands.readline():
            _say(_obey(upstream, decoder.decode(line)))


def _obey(upstream: ScriptedUpstream, command: Command) -> Any:
    match command:
        case PublishWheel(name, size):
            archive = wheel(name, "1.0", blob=size)
            published = _publish(upstream, Project(name, (archive,)))
            return msgspec.structs.replace(published, path=f"/{archive.path}", size=archive.size, sha256=archive.sha256)
        case PublishPage(name, versions):
            return _publish(upstream, graphs.huge(name, versions))
        case Withdraw(name):
            upstream.withdraw(name)
        case Link(latency, rate, html_only):
            upstream.heal()
            upstream.fault("*", delay=latency)
            upstream.fault("/packages/*", delay=latency, rate=rate)
            upstream.site.style = replace(HTML_ONLY if html_only else Style())
        case Count():
            asked: dict[str, int] = {}
            for request in upstream.log:
                if request.method == "GET":
                    asked[request.path] = asked.get(request.path, 0) + 1
            upstream.reset_counts()
            return asked
    return None


def _publish(upstream: ScriptedUpstream, project: Project) -> Published:
    upstream.publish(project)
    return Published(
        page=f"/simple/{project.normal}/",
        files=fingerprint((file.filename, file.sha256) for file in project.files),
    )


def _say(answer: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(main())
