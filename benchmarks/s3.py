"""What does a store in S3 cost: calls, processor time, memory, and the event loop's patience?"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Final

from aiohttp import ClientSession

from benchmarks.harness import BenchmarkError, Load, Recipe, Server, Worker, mirror_in_bucket
from benchmarks.load import Job
from benchmarks.report import Comparison, Figure, Unit, facts, table
from benchmarks.upstream import Hello, Published, PublishWheel, Withdraw
from mirror.adapters.s3.options import S3Options
from mirror.adapters.s3.store import S3Store
from mirror.adapters.system_clock import SystemClock
from mirror.counters import Counters
from tests.support.s3.services import Rclone

SMALL: Final = 2_000
"""Bytes of an object as page documents often are."""
READS: Final = 2_000
AT_ONCE: Final = 16
ARCHIVE: Final = 64 << 20
"""Bytes."""
DOWNLOADS: Final = 8
UPLOAD: Final = 256 << 20
HUGE: Final = 500_000_000
_HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": "benchmark"}
_PAGE: Final = {"Accept": "application/vnd.pypi.simple.v1+json", "User-Agent": "benchmark"}


@dataclass
class Bench:
    """What a round works with, and the figures that it adds to."""

    service: Rclone
    upstream: Worker
    upstream_url: str
    load: Load
    folder: Path
    figures: dict[tuple[str, str, str], Figure] = field(default_factory=dict)
    published: int = 0

    def figure(
        self,
        question: str,
        quantity: str,
        *,
        compared: Comparison = "itself",
        unit: Unit = "s",
        limit: float | None = None,
        noisy: bool = True,
    ) -> Figure:
        """The figure of that name; made in the first round."""
        made = Figure(question, quantity, "mirror", compared, unit, limit, noisy)
        return self.figures.setdefault((question, quantity, "mirror"), made)

    def publish(self, size: int) -> Published:
        """A project that nobody has ever asked for, with one wheel."""
        self.published += 1
        return self.upstream.ask(PublishWheel(f"s3-{self.published}", size), Published)

    def withdraw(self) -> None:
        self.upstream.ask(Withdraw(f"s3-{self.published}"), NoneType)

    def server(self, bucket: str, **settings: str) -> Server:
        """A mirror on the bucket, without local caches unless `settings` have them."""
        return Server(self.recipe(bucket, **settings), self.folder)

    def recipe(self, bucket: str, **settings: str) -> Recipe:
        service = self.service
        return mirror_in_bucket(
            self.upstream_url, service.endpoint_url, bucket, service.access_key, service.secret_key, **settings
        )

    def fetch(self, server: Server, published: Published, clients: int = 1) -> None:
        self.load.run(
            Job(server.port, published.path, _HEADERS, published.size, published.sha256, clients=clients, patience=300)
        )

    def fetch_page(self, server: Server, published: Published) -> None:
        self.load.run(Job(server.port, published.page, _PAGE, 16_000_000, published.files, page=True))


def warm_calls(bench: Bench) -> None:
    """A page and a file that another replica has stored: how many requests to S3 does the second reading cost?"""
    bucket = bench.service.new_bucket()
    wheel = bench.publish(300_000)
    with bench.server(bucket) as other:
        bench.fetch_page(other, wheel)
        bench.fetch(other, wheel)
        other.await_idle()
    caches = {
        "MIRROR_METADATA_CACHE_DIR": str(bench.folder / f"records-{bucket}"),
        "MIRROR_DIST_CACHE_DIR": str(bench.folder / f"archives-{bucket}"),
    }
    for question, settings, limit in (
        ("warm file, local caches", caches, 0),
        ("warm file, no local cache", {}, 1),
    ):
        with bench.server(bucket, **settings) as server:
            bench.fetch_page(server, wheel)
            bench.fetch(server, wheel)
            server.await_idle()
            before = _store_requests(server)
            bench.fetch(server, wheel)
            server.await_idle()
            bench.figure(question, "requests to S3", unit="", limit=limit, noisy=False).add(
                _store_requests(server) - before
            )
    bench.withdraw()


def small_reads(bench: Bench) -> None:
    """Processor time of reading a 2 KB object, all in one process, several reads at once."""
    spent = asyncio.run(_small_reads(bench))
    bench.figure("2 KB object read", "processor time", limit=0.00035).add(spent)


def archive_to_client(bench: Bench) -> None:
    """Processor time of a 64 MB archive from S3 through a mirror without a disk.

    Direct is a bare GET with aiohttp: one that drops the bytes, and one that does with them what no mirror can leave out,
    their sha256.
    """
    bucket = bench.service.new_bucket()
    wheel = bench.publish(ARCHIVE)
    with bench.server(bucket) as server:
        bench.fetch_page(server, wheel)
        bench.fetch(server, wheel)
        server.await_idle(patience=60)
        [key] = [
            found["Key"]
            for found in bench.service.client().list_objects_v2(Bucket=bucket, Prefix="files/")["Contents"]
            if found["Key"].endswith(".whl")
        ]
        direct = {hashed: asyncio.run(_bare_get(bench, bucket, key, hashed=hashed)) for hashed in (False, True)}
        before = server.cpu_seconds()
        for _ in range(DOWNLOADS):
            bench.fetch(server, wheel)
        after = server.cpu_seconds()
    bench.withdraw()
    if before is not None and after is not None:
        for hashed, quantity, limit in ((True, "times a bare GET and sha256", 2.0), (False, "times a bare GET", None)):
            bench.figure("64 MB archive from S3", quantity, compared="times direct", limit=limit).add(
                (after - before) / DOWNLOADS, direct[hashed]
            )


def upload(bench: Bench) -> None:
    """How long the event loop stands still while 256 MB are uploaded."""
    work, pause = asyncio.run(_upload(bench))
    bench.figure("256 MB upload", "longest work of the loop", limit=0.005).add(work)
    bench.figure("256 MB upload", "longest pause of the loop").add(pause)


def no_disk(bench: Bench) -> None:
    """Eight clients, one 500 MB wheel, no disk: first from upstream, then from the bucket."""
    bucket = bench.service.new_bucket()
    wheel = bench.publish(HUGE)
    with bench.server(bucket) as server:
        bench.fetch_page(server, wheel)
        for question in ("8 clients, cold 500 MB wheel, no disk", "8 clients, 500 MB wheel in S3, no disk"):
            server.await_idle(patience=60)
            server.forget_peak()
            bench.fetch(server, wheel, DOWNLOADS)
            if (peak := server.peak_memory()) is not None:
                bench.figure(question, "peak memory", unit="MB", limit=200e6, noisy=False).add(peak)
    bench.withdraw()


QUESTIONS: Final = {
    "calls": warm_calls,
    "reads": small_reads,
    "archive": archive_to_client,
    "upload": upload,
    "memory": no_disk,
}


@asynccontextmanager
async def _store(bench: Bench):  # type: ignore[no-untyped-def] # a store for the block
    options = S3Options(
        bucket=bench.service.new_bucket(),
        endpoint_url=bench.service.endpoint_url,
        region=bench.service.region,
        access_key_id=bench.service.access_key,
        secret_access_key=bench.service.secret_key,
    )
    store = S3Store(options, Counters(), SystemClock())
    await store.start()
    try:
        yield store
    finally:
        await store.aclose()


async def _small_reads(bench: Bench) -> float:
    async with _store(bench) as store:
        body = random.Random(1).randbytes(SMALL)
        await store.put("meta/one/small.json", body)

        async def read(times: int) -> None:
            for _ in range(times):
                if await store.read("meta/one/small.json", SMALL) != body:
                    raise BenchmarkError("a read gave other bytes")

        await read(50)
        before = time.process_time()
        await asyncio.gather(*(read(READS // AT_ONCE) for _ in range(AT_ONCE)))
        return (time.process_time() - before) / READS


async def _bare_get(bench: Bench, bucket: str, key: str, *, hashed: bool) -> float:
    """Processor time of one download of the object by a signed URL, in memory no longer than it takes."""
    url = bench.service.client().generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})
    async with ClientSession() as session:

        async def get() -> None:
            digest = hashlib.sha256()
            async with session.get(url) as answer:
                async for piece in answer.content.iter_any():
                    if hashed:
                        digest.update(piece)

        await get()
        before = time.process_time()
        for _ in range(DOWNLOADS):
            await get()
        return (time.process_time() - before) / DOWNLOADS


async def _upload(bench: Bench) -> tuple[float, float]:
    path = bench.folder / "upload"
    with path.open("wb") as file:
        source = random.Random(2)
        for _ in range(UPLOAD >> 20):
            file.write(source.randbytes(1 << 20))
    async with _store(bench) as store:
        done = asyncio.Event()

        async def watch() -> tuple[float, float]:
            """The longest that the loop was busy, and the longest that it was away, others' use of the machine included."""
            work = pause = 0.0
            busy, last = time.thread_time(), time.perf_counter()
            while not done.is_set():
                await asyncio.sleep(0)
                now_busy, now = time.thread_time(), time.perf_counter()
                work, pause = max(work, now_busy - busy), max(pause, now - last)
                busy, last = now_busy, now
            return work, pause

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            await store.adopt("files/one/ab/cd/big/big-1.0.tar.gz", path)
            done.set()
        return watching.result()


