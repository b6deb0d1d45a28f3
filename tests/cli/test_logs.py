from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from mirror.cli.logs import MAX_LINE, MAX_TEXT, processors, redact

CANARY = "canary-7f3a"


def rendered(event: object = "happened", *, as_text: bool = False, level: str = "info", **fields: Any) -> str:
    """One line, made by the chain that the command uses."""
    out: Any = {"event": event, **fields}
    for step in processors(as_text=as_text):
        out = step(None, level, out)
    assert isinstance(out, str)
    return out


def parsed(line: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= MAX_LINE
    found = json.loads(line, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


class Hostile:
    """An object that cannot be made text."""

    def __str__(self) -> str:
        raise RuntimeError("no")


texts = st.text(max_size=60) | st.text(alphabet='\r\n\0\x1b\x7f\x85\u2028\u202e\ud800"\\{}%', max_size=50)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=50) | st.builds(Hostile)
values = st.recursive(
    leaves, lambda each: st.lists(each, max_size=5) | st.dictionaries(texts, each, max_size=3), max_leaves=8
)
keys = texts.filter(lambda key: key not in ("event", "exc_info", "exception", "timestamp", "level"))


@given(event=values, fields=st.dictionaries(keys, values, max_size=6))
def test_any_event_is_one_valid_json_object_of_bounded_length(event: Any, fields: dict[str, Any]) -> None:
    assert parsed(rendered(event, **fields))["level"] == "info"


@given(event=texts, user_agent=texts, message=texts)
def test_no_string_forges_a_line_of_text(event: str, user_agent: str, message: str) -> None:
    first, *rest = rendered(event, as_text=True, user_agent=user_agent, exc_info=ValueError(message)).split("\n")
    assert first.isprintable()
    assert rest
    for line in rest:
        assert line.isprintable()
        assert line.startswith("    | ")


@given(message=texts)
def test_an_exception_is_one_field(message: str) -> None:
    try:
        raise ValueError(message)
    except ValueError as error:
        found = parsed(rendered(exc_info=error))
    assert found["exception"].startswith("Traceback")
    assert "ValueError" in found["exception"]
    assert "exc_info" not in found


def test_exc_info_in_all_its_forms() -> None:
    assert "exception" not in parsed(rendered(exc_info=True))
    assert "exception" not in parsed(rendered(exc_info=None))
    try:
        raise KeyError("k")
    except KeyError:
        assert "KeyError" in parsed(rendered(exc_info=True))["exception"]
        assert "KeyError" in parsed(rendered(exc_info=sys.exc_info()))["exception"]


@pytest.mark.parametrize(
    ("given_value", "wanted"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**64 - 1, 2**64 - 1),
        pytest.param(10**5000, "an integer of 16610 bits", id="huge"),
        (b"a\xff\n", "a\\xff\\x0a"),
        ([1, (2, {"a": 3})], [1, [2, {"a": 3}]]),
        ([[[["deep"]]]], [[["['deep']"]]]),
        (list(range(99)), list(range(32))),
        ("x" * 2000, "x" * (MAX_TEXT - 1) + "~"),
        ("a\r\nb\x1b[31m\u202e\ud800", "a\\x0d\\x0ab\\x1b[31m\\u202e\\ud800"),
        (Hostile(), "<Hostile: RuntimeError in __str__>"),
    ],
)
def test_fields_are_bounded_values(given_value: object, wanted: object) -> None:
    assert parsed(rendered(field=given_value))["field"] == wanted


def test_a_flood_of_fields_is_cut() -> None:
    fields: dict[str, Any] = {f"field{n}": "v" for n in range(500)}
    found = parsed(rendered(**fields))
    assert len(found) < 50
    assert found["fields_left_off"] > 400


def test_a_line_that_would_be_too_long_keeps_what_matters() -> None:
    fields: dict[str, Any] = {f"f{n}": ['"' * 900] * 30 for n in range(20)}
    found = parsed(rendered("what", request_id="r1", **fields))
    assert (found["event"], found["request_id"], found["level"]) == ("what", "r1", "info")
    assert found["fields_left_off"] == 20


def test_the_end_of_a_long_traceback_is_kept() -> None:
    error = ValueError("\n".join(f"line {n}" for n in range(5000)))
    exception = parsed(rendered(exc_info=error))["exception"]
    assert exception.startswith("~\n")
    assert exception.endswith("line 4999")


