"""Promise 1 against chance: whatever happens, a body that is complete has the digest of the page."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mirror.errors import MirrorError
from mirror.fill.reader import PROVEN, FillReader
from mirror.model import WHOLE, ByteStream, Content, FileRef, LocalFile, Span
from mirror.verify import HOLD_BACK
from tests.repositories.world import P, World, rewrite, world
from tests.support.objects import body_of

SIZES = {"p-1.tar.gz": 10_000, "p-2.tar.gz": HOLD_BACK + 5_000, "p-3.tar.gz": 1_200_000}
FILES = st.sampled_from(sorted(SIZES))


class Integrity(RuleBasedStateMachine):
    """Upstream and store do what they like; clients read; every body is held against the first digest."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.context: AbstractAsyncContextManager[World] = world(Path(self.folder.name), missing_ttl=0)
        self.world = self.loop.run_until_complete(self.context.__aenter__())
        self.bodies: dict[str, bytes] = {}
        self.paths: dict[str, str] = {}
        self.seed = 0
        self.turn = 0
        self.forgotten = False
        """Whether the stored page, and with it the first digests, may have been lost."""

    def run(self, reads: list[tuple[str, Span]]) -> None:
        self.loop.run_until_complete(self._read_all(reads))

    async def _read_all(self, reads: list[tuple[str, Span]]) -> None:
        await asyncio.gather(*(self._read(filename, span) for filename, span in reads))

    async def _read(self, filename: str, span: Span) -> None:
        if filename not in self.paths:
            return
        content: Content | None = None
        try:
            content = await self.world.repository.open_file(FileRef(self.paths[filename]), span)
            # Ranges that are passed through carry no proof, nor do those of large downloads; everything else does.
            proven = isinstance(content, LocalFile) or (
                isinstance(content.body, FillReader) and (span.is_whole or content.size <= PROVEN)
            )
            start, stop, size = content.start, content.stop, content.size
            body = await body_of(content)
        except MirrorError:
            return
        finally:
            if isinstance(content, ByteStream):
                await content.aclose()
        if len(body) != stop - start or not proven:
            return  # cut off, as a client sees by its length
        assert size == len(self.bodies[filename])
        assert body == self.bodies[filename][start:stop]

    @initialize(sized=st.booleans())
    def publish_all(self, sized: bool) -> None:
        for filename in SIZES:
            self.publish(filename, sized)

    @rule(filename=FILES, sized=st.booleans())
    def publish(self, filename: str, sized: bool) -> None:
        """Adds a file. If it is known it gets other bytes, which must never be taken for the first ones."""
        self.seed += 1
        body = random.Random(self.seed).randbytes(SIZES[filename])
        file = self.world.upstream.publish("p", filename, body, **({} if sized else {"size": None}))
        if filename not in self.bodies:
            self.bodies[filename], self.paths[filename] = body, file.path
            self.world.clock.advance(1000)
            self.loop.run_until_complete(self.world.page())

    @rule(filename=FILES, at=st.integers(0, 1_199_999))
    def corrupt_upstream(self, filename: str, at: int) -> None:
        url = self._url(filename)
        if url is not None and (body := bytearray(self.world.upstream.files[url])):
            body[at % len(body)] ^= 1
            self.world.upstream.files[url] = bytes(body)

    @rule(filename=FILES)
    def mend_upstream(self, filename: str) -> None:
        url = self._url(filename)
        if url is not None:
            self.world.upstream.files[url] = self.bodies[filename]

    @rule(filename=FILES, by=st.integers(-50_000, 50_000))
    def resize_upstream(self, filename: str, by: int) -> None:
        url = self._url(filename)
        if url is not None:
            body = self.world.upstream.files[url]
            self.world.upstream.files[url] = body[:by] if by < 0 else body + b"x" * by

    @rule(after=st.none() | st.integers(1, 1_200_000))
    def cut_bodies(self, after: int | None) -> None:
        self.world.upstream.cut_after = after

    @rule(ranges=st.booleans(), sizes=st.booleans())
    def change_manners(self, ranges: bool, sizes: bool) -> None:
        self.world.upstream.has_ranges, self.world.upstream.has_sizes = ranges, sizes

    @rule(reads=st.booleans(), writes=st.booleans())
    def change_store(self, reads: bool, writes: bool) -> None:
        self.world.store.reads, self.world.store.writes = reads, writes
        self.forgotten |= not (reads and writes)

    @rule(filename=FILES, at=st.integers(0, 1_199_999), cut=st.booleans())
    def damage_store(self, filename: str, at: int, cut: bool) -> None:
        assert self.world.root is not None
        for path in sorted((self.world.root / "files").rglob(filename)):
            body = bytearray(path.read_bytes())
            if not body:
                continue
            if cut:
                del body[at % len(body) :]
            else:
                body[at % len(body)] ^= 0x80
            damaged = path.with_name(".damaged")  # under a new inode: times of files are no finer than a tick
            damaged.write_bytes(bytes(body))
            damaged.rename(path)

    @rule()
    def damage_page(self) -> None:
        self.loop.run_until_complete(self.world.settle())
        path = self.world.page_on_disk()
        if path.exists():
            blob = bytearray(path.read_bytes())
            blob[-1] ^= 1
            rewrite(path, bytes(blob))
            self.forgotten = True

    @rule(seconds=st.sampled_from([31, 700, 5000]))
    def wait(self, seconds: int) -> None:
        self.world.clock.advance(seconds)

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        async def restart() -> None:
            if kill:
                await self.world.tasks.drain(0)
            await self.world.restart()

        self.loop.run_until_complete(restart())
        self.forgotten |= kill

    @rule(
        reads=st.lists(
            st.tuples(
                FILES,
                st.just(WHOLE)
                | st.builds(Span, st.integers(0, 1_200_000), st.none())
                | st.builds(lambda a, n: Span(a, a + n), st.integers(0, 1_200_000), st.integers(0, 300_000))
                | st.builds(lambda n: Span(suffix=n), st.integers(1, 100_000)),
            ),
            min_size=1,
            max_size=6,
        )
    )
    def read(self, reads: list[tuple[str, Span]]) -> None:
        self.run(reads)

    @invariant()
    def clients_read(self) -> None:
        """After every step somebody wants a whole file, each in its turn."""
        self.turn += 1
        filename = sorted(SIZES)[self.turn % len(SIZES)]
        self.run([(filename, WHOLE), (filename, WHOLE)])

    @invariant()
    def first_digests_stay(self) -> None:
        known = self.world.repository._pages._shelf.in_memory(P)
        for file in known.page.files if known and not self.forgotten else ():
            assert file.hashes["sha256"] == hashlib.sha256(self.bodies[file.filename]).hexdigest()

    def _url(self, filename: str) -> str | None:
        for entry in self.world.upstream._entries(P):
            if entry["filename"] == filename:
                url: str = entry["url"]
                return url
        return None

    def teardown(self) -> None:
        self.world.store.reads = self.world.store.writes = True
        self.loop.run_until_complete(self.context.__aexit__(None, None, None))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()


TestIntegrity = Integrity.TestCase
TestIntegrity.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    phases=[Phase.generate],  # what depends on threads cannot be shrunk
    database=None,
    suppress_health_check=list(HealthCheck),
)
