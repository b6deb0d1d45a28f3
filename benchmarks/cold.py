"""How much slower is the first request, which upstream has to answer, than asking upstream directly?"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Final

from benchmarks.harness import BenchmarkError, Load, Recipe, Server, Worker, mirror
from benchmarks.load import Job, Outcome
from benchmarks.report import Comparison, Figure, Unit, facts, table
from benchmarks.upstream import Count, Hello, Link, Published, PublishPage, PublishWheel, Withdraw

WHEEL: Final = 50_000_000
"""Bytes."""
RATE: Final = 50_000_000
"""Bytes a second that upstream gives each download."""
LATENCY: Final = 0.05
"""Seconds that upstream takes to answer."""
CLIENTS: Final = 64
VERSIONS: Final = 2_500
"""Of the big page; two files each."""

_PIP: Final = {
    "Accept": "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": "benchmark",
}
_FILE: Final = {"Accept-Encoding": "identity", "User-Agent": "benchmark"}


@dataclass
class Bench:
    """What a round works with, and the figures that it adds to."""

    upstream: Worker
    upstream_port: int
    load: Load
    servers: list[Server]
    figures: dict[tuple[str, str, str], Figure] = field(default_factory=dict)
    published: int = 0

    def figure(
        self,
        server: Server,
        question: str,
        quantity: str,
        *,
        compared: Comparison = "itself",
        unit: Unit = "s",
        limit: float | None = None,
        noisy: bool = True,
    ) -> Figure:
        """The figure of that name; made in the first round."""
        made = Figure(question, quantity, server.name, compared, unit, limit, noisy)
        return self.figures.setdefault((question, quantity, server.name), made)

    @contextmanager
    def wheel(self) -> Iterator[Published]:
        """A project that nobody has ever asked for, with one wheel."""
        with self._fresh(lambda name: PublishWheel(name, WHEEL)) as published:
            yield published

    @contextmanager
    def big_page(self) -> Iterator[Published]:
        """A project that nobody has ever asked for, with a page of 5,000 files."""
        with self._fresh(lambda name: PublishPage(name, VERSIONS)) as published:
            yield published

    @contextmanager
    def _fresh(self, command: Callable[[str], PublishWheel | PublishPage]) -> Iterator[Published]:
        self.published += 1
        name = f"cold-{self.published}"
        published = self.upstream.ask(command(name), Published)
        try:
            yield published
        finally:
            self.upstream.ask(Withdraw(name), NoneType)

    def link(self, latency: float, rate: int | None = None, *, html_only: bool = False) -> None:
        """Puts upstream so far away."""
        self.upstream.ask(Link(latency, rate, html_only), NoneType)

    def count(self) -> dict[str, int]:
        """GETs that upstream has had since the last look, by path."""
        return self.upstream.ask(Count(), dict[str, int])

    def fetch_file(self, port: int, published: Published, clients: int = 1) -> Outcome:
        """Times so many downloads of the wheel at once."""
        return self.load.run(
            Job(port, published.path, _FILE, published.size, published.sha256, clients=clients, patience=120)
        )

    def fetch_page(self, port: int, published: Published) -> Outcome:
        """Times one client's download of the project page."""
        return self.load.run(Job(port, published.page, _PIP, 16_000_000, published.files, page=True))


def cold_wheel(bench: Bench) -> None:
    """One client, one wheel, the page known as after any resolving; and the same with a page never read."""
    bench.link(LATENCY, RATE)
    for server in bench.servers:
        for page_known in (True, False):
            question = "50 MB wheel" if page_known else "50 MB wheel, page unknown"
            with bench.wheel() as wheel:
                direct = bench.fetch_file(bench.upstream_port, wheel)
                if page_known:
                    bench.fetch_page(server.port, wheel)
                server.await_idle()
                bench.count()
                ours = bench.fetch_file(server.port, wheel)
                asked = bench.count()
            limits = (1.05, 0.020) if page_known else (None, None)
            bench.figure(server, question, "total", compared="times direct", limit=limits[0]).add(
                ours.total[0], direct.total[0]
            )
            bench.figure(server, question, "first byte", compared="more than direct", limit=limits[1]).add(
                ours.first_byte[0], direct.first_byte[0]
            )
            bench.figure(server, question, "upstream GETs", unit="", limit=1, noisy=False).add(asked.get(wheel.path, 0))


