"""The parts of the legacy JSON API, with and without an upstream that has it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mirror.errors import NoSuchProject
from mirror.names import page_key
from mirror.repositories import legacy
from tests.repositories.world import P, World
from tests.support.packages import core_metadata, sdist, wheel

DOCUMENT = {
    "info": {"name": "P", "version": "1.0", "summary": "from upstream"},
    "vulnerabilities": [{"id": "X-1"}],
    "last_serial": 77,
    "fetched_at": 9e99,
    "urls": [{"url": "https://index.example.com/not/ours"}],
}
WHEEL = wheel("p", "1.0", requires=["other"])


async def test_upstreams_document_is_kept_and_refreshed(any_world: World) -> None:
    w = any_world
    w.publish(WHEEL)
    w.upstream.legacy[P, None] = msgspec.json.encode(DOCUMENT)
    for _ in range(3):
        answer = await w.repository.legacy_json(P)
        assert answer == {k: DOCUMENT[k] for k in ("info", "vulnerabilities", "last_serial")}
    assert w.upstream.calls["legacy:p"] == 1
    w.upstream.legacy[P, None] = msgspec.json.encode(DOCUMENT | {"last_serial": 78})
    w.clock.advance(1000)
    assert (await w.repository.legacy_json(P))["last_serial"] == 78
    w.clock.advance(1000)
    with w.upstream.failing():
        assert (await w.repository.legacy_json(P))["last_serial"] == 78
    await w.restart(offline=True)
    assert (await w.repository.legacy_json(P))["last_serial"] == 78


async def test_without_upstreams_api_it_comes_out_of_a_wheel(any_world: World) -> None:
    w = any_world
    w.publish(sdist("p", "0.5"))
    w.publish(wheel("p", "2.0rc1"))
    file = w.publish(WHEEL)
    await w.get(file)
    await w.settle()
    answer = await w.repository.legacy_json(P)
    assert answer["info"]["name"] == "p"
    assert answer["info"]["version"] == "1.0"
    assert answer["info"]["requires_dist"] == ["other"]
    assert answer["vulnerabilities"] == []
    await w.settle()
    await w.restart(offline=True)
    assert (await w.repository.legacy_json(P))["info"]["requires_dist"] == ["other"]


async def test_without_wheels_it_comes_out_of_a_held_source_archive(disk_world: World) -> None:
    w = disk_world
    file = w.publish(sdist("p", "1.0", requires=["other"]))
    assert (await w.repository.legacy_json(P))["info"]["requires_dist"] is None, "nothing is fetched for it"
    await w.get(file)
    await w.settle()
    w.clock.advance(1000)
    assert (await w.repository.legacy_json(P))["info"]["requires_dist"] == ["other"]


async def test_an_upstream_without_the_api_is_not_asked_each_time(any_world: World) -> None:
    w = any_world
    w.publish(sdist("p", "1.0"))
    for _ in range(3):
        await w.repository.legacy_json(P)
    assert w.upstream.calls["legacy:p"] == 1
    w.upstream.legacy[P, None] = msgspec.json.encode(DOCUMENT)
    w.clock.advance(1000)
    assert (await w.repository.legacy_json(P))["last_serial"] == 77


async def test_p14_what_is_large_is_read_in_threads(any_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w = any_world
    w.upstream.publish("p", "p-1.0-py3-none-any.whl", b"", core_metadata=True)
    entry = w.upstream._entries(P)[0]
    w.upstream.files[entry["url"] + ".metadata"] = core_metadata("p", "1.0", ["other"] * 10_000)
    many = [entry | {"filename": f"p-0.{n}.tar.gz", "url": f"{entry['url']}/p-0.{n}.tar.gz"} for n in range(500)]
    w.upstream._write_page(P, [*many, entry])
    w.upstream.legacy[P, "0.7"] = msgspec.json.encode(DOCUMENT | {"releases": "x" * 1_000_000})
    threads: list[tuple[str, int]] = []

    def noting(call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            threads.append((call.__name__, threading.get_ident()))
            return call(*args)

        return noted

    for name in ("_files_of", "_newest", "_decode", "parse_email"):
        monkeypatch.setattr(legacy, name, noting(getattr(legacy, name)))
    assert len((await w.repository.legacy_json(P))["info"]["requires_dist"]) == 10_000
    assert (await w.repository.legacy_json(P, "0.7"))["last_serial"] == 77
    assert {name for name, _ in threads} == {"_files_of", "_newest", "_decode", "parse_email"}
    assert threading.get_ident() not in {thread for _, thread in threads}


async def test_without_any_metadata_the_page_has_to_do(any_world: World) -> None:
    w = any_world
    w.publish(sdist("p", "1.0"), requires_python=">=3.8")
    info = (await w.repository.legacy_json(P))["info"]
    assert (info["version"], info["requires_python"]) == ("1.0", ">=3.8")


async def test_one_release_under_any_spelling(any_world: World) -> None:
    w = any_world
    w.publish(WHEEL)
    w.upstream.legacy[P, "1.0"] = msgspec.json.encode(DOCUMENT)
    assert (await w.repository.legacy_json(P, "1.0"))["last_serial"] == 77
    assert (await w.repository.legacy_json(P, "1.0.0"))["last_serial"] == 77
    assert w.upstream.calls["legacy:p"] == 1
    for unknown in ("2.0", "../x", "no version"):
        with pytest.raises(NoSuchProject):
            await w.repository.legacy_json(P, unknown)
    with pytest.raises(NoSuchProject):
        await w.repository.legacy_json(P, "3")


@pytest.mark.parametrize("body", [b"<html>", b'{"info": 5}', b'{"info": {"a": "\xff"}}', b""])
async def test_u22_an_unusable_document_is_passed_by(any_world: World, body: bytes) -> None:
    w = any_world
    w.publish(sdist("p", "1.0"))
    w.upstream.legacy[P, None] = body
    assert (await w.repository.legacy_json(P))["info"]["version"] == "1.0"
    assert await w.store.open(page_key("memory", P, ".legacy")) is None


@pytest.mark.parametrize("damage", [b"", b"{", b'{"info": {"a": "\xff"}}'])
async def test_l7_a_damaged_record_is_fetched_anew(any_world: World, damage: bytes) -> None:
    w = any_world
    w.publish(WHEEL)
    w.upstream.legacy[P, None] = msgspec.json.encode(DOCUMENT)
    await w.repository.legacy_json(P)
    await w.store.put(page_key("memory", P, ".legacy"), damage)
    assert (await w.repository.legacy_json(P))["last_serial"] == 77


async def test_l1_a_store_that_refuses_does_not_hurt(any_world: World) -> None:
    w = any_world
    w.publish(WHEEL)
    w.upstream.legacy[P, None] = msgspec.json.encode(DOCUMENT)
    w.store.writes = w.store.reads = False
    assert (await w.repository.legacy_json(P))["last_serial"] == 77
    await w.settle()
    assert w.counters["store_failures"] >= 2
