"""Moves part of an open file into a socket by sendfile(2), without blocking the loop or a thread."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import BinaryIO, Final, TypeVar

A = TypeVar("A")
R = TypeVar("R")

STEP: Final = 4 << 20
"""Most bytes for one system call; the socket's buffer usually takes fewer."""

_NOT_THIS_FILE: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW)


class SendfileUnavailable(Exception):
    """This file or connection does not know sendfile; nothing was sent."""


class ClientStalled(ConnectionError):
    """A client took nothing for as long as we are willing to wait."""


async def send_file(
    transport: asyncio.Transport, handle: BinaryIO, start: int, stop: int, *, stall_timeout: float
) -> int:
    """Sends bytes `start` to `stop` of `handle` and returns how many; fewer only if the file ends early.

    The transport's own buffer must be empty, and nobody else may write to it meanwhile. The system call runs in
    a thread, because a disk may be slow, on a non-blocking socket, so that a slow client never holds a thread.
    asyncio's own `loop.sendfile` reads the disk in the loop and cannot tell a slow client from a stalled one.

    Raises `SendfileUnavailable` before the first byte (TLS; file systems without sendfile), `ClientStalled` if
    the client takes nothing for `stall_timeout` seconds, and other `ConnectionError`s if it leaves.
    """
    socket = transport.get_extra_info("socket")
    if socket is None or transport.get_extra_info("sslcontext") is not None or not hasattr(os, "sendfile"):
        raise SendfileUnavailable
    try:
        source = handle.fileno()
    except OSError as error:
        raise SendfileUnavailable from error
    # A descriptor of our own: the loop refuses to watch one that belongs to a transport, and the transport may
    # close its own, whose number would then be somebody else's connection.
    target = os.dup(socket.fileno())
    try:
        position = start
        while position < stop:
            if transport.is_closing():
                raise ConnectionResetError("the connection was closed")
            try:
                sent = await in_thread(lambda at: os.sendfile(target, source, at, min(stop - at, STEP)), position)
            except BlockingIOError:
                await _writable(target, stall_timeout)
                continue
            except OSError as error:
                if position == start and error.errno in _NOT_THIS_FILE:
                    raise SendfileUnavailable from error
                raise
            if sent == 0:
                break
            position += sent
        return position - start
    finally:
        os.close(target)


async def _writable(descriptor: int, timeout: float) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    try:
        async with asyncio.timeout(timeout):
            await ready.wait()
    except TimeoutError:
        raise ClientStalled("the client takes nothing") from None
    finally:
        loop.remove_writer(descriptor)


async def in_thread(call: Callable[[A], R], argument: A) -> R:
    """`call(argument)` in a thread. Even if the caller is cancelled it returns only when the thread has finished,
    so that no descriptor is closed, and its number given away, under a call that uses it."""
    running = asyncio.get_running_loop().run_in_executor(None, call, argument)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
