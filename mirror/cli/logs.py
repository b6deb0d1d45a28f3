"""Logs: one bounded line for each event on stderr, text for people or JSON, whatever strings are in it."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import Processor

from mirror.errors import printable

MAX_TEXT: Final = 1000
"""Characters of a text in a field."""
MAX_TRACEBACK: Final = 8000
"""Characters of a traceback; its end is kept, for that is where the error is."""
MAX_ITEMS: Final = 32
"""Fields of an event, and items of a list in a field."""
MAX_LINE: Final = 32_768
"""Characters of a line; one that would be longer keeps only the fields in `_ESSENTIAL`."""

_TELL_SECRETS: Final = ("botocore", "aiobotocore")
"""Libraries that log whole requests and answers at the level `debug`: signatures, session tokens, credentials."""
_MAX_DEPTH = 3
_ESSENTIAL = ("timestamp", "level", "event", "logger", "request_id")
_LONGEST_LOOKED_AT = 65_536
_USERINFO = re.compile(r"://[^\s/?#\"'<>]*@")
_SIGNATURE = re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"'<>]+", re.IGNORECASE)

Event = MutableMapping[str, Any]


def configure_logging(log_format: Literal["auto", "text", "json"], level: str) -> None:
    """Sets up structlog, and the standard library's logging through it, to write to stderr.

    `auto` is text, with colours unless `NO_COLOR` says otherwise, if stderr is a terminal, and JSON if not.
    Fields that `structlog.contextvars` holds, such as a request's id, are in every line.
    """
    terminal = sys.stderr.isatty()
    as_text = terminal if log_format == "auto" else log_format == "text"
    threshold = logging.getLevelNamesMapping()[level.upper()]
    writer = _Writer(sys.stderr)
    structlog.configure(
        processors=processors(as_text=as_text, colors=terminal and "NO_COLOR" not in os.environ, writer=writer),
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *names: writer,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(threshold)
    for name in _TELL_SECRETS:
        logging.getLogger(name).setLevel(max(threshold, logging.INFO))
    logging.captureWarnings(capture=True)


def processors(*, as_text: bool, colors: bool = False, writer: _Writer | None = None) -> list[Processor]:
    """The way of an event from its call to the finished line."""
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Bound(writer, as_text=as_text),
    ]
    if as_text:
        # The traceback is text by now; structlog's default formatter would print the values of local variables.
        formatter = structlog.dev.plain_traceback
        chain.append(structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=formatter))
    else:
        chain.append(_json_line)
    return chain


def redact(text: str) -> str:
    """`text` without the user names and passwords of URLs and without the signatures of presigned ones."""
    if "://" in text:
        text = _USERINFO.sub("://********@", text)
    if "-" in text:
        text = _SIGNATURE.sub(r"\1********", text)
    return text


class _Writer:
    """What structlog calls at the end of the chain: writes a line, whole, from any thread.

    A log that cannot be written (full disk, closed pipe) must not fail a request, so the line is dropped, and
    the next one that gets through says how many were lost.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self.lost = 0

    def msg(self, line: str) -> None:
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                self.lost += 1
            else:
                self.lost = 0

    debug = info = warning = error = critical = exception = fatal = log = msg


class _Bound:
    """Makes every field a bounded value without control characters, and the exception one field."""

    def __init__(self, writer: _Writer | None, *, as_text: bool) -> None:
        self._writer, self._as_text = writer, as_text

    def __call__(self, logger: object, method: str, event: Event) -> Event:
        exception = _traceback(event.pop("exc_info", None)) or event.pop("exception", None)
        event.pop("exception", None)
        bound = {key: _bounded(event.pop(key)) for key in _ESSENTIAL if key in event}
        bound.setdefault("event", "")
        for key in list(event)[: MAX_ITEMS - len(bound)]:
            bound[printable(str(key)[:101], 100)] = _bounded(event[key])
        if len(event) > MAX_ITEMS:
            bound["fields_left_off"] = len(event) + len(_ESSENTIAL) - MAX_ITEMS
        if self._writer is not None and self._writer.lost:
            bound["lines_lost"] = self._writer.lost
        if exception:
            lines = _lines(str(exception))
            # Indented, so that no line of a traceback can pass for a line of the log.
            bound["exception"] = "\n".join(f"    | {line}" for line in lines) if self._as_text else "\n".join(lines)
        return bound


def _traceback(exc_info: object) -> str:
    match exc_info:
        case None | False:
            error = None
        case BaseException():
            error = exc_info
        case (_, BaseException() as error, _):
            pass
        case _:
            error = sys.exception()
    return "".join(traceback.format_exception(error)) if error is not None else ""


def _lines(text: str) -> list[str]:
    text = redact(text[-_LONGEST_LOOKED_AT:])
    lines = [printable(line, MAX_TEXT) for line in text.rstrip("\n").split("\n")]
    kept, room = [], MAX_TRACEBACK
    for line in reversed(lines):
        room -= len(line) + 1
        if room < 0:
            kept.append("~")
            break
        kept.append(line)
    return kept[::-1]


def _bounded(value: object, depth: int = 0) -> Any:
    """`value` as JSON can have it: finite, shallow, and every text printable and short."""
    match value:
        case None | bool():
            return value
        case int():
            return int(value) if value.bit_length() <= 64 else f"an integer of {value.bit_length()} bits"
        case float():
            return float(value) if math.isfinite(value) else str(value)
        case str():
            return _short(value)
        case bytes() | bytearray() | memoryview():
            return _short(bytes(value[:_LONGEST_LOOKED_AT]).decode("utf-8", "backslashreplace"))
        case Mapping() if depth < _MAX_DEPTH:
            items = list(value.items())[:MAX_ITEMS]
            return {_short(_text(key)): _bounded(each, depth + 1) for key, each in items}
        case list() | tuple() | set() | frozenset() if depth < _MAX_DEPTH:
            return [_bounded(each, depth + 1) for each in list(value)[:MAX_ITEMS]]
        case _:
            return _short(_text(value))


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 -- anybody's __str__; the log line must come out all the same
        return f"<{type(value).__name__}: {type(error).__name__} in __str__>"


def _short(text: str) -> str:
    if len(text) <= MAX_TEXT and text.isascii() and text.isprintable() and "://" not in text and "=" not in text:
        return str(text)
    return printable(redact(text[:_LONGEST_LOOKED_AT])[: MAX_TEXT + 1], MAX_TEXT)


def _json_line(logger: object, method: str, event: Event) -> str:
    line = json.dumps(event, allow_nan=False)
    if len(line) > MAX_LINE:
        kept = {key: event[key] if isinstance(event[key], str) else "~" for key in _ESSENTIAL if key in event}
        line = json.dumps(kept | {"fields_left_off": len(event) - len(kept)})
    return line


class _ToStructlog(logging.Handler):
    """Hands records of the standard library's logging (aiohttp, asyncio, warnings) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        try:
            message = record.getMessage()
        except Exception as error:  # noqa: BLE001 -- a wrong format string is no reason to lose the record
            message = _text(record.msg)
            fields["format_error"] = type(error).__name__
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        # structlog knows the five standard levels alone.
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        structlog.get_logger().log(level, message, **fields)
