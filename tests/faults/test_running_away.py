"""The running mirror while its upstream is down, silent, slow or busy (U1, U2, U3, U7): what is held is served."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from tests.faults.scene import Scene, eventually, eventually_async, running
from tests.support.http_client import black_hole
from tests.support.packages import Archive, Project, wheel
from tests.support.rawhttp import RawResponse


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running(tmp_path_factory.mktemp("data"), upstream_retries=2) as scene:
        yield scene


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The same with an upstream for which the mirror does not wait long."""
    data = tmp_path_factory.mktemp("data")
    with running(data, upstream_retries=2, upstream_connect_timeout=1, upstream_read_timeout=1) as scene:
        yield scene


@pytest.fixture(autouse=True)
def healed(scene: Scene) -> Iterator[None]:
    yield
    scene.upstream.heal()


def unavailable(answer: RawResponse) -> bool:
    """Whether it says, whole, to come back soon; never 404, which installers believe."""
    return answer.status == 503 and answer.complete and 1 <= int(answer.headers["retry-after"]) <= 5


async def warmed(scene: Scene, name: str) -> tuple[Archive, Archive]:
    """A page that is held, with one file that is held too and one that is not."""
    held, other = wheel(name, "1.0"), wheel(name, "2.0")
    scene.upstream.publish(Project(name, (held, other)))
    assert len(await scene.files_of(name)) == 2
    await scene.kept(held)
    return held, other


async def half_available(scene: Scene, name: str, held: Archive, other: Archive) -> None:
    """Everything that is held is served, everything else is 503."""
    page = await scene.page(name)
    assert (page.status, page.headers["cache-control"]) == (200, "no-cache")
    assert page.headers["x-cache"].startswith("STALE")
    assert [entry["filename"] for entry in json.loads(page.body)["files"]] == [held.filename, other.filename]
    assert (await scene.get_whole(held)).headers["x-cache"] == "HIT store"
    assert (await scene.get(held.path, {"Range": "bytes=1-9"})).body == held.content[1:10]
    for path in (f"simple/{name}-unknown/", other.path, "packages/aa/bb/cc/unknown-1.0.tar.gz", "unknown/json"):
        answer = await scene.get(path)
        assert unavailable(answer), (path, answer)


async def is_up_again(scene: Scene, name: str, other: Archive) -> None:
    """Returns once upstream is asked again, which the breaker allows after a pause."""

    async def confirmed() -> bool:
        return (await scene.page(name)).headers["x-cache"] == "MISS upstream"

    await eventually_async(confirmed)
    await scene.get_whole(other)
    assert json.loads((await scene.get("readyz")).body)["upstreams"] == {"pypi": "up"}


async def opened(scene: Scene, before: dict[str, int]) -> None:
    """Returns once the breaker has opened since `before`."""
    await eventually(lambda: scene.mirror.counters()["upstream_breaker_opened"] > before["upstream_breaker_opened"])


async def test_u1_down(scene: Scene) -> None:
    held, other = await warmed(scene, "refused")
    scene.upstream.stop_now()
    before = scene.mirror.counters()
    async with scene.logging("upstream left alone"):
        assert unavailable(await scene.page("refused-unknown"))
        await half_available(scene, "refused", held, other)
    await opened(scene, before)
    ready = await scene.get("readyz")
    assert (ready.status, json.loads(ready.body)["upstreams"]) == (200, {"pypi": "down"})
    asked = scene.mirror.counters()
    await half_available(scene, "refused", held, other)
    told = scene.mirror.counters()
    # What is asked now is a probe now and then, and each that fails opens the breaker again.
    probes = told["upstream_breaker_opened"] - asked["upstream_breaker_opened"]
    assert told["upstream_requests"] - asked["upstream_requests"] == probes
    scene.upstream.start_now()
    await is_up_again(scene, "refused", other)


async def test_u2_blackholed(impatient: Scene) -> None:
    scene = impatient
    held, other = await warmed(scene, "blackholed")
    scene.upstream.stop_now()
    with black_hole(scene.upstream.ports[0]):
        before = scene.mirror.counters()
        async with scene.logging("upstream failed", reason="no connection within the time allowed"):
            answers = await asyncio.gather(*(scene.page(f"blackholed-{number}") for number in range(60)))
            assert all(map(unavailable, answers))
        await opened(scene, before)
        await half_available(scene, "blackholed", held, other)
        # No retries after a timeout, and none at all once the breaker is open.
        assert scene.mirror.counters()["upstream_requests"] - before["upstream_requests"] <= 60
        assert scene.mirror.counters()["upstream_retries"] == before["upstream_retries"]
    scene.upstream.start_now()
    await is_up_again(scene, "blackholed", other)


async def test_u3_slow_first_byte(scene: Scene) -> None:
    """The copy held is served after a soft timeout, and the refresh goes on behind."""
    held, other = await warmed(scene, "slow")
    await eventually(lambda: bool(scene.stored("slow.json")))
    (document,) = scene.stored("slow.json")
    before = document.read_bytes()
    scene.upstream.publish(Project("slow", (held, other, wheel("slow", "3.0"))))
    slow = scene.upstream.fault("/simple/slow/", hang_before_headers=True)
    async with (
        scene.counting(upstream_requests=1, upstream_failures=0, upstream_retries=0, pages_stale=5),
        scene.logging("page not confirmed, serving the copy held", project="slow", reason="too slow"),
    ):
        answers = await asyncio.gather(*(scene.page("slow") for _ in range(5)))
        assert {answer.headers["x-cache"] for answer in answers} == {"STALE memory"}
        assert {len(json.loads(answer.body)["files"]) for answer in answers} == {2}
        slow.release()
        await eventually(lambda: document.read_bytes() != before, "the refresh did not go on behind")
    assert len(await scene.files_of("slow")) == 3


async def test_u3_no_first_byte(impatient: Scene) -> None:
    """Without a copy there is a deadline."""
    scene = impatient
    scene.publish("silent")
    scene.upstream.fault("/simple/silent/", hang_before_headers=True)
    async with (
        scene.counting(upstream_requests=1, upstream_failures=1, upstream_retries=0),
        scene.logging("upstream failed", reason="no answer within the time allowed"),
    ):
        assert unavailable(await scene.page("silent"))
    scene.upstream.heal()
    await scene.files_of("silent")


@pytest.mark.parametrize(
    ("status", "after", "seconds"), [(429, "55", 55.0), (503, "date", None), (429, "1000000000", 60.0)]
)
async def test_u7_busy_one_pause_for_everything(scene: Scene, status: int, after: str, seconds: float | None) -> None:
    """As long as upstream asks for, but never longer than a minute."""
    name = f"busy-{status}-{after}"
    held, other = await warmed(scene, name)
    value = formatdate(time.time() + 55, usegmt=True) if after == "date" else after
    busy = scene.upstream.fault("*", status=status, headers={"Retry-After": value}, times=1)
    told = {} if seconds is None else {"seconds": seconds}
    async with scene.counting(upstream_requests=1), scene.logging("upstream asks for a pause", **told):
        assert unavailable(await scene.page(f"{name}-unknown"))
        await half_available(scene, name, held, other)
    assert busy.hits == 1
    scene.mirror.restart()  # forgets the pause
    await is_up_again(scene, name, other)


async def test_u7_after_its_pause_upstream_is_asked_again(scene: Scene) -> None:
    _, other = await warmed(scene, "busy")
    scene.upstream.fault("*", status=429, headers={"Retry-After": "3"}, times=1)
    assert unavailable(await scene.page("busy-unknown"))
    await is_up_again(scene, "busy", other)
