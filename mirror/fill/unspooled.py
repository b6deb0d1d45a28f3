"""One reader's own way through a file for which there is no room: verified, its end held back, stored on the way."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from mirror.errors import IntegrityError
from mirror.fill.sources import Course, Sources
from mirror.fill.tee import Tee
from mirror.fill.tools import Tools
from mirror.verify import Check, held_back


async def unspooled(
    sources: Sources,
    tools: Tools,
    check: Check,
    size: int | None,
    start: int,
    stop: int,
    before: bytes,
    *,
    proven: bool = False,
) -> AsyncGenerator[bytes, None]:
    """The part `start`–`stop` of a file of which `check` has seen a beginning, and `before` its end; as `held_back`.

    If that is the whole of a file that the store lacks, it is given to the store as well.
    """
    course = Course(sources)
    tee = _tee(sources, tools, size) if check.position == 0 and (start, stop) == (0, size) else None
    try:
        async with (
            aclosing(course.body(check.position, size, proves=check.proves)) as body,
            aclosing(held_back(body, check, size, start, stop, before, proven=proven)) as pieces,
        ):
            async for piece in pieces:
                if tee is not None:
                    await tee.give(piece)  # first: the client may leave as soon as it has the last piece
                yield piece
    except IntegrityError as e:
        await course.blame(e)
        raise
    finally:
        if tee is not None:
            tee.end()


def _tee(sources: Sources, tools: Tools, size: int | None) -> Tee | None:
    place = sources.place
    if size is None or sources.stored or place is None or not place.takes_streams:
        return None
    return tools.tees.start(sources.file.path, size, place.pour)
