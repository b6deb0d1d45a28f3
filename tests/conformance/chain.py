"""The whole mirror in this process: a scripted index, HTTP to it, a store in a folder, the application, a listener."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urljoin

import pytest
import trustme

from mirror.assembly import Mirror, application, running
from mirror.config import Config
from mirror.settings.addresses import TcpAddress
from mirror.testing import MovableClock
from mirror.web.server import listening
from tests.support.packages import Archive, Project, sdist, wheel
from tests.support.pages import HTML, JSON, TEXT
from tests.support.rawhttp import RawConnection, RawResponse
from tests.support.upstream import ScriptedUpstream

TH: Final = "text/html; charset=utf-8"
J, HT = JSON, HTML
IMMUTABLE: Final = "max-age=365000000, immutable, public"
HOSTILE: Final = """broken & <bad> "quoted" 'reason'"""

State = Literal["cold", "in flight", "held"]
STATES: Final[tuple[State, ...]] = ("cold", "in flight", "held")

_SETTINGS: Final[dict[str, Any]] = {
    "upstream_connect_timeout": 60.0,
    "upstream_read_timeout": 60.0,
    "upstream_retries": 0,
    "drain_timeout": 0.0,  # what is written behind is dropped; who wants to see it there waits for it, see `settle`
}
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@cache
def catalogue() -> tuple[Project, ...]:
    """Projects with something of everything that a page can say."""
    return (
        Project(
            "demo",
            (
                wheel("demo", "1.0", requires=("alpha", "beta>=2"), requires_python=">=3.8", blob=5_000),
                wheel("demo", "1.0+cpu", upload_time="2024-05-06T07:08:09.1Z"),
                sdist("demo", "2.0", yanked=HOSTILE, upload_time="2024-05-06T07:08:09Z"),
                wheel("demo", "2!0.1", yanked=True),
            ),
            serial=4711,
        ),
        Project("big", (wheel("big", "1.0", blob=3_000_000),)),
        Project("empty", ()),
        Project("evil", (wheel("evil", "1.0"),), status="quarantined", status_reason="malware"),
        Project("old.Name", (wheel("old.Name", "1.0"),), status="archived", status_reason=HOSTILE),
    )


def archive(project: str, number: int = 0) -> Archive:
    """A file of the catalogue."""
    found = next(each for each in catalogue() if each.name == project).files[number]
    assert isinstance(found, Archive)
    return found


@cache
def authority() -> trustme.CA:
    """Whom mirrors trust here; the system's list takes longer to read than most tests to run."""
    return trustme.CA()