@pytest.mark.parametrize(
    "text",
    [
        f"GET https://user:{CANARY}@index.example.com/simple/ failed",
        f"https://{CANARY}@index.example.com/",
        f"https://a@b:{CANARY}@index.example.com/",
        f"https://bucket.example.com/x?X-Amz-Credential={CANARY}&X-Amz-Signature={CANARY}&X-Amz-Security-Token={CANARY}",
        f"x-amz-signature={CANARY}",
        "x" * (MAX_TEXT - 20) + f"https://user:{CANARY}@index.example.com/",
    ],
)
def test_credentials_of_urls_never_reach_a_line(text: str) -> None:
    assert CANARY not in redact(text)
    error = ValueError(text)
    for as_text in (True, False):
        line = rendered(text, as_text=as_text, url=text, nested=[{text: text}], exc_info=error, error=error)
        assert "canary" not in line


def test_redaction_leaves_other_text_alone() -> None:
    for text in ("https://index.example.com/simple/a@b/", "mail a@b", "Basic authentication", "a://b c@d"):
        assert redact(text) == text


def test_fields_of_the_request_are_in_every_line() -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        assert parsed(rendered())["request_id"] == "r-1"
    assert "request_id" not in parsed(rendered())


# What follows sets up logging for the whole process, so it happens in one of its own.

PROGRAM = """
import asyncio, logging, os, sys, warnings
import structlog
from mirror.cli.logs import configure_logging

configure_logging(sys.argv[1], sys.argv[2])
log = structlog.get_logger()
log.debug("quiet", a=1)
log.info("hello\\nworld", path="/simple/\\r\\n/")
log.warning("percent %s %d {x}")
logging.getLogger("aiohttp.server").error("bad %s", "thing\\n{}", exc_info=ValueError("x\\ny"))
logging.getLogger("aiohttp.server").debug("quiet")
logging.getLogger("broken").warning("bad %d", "format")
logging.getLogger("odd").log(35, "between two levels")
logging.getLogger("odd").log(99, "above all levels")
warnings.warn("look out")

async def fail():
    raise RuntimeError("lost")

async def main():
    task = asyncio.ensure_future(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task

asyncio.run(main())
"""


def run(*args: str, stderr: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *args], stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60, check=True
    )


@pytest.mark.parametrize("log_format", ["auto", "json"])
def test_structlog_logging_asyncio_and_warnings_all_write_json_lines(log_format: str) -> None:
    result = run(log_format, "info")
    assert result.stdout == ""
    found = [parsed(line) for line in result.stderr.splitlines()]
    assert [(each.get("logger"), each["level"], each["event"]) for each in found[:6]] == [
        (None, "info", "hello\\x0aworld"),
        (None, "warning", "percent %s %d {x}"),
        ("aiohttp.server", "error", "bad thing\\x0a{}"),
        ("broken", "warning", "bad %d"),
        ("odd", "warning", "between two levels"),
        ("odd", "critical", "above all levels"),
    ]
    assert found[0]["path"] == "/simple/\\x0d\\x0a/"
    assert found[0]["timestamp"].endswith("Z")
    assert found[2]["exception"] == "ValueError: x\ny"
    assert found[3]["format_error"] == "TypeError"
    assert found[6]["logger"] == "py.warnings"
    assert found[7]["logger"] == "asyncio"
    assert "RuntimeError: lost" in found[7]["exception"]
    assert len(found) == 8


def test_the_level_holds_for_everybody() -> None:
    assert "quiet" not in run("json", "info").stderr
    assert run("json", "debug").stderr.count("quiet") == 2
    assert {parsed(line)["level"] for line in run("json", "error").stderr.splitlines()} == {"error", "critical"}


def test_text_has_no_colours_where_there_is_no_terminal() -> None:
    result = run("text", "info")
    assert "\x1b" not in result.stderr
    assert "hello\\x0aworld" in result.stderr
    assert "    | ValueError: x\n    | y\n" in result.stderr


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        assert run("json", "info", stderr=full).returncode == 0


def test_lost_lines_are_told() -> None:
    program = """
import os, sys, structlog
from mirror.cli.logs import configure_logging
sys.stderr = open("/dev/full", "w")
configure_logging("json", "info")
log = structlog.get_logger()
log.info("lost"); log.info("lost")
os.dup2(1, sys.stderr.fileno())
log.info("back")
log.info("well")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    found = [parsed(line) for line in result.stdout.splitlines()]
    assert found[-1]["event"] == "well"
    assert "lines_lost" not in found[-1]
    assert [each["lines_lost"] for each in found if each["event"] == "back"] == [2]


def test_the_handler_of_another_library_is_replaced_not_joined() -> None:
    program = """
import logging
from mirror.cli.logs import configure_logging
logging.basicConfig()
configure_logging("json", "info")
configure_logging("json", "info")
logging.getLogger("x").error("once")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert [parsed(line)["event"] for line in result.stderr.splitlines()] == ["once"]
