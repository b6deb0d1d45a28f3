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
    with running(tmp_path_factory.mktemp("data"), upstream_read_timeout=4, upstream_retries=2) as scene:
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


async def test_u1_down(scene: Scene) -> None:
    held, other = await warmed(scene, "refused")
    scene.upstream.stop_now()
    async with scene.counting(upstream_breaker_opened=1), scene.logging("upstream left alone"):
        async with asyncio.timeout(3):
            assert unavailable(await scene.page("refused-unknown"))
        await half_available(scene, "refused", held, other)
    ready = await scene.get("readyz")
    assert (ready.status, json.loads(ready.body)["upstreams"]) == (200, {"pypi": "down"})
    asked = scene.mirror.counters()["upstream_requests"]
    await half_available(scene, "refused", held, other)
    assert scene.mirror.counters()["upstream_requests"] == asked
    scene.upstream.start_now()
    await is_up_again(scene, "refused", other)


async def test_u2_blackholed(scene: Scene) -> None:
    held, other = await warmed(scene, "blackholed")
    scene.upstream.stop_now()
    with black_hole(scene.upstream.ports[0]):
        before = scene.mirror.counters()
        reason = "no connection within the time allowed"
        async with scene.counting(upstream_breaker_opened=1), scene.logging("upstream failed", reason=reason):
            answers = await asyncio.gather(*(scene.page(f"blackholed-{number}") for number in range(60)))
            assert all(map(unavailable, answers))
        await half_available(scene, "blackholed", held, other)
        # No retries after a timeout, and none at all once the breaker is open.
        assert scene.mirror.counters()["upstream_requests"] - before["upstream_requests"] <= 60
        assert scene.mirror.counters()["upstream_retries"] == before["upstream_retries"]
    scene.upstream.start_now()
    await is_up_again(scene, "blackholed", other)


async def test_u3_slow_first_byte(scene: Scene) -> None:
    """The copy held is served after a soft timeout, and the refresh goes on behind; without a copy there is a deadline."""
    held, other = await warmed(scene, "slow")
    scene.publish("silent")
    await eventually(lambda: bool(scene.stored("slow.json")))
    (document,) = scene.stored("slow.json")
    before = document.read_bytes()
    scene.upstream.publish(Project("slow", (held, other, wheel("slow", "3.0"))))
    slow = scene.upstream.fault("/simple/slow/", hang_before_headers=True)
    scene.upstream.fault("/simple/silent/", hang_before_headers=True)
    async with (
        scene.counting(upstream_requests=2, upstream_failures=1, upstream_retries=0, pages_stale=5),
        scene.logging("page not confirmed, serving the copy held", project="slow", reason="too slow"),
        scene.logging("upstream failed", reason="no answer within the time allowed"),
    ):
        silent = asyncio.ensure_future(scene.page("silent"))
        answers = await asyncio.gather(*(scene.page("slow") for _ in range(5)))
        assert {answer.headers["x-cache"] for answer in answers} == {"STALE memory"}
        assert {len(json.loads(answer.body)["files"]) for answer in answers} == {2}
        slow.release()
        await eventually(lambda: document.read_bytes() != before, "the refresh did not go on behind")
        assert unavailable(await silent)
    scene.upstream.heal()
    assert len(await scene.files_of("slow")) == 3
    await scene.files_of("silent")


@pytest.mark.parametrize("status", [429, 503])
async def test_u7_busy_one_pause_for_everything(scene: Scene, status: int) -> None:
    held, other = await warmed(scene, f"busy-{status}")
    after = "3" if status == 429 else formatdate(time.time() + 4, usegmt=True)
    busy = scene.upstream.fault("*", status=status, headers={"Retry-After": after}, times=1)
    async with scene.counting(upstream_requests=1), scene.logging("upstream asks for a pause"):
        assert unavailable(await scene.page(f"busy-{status}-unknown"))
        await half_available(scene, f"busy-{status}", held, other)
    assert busy.hits == 1
    await is_up_again(scene, f"busy-{status}", other)


async def test_u7_an_absurd_pause_is_cut_to_a_minute(scene: Scene) -> None:
    held, other = await warmed(scene, "absurd")
    scene.upstream.fault("*", status=429, headers={"Retry-After": "1000000000"}, times=1)
    async with scene.logging("upstream asks for a pause", seconds=60.0):
        assert unavailable(await scene.page("absurd-unknown"))
    await half_available(scene, "absurd", held, other)
    scene.mirror.restart()  # forgets the pause
    await is_up_again(scene, "absurd", other)
