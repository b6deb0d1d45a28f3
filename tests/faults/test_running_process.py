"""The mirror as a process: killed, told to end, refused to start (P1, P2)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.scene import eventually, running
from tests.support.rawhttp import Ending, RawResponse

CANARY = "canary-51c7"


async def test_p1_killed_in_the_middle_of_downloads(tmp_path: Path) -> None:
    with running(tmp_path / "data") as scene:
        for moment in (100_000, 900_000):
            names = [f"killed-{moment}-{number}" for number in range(3)]
            archives = [scene.publish(name, 1_000_000) for name in names]
            for name in names:
                await scene.files_of(name)
            held = scene.upstream.fault("/packages/*", hang_mid_body=moment)
            async with scene.connection() as connection:
                await connection.request("GET", f"/{archives[0].path}")
                others = [asyncio.ensure_future(scene.get(archive.path)) for archive in archives[1:]]
                await scene.spooled(moment, 3)
                await connection.read_exactly(moment - 64 * 1024)
                held.release()
                scene.mirror.kill()
                for answer in await asyncio.gather(*others, return_exceptions=True):
                    if isinstance(answer, RawResponse) and answer.complete:
                        assert answer.body in [archive.content for archive in archives]
            for archive in archives:
                for place in scene.stored(archive.filename):
                    assert place.read_bytes() == archive.content
            scene.upstream.heal()
            scene.mirror.start()
            assert not scene.leftovers()
            for archive in archives:
                await scene.get_whole(archive)
                await scene.kept(archive)


async def test_p2_told_to_end_finishes_what_is_on_its_way(tmp_path: Path) -> None:
    with running(tmp_path / "data", drain_delay=3) as scene:
        slow, abandoned = scene.publish("slow", 4_000_000), scene.publish("abandoned", 4_000_000)
        for name in ("slow", "abandoned"):
            await scene.files_of(name)
        held = scene.upstream.fault("/packages/*", hang_mid_body=2_000_000)
        transfer = asyncio.ensure_future(scene.get(slow.path))
        async with scene.connection() as left:
            await left.request("GET", f"/{abandoned.path}")
            await left.read_exactly(1000)
            left.abort()
        async with scene.connection() as idle:
            await idle.request("GET", "/livez")
            assert (await idle.response()).status == 200

            ending = asyncio.ensure_future(asyncio.to_thread(scene.mirror.terminate))
            await eventually(lambda: bool(scene.mirror.events("told to end, finishing transfers")))
            ready = await scene.get("readyz")
            assert (ready.status, json.loads(ready.body)) == (503, {"status": "draining"})
            assert (await scene.page("slow")).status == 200  # who has not heard of it yet is served
            assert await idle.read_to_end() == b""
        with pytest.raises(ConnectionRefusedError):
            await scene.get("readyz")
        assert not transfer.done()
        held.release()
        answer = await transfer
        assert (answer.complete, answer.body) == (True, slow.content)
        await ending
        assert not scene.leftovers()
        asked = scene.asked(slow.path), scene.asked(abandoned.path)
        scene.upstream.heal()
        scene.mirror.start(drain_delay=0)
        for archive in (slow, abandoned):
            assert (await scene.get_whole(archive)).headers["x-cache"] == "HIT store"
        assert (scene.asked(slow.path), scene.asked(abandoned.path)) == asked == (1, 1)


async def test_p2_what_does_not_finish_in_time_is_dropped_whole(tmp_path: Path) -> None:
    with running(tmp_path / "data", drain_timeout=0.3) as scene:
        archive = scene.publish("hangs", 1_000_000)
        await scene.files_of("hangs")
        scene.upstream.fault("/packages/*", hang_mid_body=500_000)
        transfer = asyncio.ensure_future(scene.get(archive.path))
        await scene.spooled(500_000)
        await asyncio.to_thread(scene.mirror.terminate)
        answer = await transfer
        assert answer.ending in (Ending.CUT, Ending.RESET)
        assert scene.mirror.events("background work dropped")
        assert not scene.leftovers()
        assert not scene.stored(archive.filename)
        scene.upstream.heal()
        scene.mirror.start()
        await scene.get_whole(archive)


REFUSALS: dict[str, tuple[int, dict[str, str], str]] = {
    "unknown-setting": (2, {"MIRROR_UPSTREAM_URI": f"http://u:{CANARY}@127.0.0.1/"}, "MIRROR_UPSTREAM_URL"),
    "no-port": (2, {"MIRROR_UPSTREAM_URL": f"http://u:{CANARY}@127.0.0.1:99999/simple/"}, "upstream-url"),
    "port-taken": (1, {}, "in use"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_start_that_cannot_be_right_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    code, settings, told = REFUSALS[kind]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
        environ |= {"MIRROR_DATA_DIR": str(tmp_path / "data"), "MIRROR_LOG_LEVEL": "error"} | settings
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "mirror", "serve", "--listen", listen]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("mirror: ")
    assert told in line
    assert CANARY not in line