def _store_requests(server: Server) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        found = re.search(r"^mirror_store_requests_total (\d+)$", answer.read().decode(), re.MULTILINE)
    if found is None:
        raise BenchmarkError("the mirror does not count its requests to the store")
    return int(found[1])


def measure(questions: Sequence[str], rounds: int) -> list[Figure]:
    """Runs the questions so many times. Raises `BenchmarkError`: a figure is right or there is none."""
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as folder,
        Rclone(Path(folder) / "rclone") as service,
        Worker("benchmarks.upstream") as upstream,
        Load() as load,
    ):
        port = upstream.hear(Hello).port
        bench = Bench(service, upstream, f"http://127.0.0.1:{port}/simple/", load, Path(folder))
        for number in range(rounds):
            for name in questions:
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
                QUESTIONS[name](bench)
        return list(bench.figures.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 if every target is met, 1 if one is missed, 2 if there is no figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s3", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each question is asked (default 3)")
    parser.add_argument("--only", choices=QUESTIONS, action="append", help="only this question; may be repeated")
    parser.add_argument("--json", action="store_true", help="print every figure of every round as JSON")
    options = parser.parse_args(arguments)
    questions = options.only or list(QUESTIONS)
    try:
        figures = measure(questions, options.rounds)
    except BenchmarkError as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(facts(figures, {"rounds": options.rounds, "questions": questions}), indent=2))
    else:
        print(table(figures))
    return 1 if any(figure.met is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