class Chain:
    """What a test asks, looks at and moves."""

    def __init__(self, upstream: ScriptedUpstream, mirror: Mirror, clock: MovableClock, port: int, data: Path) -> None:
        self.upstream, self.mirror, self.clock, self.port, self.data = upstream, mirror, clock, port, data

    # --- asking ----------------------------------------------------------------------------------

    def connect(self) -> RawConnection:
        return RawConnection("127.0.0.1", self.port, timeout=60)

    async def get(
        self,
        target: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        version: str = "HTTP/1.1",
    ) -> RawResponse:
        """One request on a connection of its own; `target` goes out as it is."""
        async with self.connect() as connection:
            await connection.request(method, target, headers, version=version)
            return await connection.response(method)

    async def page(self, name: str, accept: str | None = J, **headers: str) -> RawResponse:
        """A project page, or with an empty `name` the list; keyword arguments are header fields with `_` for `-`."""
        fields = {key.replace("_", "-"): value for key, value in headers.items()}
        target = f"/simple/{name}/" if name else "/simple/"
        return await self.get(target, fields | ({} if accept is None else {"Accept": accept}))

    async def json(self, name: str) -> dict[str, Any]:
        """A project page that has to be there."""
        answer = await self.page(name)
        assert (answer.status, answer.complete) == (200, True), answer
        page: dict[str, Any] = json.loads(answer.body)
        return page

    async def entries(self, name: str) -> dict[str, dict[str, Any]]:
        """The files of a page by name."""
        return {entry["filename"]: entry for entry in (await self.json(name))["files"]}

    async def entry(self, name: str, number: int = 0) -> dict[str, Any]:
        """What the page says of a file of the catalogue."""
        return (await self.entries(name))[archive(name, number).filename]

    async def target(self, name: str, number: int = 0) -> str:
        """Where the page says that a file of the catalogue is."""
        url: str = (await self.entry(name, number))["url"]
        return urljoin(f"/simple/{name}/", url)

    # --- what is behind --------------------------------------------------------------------------

    def asked(self, path: str) -> int:
        """How often upstream was asked for `path`, which begins with a slash."""
        return self.upstream.requests[path]

    async def settle(self) -> None:
        """Waits for everything that goes on behind the answers."""
        assert await self.mirror.tasks.drain(20) == 0

    async def spooled(self, size: int) -> None:
        """Waits until a download has come so far; what hangs upstream does not come any farther."""
        async with asyncio.timeout(60):
            while not any(path.is_file() and path.stat().st_size >= size for path in (self.data / "spool").rglob("*")):
                await asyncio.sleep(0.005)

    async def hold(self, name: str, number: int = 0) -> str:
        """Fetches a file, waits until the store has it, and says where it is."""
        target = await self.target(name, number)
        assert (await self.get(target)).body == archive(name, number).content
        await self.settle()
        return target

    @asynccontextmanager
    async def in_state(self, state: State, name: str, number: int = 0) -> AsyncIterator[str]:
        """The target of a file that is not held, is on its way and stuck in the middle, or is held."""
        target = await self.target(name, number)
        if state == "in flight":
            self.upstream.fault(f"*{archive(name, number).filename}", hang_mid_body=True, times=1)
            async with self.connect() as first:
                await first.request("GET", target)
                await self.upstream.wait_for(target)
                self.upstream.reset_counts()
                yield target
                self.upstream.heal()
            return
        if state == "held":
            assert (await self.get(target)).body == archive(name, number).content
            async with asyncio.timeout(60):
                while (await self.get(target, method="HEAD")).headers["x-cache"] != "HIT store":
                    await asyncio.sleep(0.005)
        self.upstream.reset_counts()
        yield target

    async def unstuck(self, asking: Coroutine[Any, Any, RawResponse]) -> RawResponse:
        """The answer to a request for which what hangs upstream has to go on; it does once the mirror has it."""
        before = self.mirror.counters["requests"]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            task = group.create_task(asking)
            while self.mirror.counters["requests"] == before:
                await asyncio.sleep(0.001)
            self.upstream.heal()
        return task.result()


@asynccontextmanager
async def mirroring(
    upstream: ScriptedUpstream, folder: Path, *, clock: MovableClock | None = None, **settings: Any
) -> AsyncIterator[Chain]:
    """A mirror of `upstream` that keeps everything in `folder`; `settings` are those of `Config`."""
    folder.mkdir(exist_ok=True)
    bundle = folder / "authority.pem"
    authority().cert_pem.write_to_path(str(bundle))
    given = {"upstream_url": upstream.url, "data_dir": folder / "data", "upstream_ca_bundle": bundle}
    config = Config(**(_SETTINGS | given | settings))
    time = clock or MovableClock()
    with pytest.MonkeyPatch.context() as environment:
        for name in _PROXIES:
            environment.delenv(name, raising=False)
        async with running(config, time) as mirror:
            app = application(mirror, config)
            async with listening(app, (TcpAddress("127.0.0.1", 0),), 0.1) as addresses:
                yield Chain(upstream, mirror, time, int(addresses[0].rpartition(":")[2]), config.data_dir)
            upstream.heal()
        assert mirror.counters["background_failures"] == 0


@asynccontextmanager
async def chained(
    folder: Path, *, tls: ssl.SSLContext | None = None, style: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Chain]:
    """The same with an upstream of its own that has the catalogue; `style` as for `ScriptedUpstream`."""
    async with (
        ScriptedUpstream(catalogue(), tls=tls, **(style or {})) as upstream,
        mirroring(upstream, folder, **settings) as chain,
    ):
        yield chain


__all__ = ["HT", "HTML", "IMMUTABLE", "JSON", "STATES", "TEXT", "TH", "Chain", "J", "State", "chained", "mirroring"]