def stampede(bench: Bench) -> None:
    """64 clients want the same cold wheel at the same moment; compared with one direct download."""
    bench.link(LATENCY, RATE)
    question = f"{CLIENTS} clients, one 50 MB wheel"
    for server in bench.servers:
        with bench.wheel() as wheel:
            direct = bench.fetch_file(bench.upstream_port, wheel)
            bench.fetch_page(server.port, wheel)
            server.await_idle()
            server.forget_peak()
            bench.count()
            before = server.cpu_seconds()
            ours = bench.fetch_file(server.port, wheel, CLIENTS)
            after = server.cpu_seconds()
            peak = server.peak_memory()
            asked = bench.count()
        bench.figure(server, question, "all done", compared="times direct").add(max(ours.total), direct.total[0])
        bench.figure(server, question, "last first byte", compared="more than direct").add(
            max(ours.first_byte), direct.first_byte[0]
        )
        bench.figure(server, question, "upstream GETs", unit="", limit=1, noisy=False).add(asked.get(wheel.path, 0))
        if peak is not None:
            bench.figure(server, question, "peak memory", unit="MB", limit=150e6, noisy=False).add(peak)
        if before is not None and after is not None:
            bench.figure(server, question, "processor time").add(after - before)


def cold_page(bench: Bench) -> None:
    """A page of 5,000 files: from JSON and from HTML, upstream far away and next door."""
    for latency, html_only in ((LATENCY, False), (LATENCY, True), (0.0, False), (0.0, True)):
        question = f"5,000-file page from {'HTML' if html_only else 'JSON'}, {latency * 1000:.0f} ms away"
        limit = 3.0 if latency and not html_only else None
        for server in bench.servers:
            bench.link(latency, html_only=html_only)
            with bench.big_page() as page:
                bench.fetch_page(bench.upstream_port, page)  # upstream renders and compresses it
                server.await_idle()
                direct = bench.fetch_page(bench.upstream_port, page)
                bench.count()
                before = server.cpu_seconds()
                ours = bench.fetch_page(server.port, page)
                server.await_idle()
                after = server.cpu_seconds()
                asked = bench.count()
            bench.figure(server, question, "total", compared="times direct", limit=limit).add(
                ours.total[0], direct.total[0]
            )
            bench.figure(server, question, "more", compared="more than direct").add(ours.total[0], direct.total[0])
            bench.figure(server, question, "upstream GETs", unit="", limit=1, noisy=False).add(asked.get(page.page, 0))
            if before is not None and after is not None:
                bench.figure(server, question, "processor time").add(after - before)


QUESTIONS: Final = {"wheel": cold_wheel, "stampede": stampede, "page": cold_page}


def measure(questions: Sequence[str], rounds: int) -> list[Figure]:
    """Runs the questions so many times. Raises `BenchmarkError`: a figure is right or there is none."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        return _measure(Path(folder), questions, rounds)


def _measure(folder: Path, questions: Sequence[str], rounds: int) -> list[Figure]:
    with Worker("benchmarks.upstream") as upstream, Load() as load:
        port = upstream.hear(Hello).port
        recipe: Recipe = mirror(f"http://127.0.0.1:{port}/simple/", folder / "data")
        with Server(recipe, folder) as server:
            print(f"{server.name} is process {server.pid}", file=sys.stderr)  # for a profiler
            bench = Bench(upstream, port, load, [server])
            try:
                for number in range(rounds):
                    for name in questions:
                        print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
                        QUESTIONS[name](bench)
            except BenchmarkError as error:
                raise BenchmarkError(f"{error}\nThe last lines of the server's log:\n{server.log_tail()}") from error
            return list(bench.figures.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 if every target is met, 1 if one is missed, 2 if there is no figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each question is asked (default 5)")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--only", choices=QUESTIONS, action="append", help="only this question; may be repeated")
    parser.add_argument("--json", action="store_true", help="print every figure of every round as JSON")
    options = parser.parse_args(arguments)
    rounds, questions = 1 if options.quick else options.rounds, options.only or list(QUESTIONS)
    try:
        figures = measure(questions, rounds)
    except BenchmarkError as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(facts(figures, {"rounds": rounds, "questions": questions}), indent=2))
    else:
        print(table(figures))
    return 1 if any(figure.met is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
