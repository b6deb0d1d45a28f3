"""Promise 1 against chance, over a remote store: whatever happens, a body that is complete has the digest of the page."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mirror.adapters.memory_store import MemoryStore
from mirror.errors import MirrorError
from mirror.fill.reader import PROVEN, FillReader
from mirror.model import WHOLE, ByteStream, Content, File, FileRef, LocalFile, Span
from mirror.repositories.proof import Proven
from mirror.verify import HOLD_BACK
from tests.repositories.remote import NoRoom, RemoteWorld, remote_world
from tests.support.objects import body_of

SIZES = [10_000, HOLD_BACK + 5_000, 1_200_000]
FILES = st.integers(0, len(SIZES) - 1)
AT = st.integers(0, SIZES[-1])
SPANS = (
    st.just(WHOLE)
    | st.builds(Span, AT, st.none())
    | st.builds(lambda a, n: Span(a, a + n), AT, st.integers(0, 300_000))
    | st.builds(lambda n: Span(suffix=n), st.integers(1, 100_000))
)
STEPS = st.one_of(
    st.tuples(st.just("read"), st.lists(st.tuples(FILES, SPANS), min_size=1, max_size=6)),
    st.tuples(st.just("break"), st.lists(AT, max_size=3)),
    st.tuples(st.just("damage"), FILES, AT, st.sampled_from(["flip", "cut", "add"])),
    st.tuples(st.just("copy"), FILES, AT),
    st.tuples(st.just("vanish"), FILES),
    st.tuples(st.just("store"), st.booleans(), st.booleans(), st.booleans()),
    st.tuples(st.just("upstream"), st.none() | AT, st.booleans(), st.booleans()),
    st.tuples(st.just("corrupt"), FILES, st.none() | AT),
    st.tuples(st.just("room"), st.sampled_from([0, 50_000, 1 << 30])),
    st.tuples(st.just("restart"), st.booleans()),
)


class Scene:
    def __init__(self, w: RemoteWorld, files: list[File], bodies: list[bytes], room: NoRoom | None) -> None:
        self.w, self.files, self.bodies, self.room = w, files, bodies, room
        self.complete = 0

    async def read(self, n: int, span: Span) -> None:
        content: Content | None = None
        try:
            content = await self.w.repository.open_file(FileRef(self.files[n].path), span)
            # Ranges that are passed through carry no proof, nor do those of large downloads; everything else does.
            proven = isinstance(content, LocalFile) or (
                isinstance(content.body, FillReader | Proven) and (span.is_whole or content.size <= PROVEN)
            )
            start, stop = content.start, content.stop
            body = await body_of(content)
        except MirrorError:
            return
        finally:
            if isinstance(content, ByteStream):
                await content.aclose()
        if len(body) == stop - start and proven:
            self.complete += 1
            assert content.size == len(self.bodies[n])
            assert body == self.bodies[n][start:stop]

    async def do(self, step: tuple[object, ...]) -> None:
        w = self.w
        match step:
            case ("read", list(reads)):
                await asyncio.gather(*(self.read(n, span) for n, span in reads))
            case ("break", list(cuts)):
                w.s3.breaks = cuts
            case ("damage", int(n), int(at), str(how)):
                key = w.key(self.files[n])
                body = bytearray(await MemoryStore.read(w.s3, key, 1 << 30) or b"")
                if how == "cut":
                    del body[at:]
                elif how == "add":
                    body += b"x"
                elif body:
                    body[at % len(body)] ^= 1
                await MemoryStore.put(w.s3, key, bytes(body))
            case ("copy", int(n), int(at)):
                copy = w.s3.copy(w.key(self.files[n]))
                if copy is not None and copy.exists() and (body := bytearray(copy.read_bytes())):
                    body[at % len(body)] ^= 1
                    copy.unlink()  # under a new inode: times of files are no finer than a tick
                    copy.with_suffix(".damaged").write_bytes(bytes(body))
                    copy.with_suffix(".damaged").rename(copy)
            case ("vanish", int(n)):
                await MemoryStore.delete(w.s3, w.key(self.files[n]))
            case ("store", bool(reads), bool(writes), bool(quarantine)):
                w.s3.refuses_reads, w.s3.refuses_writes, w.s3.refuses_quarantine = reads, writes, quarantine
            case ("upstream", cut, bool(ranges), bool(sizes)):
                assert cut is None or isinstance(cut, int)
                w.upstream.cut_after, w.upstream.has_ranges, w.upstream.has_sizes = cut, ranges, sizes
            case ("corrupt", int(n), at):
                body = bytearray(self.bodies[n])
                if isinstance(at, int):
                    body[at % len(body)] ^= 1
                w.upstream.files[self.files[n].url] = bytes(body)
            case ("room", int(limit)):
                if self.room is not None:
                    self.room.limit = limit
            case ("restart", bool(offline)):
                await w.restart(offline=offline)
            case _:
                raise AssertionError(step)


async def play(steps: list[tuple[object, ...]], *, roomy: bool, sized: bool) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        room = None if roomy else NoRoom(50_000)
        w = await stack.enter_async_context(
            remote_world(folder, near=True) if room is None else remote_world(spools=room)
        )
        bodies = [random.Random(n).randbytes(size) for n, size in enumerate(SIZES)]
        names = [f"p-{n}.tar.gz" for n in range(len(SIZES))]
        for name, body in zip(names, bodies, strict=True):
            w.upstream.publish("p", name, body, **({} if sized else {"size": None}))
        files = [await w.entry(name) for name in names]
        await w.settle()
        scene = Scene(w, files, bodies, room)
        for n, step in enumerate(steps):
            await scene.do(step)
            await scene.do(("read", [(n % len(files), WHOLE)] * 2))
        # When all is well again, everybody gets everything, in at most two tries.
        for step in (("store", False, False, False), ("upstream", None, True, True), ("break", []), ("restart", False)):
            await scene.do(step)
        for n in range(len(files)):
            await scene.do(("corrupt", n, None))
            if (copy := w.s3.copy(w.key(files[n]))) is not None:
                copy.unlink(missing_ok=True)  # evicted, so that the store is read
            await scene.read(n, WHOLE)
            await w.settle()
            before = scene.complete
            await scene.read(n, WHOLE)
            assert scene.complete == before + 1
            await w.settle()
            assert await w.stored(files[n]) == bodies[n]


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.generate],  # what depends on threads cannot be shrunk
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(steps=st.lists(STEPS, min_size=5, max_size=15), roomy=st.booleans(), sized=st.booleans())
def test_no_complete_body_is_wrong(steps: list[tuple[object, ...]], roomy: bool, sized: bool) -> None:
    asyncio.run(play(steps, roomy=roomy, sized=sized))
