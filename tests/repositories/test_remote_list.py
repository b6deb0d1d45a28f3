"""The list of all projects in a remote store: few reads, and served all the same where the store does not work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.errors import StoreFailure, UpstreamDown
from mirror.model import Span
from mirror.names import project_list_key
from mirror.repositories.project_list import TRAILER
from tests.repositories.remote import RemoteWorld, remote_world
from tests.support.objects import body_of
from tests.support.packages import sdist


@pytest.fixture(params=["disk", "memory"])
async def w(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RemoteWorld]:
    async with remote_world(tmp_path if request.param == "disk" else None) as made:
        yield made


def publish(w: RemoteWorld, *projects: str) -> None:
    for project in projects:
        w.publish(sdist(project, "1.0"), project)


async def names(w: RemoteWorld) -> list[str]:
    return (await body_of((await w.repository.project_list()).content)).decode().split()


async def test_a_fresh_list_costs_one_read(w: RemoteWorld) -> None:
    publish(w, "b", "a")
    assert await names(w) == ["a", "b"]
    await w.settle()
    w.s3.lists.clear()
    for _ in range(3):
        assert await names(w) == ["a", "b"]
    assert w.s3.lists == [Span(0, 3)] * 3
    await w.restart()
    w.s3.lists.clear()
    assert await names(w) == ["a", "b"]
    assert w.s3.lists == [Span(suffix=TRAILER), Span(0, 3)]
    assert w.upstream.calls["list"] == 1


async def test_a_list_that_another_replica_has_replaced_is_read_anew(w: RemoteWorld) -> None:
    publish(w, "a")
    await names(w)
    async with remote_world() as other:
        publish(other, "a", "bcd")
        await names(other)
        replaced = await other.s3.read(project_list_key("memory"), 1 << 20)
        assert replaced is not None
    await w.s3.put(project_list_key("memory"), replaced)
    assert await names(w) == ["a", "bcd"]
    assert w.upstream.calls["list"] == 1


@pytest.mark.parametrize("reads", [True, False])
async def test_s1_a_store_that_does_not_work(w: RemoteWorld, reads: bool) -> None:
    w.s3.refuses_writes, w.s3.refuses_reads = True, not reads
    publish(w, "a")
    assert await asyncio.gather(*(names(w) for _ in range(20))) == [["a"]] * 20
    assert w.upstream.calls["list"] == 1
    assert w.counters["store_failures"] >= 1
    publish(w, "b")
    w.clock.advance(5000)
    assert await names(w) == ["a", "b"]
    with w.upstream.failing():
        w.clock.advance(5000)
        assert await names(w) == ["a", "b"]
    w.s3.refuses_writes = w.s3.refuses_reads = False
    w.clock.advance(5000)
    assert await names(w) == ["a", "b"]
    await w.restart()
    with w.upstream.failing():
        assert await names(w) == ["a", "b"]


async def test_s1_a_store_that_goes_away(w: RemoteWorld) -> None:
    publish(w, "a")
    await names(w)
    w.s3.refuses_writes = w.s3.refuses_reads = True
    with w.upstream.failing(), pytest.raises(UpstreamDown):
        await names(w)
    assert await names(w) == ["a"]
    assert await names(w) == ["a"]
    assert w.upstream.calls["list"] == 3
    await w.restart(offline=True)
    with pytest.raises(StoreFailure):
        await names(w)


async def test_an_old_list_is_read_to_its_end_while_a_new_one_comes(w: RemoteWorld) -> None:
    w.s3.refuses_writes = True
    publish(w, "a")
    old = (await w.repository.project_list()).content
    publish(w, "b")
    w.clock.advance(5000)
    assert await names(w) == ["a", "b"]
    assert await body_of(old) == b"a\n"
