"""What the head of an answer says of a file: its size, and which part of it follows."""

from __future__ import annotations

from mirror.adapters.http.exchange import Reply
from mirror.adapters.http.headers import content_coding, content_length, content_range
from mirror.errors import UnsatisfiableSpan, UpstreamMisbehaved
from mirror.model import File, Span, UpstreamStream


def file_stream(upstream: str, reply: Reply, file: File, span: Span) -> UpstreamStream:
    """The body of an answer 200, 206 or 416 to a request for `span`, with its place in the file.

    Content-Range is believed whatever the status, for it alone says what the bytes are. Raises
    `UpstreamMisbehaved` if the answer is not one to this request, `UnsatisfiableSpan` on a 416 that is right.
    """

    def wrong(why: str) -> UpstreamMisbehaved:
        return UpstreamMisbehaved(upstream, why)

    part = content_range(reply.headers)
    if reply.status == 416:
        size = part.size if part is not None else file.size
        if span.is_whole or size is None:
            raise wrong("it answered 416 to a request that it could satisfy")
        if file.size is not None:
            span.resolve(file.size)  # raises if the index agrees that there is no such part
            raise wrong(f"it says that the file has {size} bytes, and its index says {file.size}")
        raise UnsatisfiableSpan(size)
    if content_coding(reply.headers) is not None:
        raise wrong("it encoded a file although asked not to, so that its bytes are not those promised")
    length = content_length(reply.headers)
    if part is None or part.start is None or part.stop is None:
        if reply.status == 206:
            raise wrong("it answered 206 without saying which part of the file this is")
        return UpstreamStream(reply.body, length, 0, length)
    if not _answers(span, part.start, part.stop, part.size):
        raise wrong(f"it sent another part of the file than was asked for, from byte {part.start}")
    if length is not None and length != part.stop - part.start:
        raise wrong("Content-Length and Content-Range of its answer contradict each other")
    return UpstreamStream(reply.body, part.size, part.start, part.stop)


def size_in(reply: Reply) -> int | None:
    """The size of the whole file, from the answer to a HEAD, or to a GET for its first byte."""
    part = content_range(reply.headers)
    if part is not None:
        return part.size
    if reply.status != 200 or content_coding(reply.headers) is not None:
        return None
    return content_length(reply.headers)


def _answers(span: Span, start: int, stop: int, size: int | None) -> bool:
    """Whether the part holds the first byte asked for; it may begin earlier and, as RFC 9110 §15.3.7 allows, end earlier."""
    if span.suffix is None:
        return start <= span.first < stop
    return size is None or start <= max(0, size - span.suffix) < stop
