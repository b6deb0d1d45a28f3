"""The list of all projects: never in memory, served by age, whole or not at all."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from mirror.errors import NotHeld, StoreFailure, UpstreamDown, UpstreamMisbehaved
from mirror.names import project_list_key
from mirror.repositories import project_list as module
from mirror.testing import SIMPLE_JSON
from tests.repositories.world import World, rewrite
from tests.support.objects import body_of
from tests.support.packages import sdist

KEY = project_list_key("memory")


def publish(w: World, *projects: str) -> None:
    for project in projects:
        w.publish(sdist(project, "1.0"), project)


async def names(w: World) -> list[str]:
    answer = await w.repository.project_list()
    assert answer.content.stop - answer.content.start <= answer.content.size
    return (await body_of(answer.content)).decode().split()


async def test_the_list_is_fetched_once_while_it_is_fresh(any_world: World) -> None:
    w = any_world
    publish(w, "b", "a")
    lists = await asyncio.gather(*(names(w) for _ in range(20)))
    assert lists == [["a", "b"]] * 20
    w.clock.advance(500)
    answer = await w.repository.project_list()
    assert (answer.max_age, answer.stale) == (100, False)
    await body_of(answer.content)
    assert w.upstream.calls["list"] == 1
    await w.restart()
    assert await names(w) == ["a", "b"]
    assert w.upstream.calls["list"] == 1


async def test_a_stale_list_is_served_and_renewed_behind(any_world: World) -> None:
    w = any_world
    publish(w, "a")
    await names(w)
    publish(w, "b")
    w.clock.advance(700)
    assert await names(w) == ["a"]
    await w.settle()
    assert await names(w) == ["a", "b"]


async def test_u1_an_expired_list_is_served_if_upstream_is_down(any_world: World) -> None:
    w = any_world
    with w.upstream.failing(), pytest.raises(UpstreamDown):
        await names(w)
    publish(w, "a")
    await names(w)
    w.clock.advance(100_000)
    with w.upstream.failing():
        answer = await w.repository.project_list()
        assert (answer.stale, answer.max_age) == (True, 0)
        assert await body_of(answer.content) == b"a\n"


async def test_u3_a_slow_upstream_gives_way_to_the_list_held(any_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w = any_world
    monkeypatch.setattr(module, "SOFT_TIMEOUT", 0.02)
    publish(w, "a")
    await names(w)
    publish(w, "b")
    w.clock.advance(1000)
    w.upstream._piece = 50
    w.upstream.gate = asyncio.Event()
    assert await names(w) == ["a"]
    w.upstream.gate.set()
    await w.settle()
    assert await names(w) == ["a", "b"]


async def test_an_empty_list(any_world: World) -> None:
    assert await names(any_world) == []
    assert await names(any_world) == []


async def test_offline(any_world: World) -> None:
    w = any_world
    publish(w, "a")
    await w.restart(offline=True)
    with pytest.raises(NotHeld):
        await names(w)
    await w.restart(offline=False)
    await names(w)
    await w.restart(offline=True)
    w.clock.advance(10**6)
    answer = await w.repository.project_list()
    assert not answer.stale
    assert await body_of(answer.content) == b"a\n"
    assert w.upstream.calls["list"] == 1


@pytest.mark.parametrize("damage", ["trailer", "truncate", "empty", "not utf-8", "beginning cut off"])
async def test_l7_a_damaged_list_is_quarantined_and_fetched_anew(disk_world: World, damage: str) -> None:
    w = disk_world
    publish(w, "a", "b")
    await names(w)
    assert w.root is not None
    body = (w.root / KEY).read_bytes()
    damaged = {
        "trailer": body[:-10] + b"0" + body[-9:],
        "truncate": body[:-1],
        "empty": b"",
        "not utf-8": body[:-12] + b"\xff" + body[-11:],
        "beginning cut off": body[2:],
    }
    rewrite(w.root / KEY, damaged[damage])
    assert await names(w) == ["a", "b"]
    if w.counters["store_quarantined"] == 0:
        # a digit of a time or a digest can change without harm to the list itself
        assert damage in ("trailer",)
    else:
        assert w.upstream.calls["list"] == 2


async def test_a_failed_refresh_leaves_the_old_list_and_no_spool(any_world: World) -> None:
    w = any_world
    publish(w, "a")
    await names(w)
    fetch = w.upstream.fetch_project_list
    closed = []

    class Portal:
        def __aiter__(self) -> AsyncIterator[bytes]:
            return self._pieces()

        async def _pieces(self) -> AsyncGenerator[bytes, None]:
            yield b"<html><form>log in</form>"

        async def __anext__(self) -> bytes:
            raise StopAsyncIteration

        async def aclose(self) -> None:
            closed.append(True)

    async def portal() -> tuple[str, AsyncIterator[bytes]]:
        return "text/html", Portal()

    w.upstream.fetch_project_list = portal  # type: ignore[method-assign]
    w.clock.advance(1000)
    assert await names(w) == ["a"]
    assert closed == [True]
    await w.restart()
    w.upstream.fetch_project_list = fetch  # type: ignore[method-assign]
    publish(w, "b")
    assert await names(w) == ["a", "b"]


async def test_u22_a_portal_is_no_list(any_world: World) -> None:
    w = any_world

    async def portal() -> tuple[str, AsyncIterator[bytes]]:
        return "text/html", w.upstream._pieces(b"<html><form>log in</form>")

    w.upstream.fetch_project_list = portal  # type: ignore[method-assign]
    with pytest.raises(UpstreamMisbehaved):
        await names(w)
    assert await w.store.open(KEY) is None


async def test_l1_a_store_that_refuses_leaves_the_old_list(any_world: World) -> None:
    w = any_world
    publish(w, "a")
    w.store.writes = False
    with pytest.raises(StoreFailure):
        await names(w)
    w.store.writes = True
    await names(w)
    publish(w, "b")
    w.store.writes = False
    w.clock.advance(1000)
    assert await names(w) == ["a"]
    assert w.counters["store_failures"] == 2


async def test_a_list_that_is_replaced_between_two_reads_is_never_mixed(any_world: World) -> None:
    w = any_world
    publish(w, *(f"a{n}" for n in range(50)))
    await names(w)
    lists = w.repository._lists
    facts = await lists._facts()
    assert facts is not None
    publish(w, "b")
    await lists._refresh()
    answer = await lists._open(facts)
    assert len((await body_of(answer.content)).split()) == 51


async def test_memory_does_not_grow_with_the_list(disk_world: World) -> None:
    w = disk_world
    count = 60_000

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b'{"meta": {"api-version": "1.4"}, "projects": ['
        for at in range(0, count, 1000):
            batch = ",".join(f'{{"name": "a-rather-long-project-name-{n:07}"}}' for n in range(at, at + 1000))
            yield ("," if at else "").encode() + batch.encode()
        yield b"]}"

    async def many() -> tuple[str, AsyncIterator[bytes]]:
        return SIMPLE_JSON, pieces()

    w.upstream.fetch_project_list = many  # type: ignore[method-assign]
    gc.collect()
    tracemalloc.start()
    try:
        answer = await w.repository.project_list()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    body = await body_of(answer.content)
    assert len(body.splitlines()) == count
    assert peak < 1_200_000 < len(body)
