"""No number of the checklist gets lost: each has a test over the whole mirror, or a reason why not yet."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent.parent
LAST: Final = 116

NOT_DUE: Final[dict[int, str]] = {
    98: "there are no hosted packages yet, so no name can exist both here and upstream",
    100: "there are no uploads yet",
    101: "there are no uploads yet",
    102: "there are no uploads yet",
    103: "there are no uploads yet",
    104: "there are no uploads yet",
    105: "there are no uploads yet",
    106: "there are no uploads yet",
    107: "there are no uploads yet",
    108: "nothing here asks for credentials yet",
    109: "there are no uploads yet",
    110: "there are no uploads yet",
}
"""Numbers without a test, each with its reason. The local halves of 47, 57, 75 and 113 come with hosted packages."""


@cache
def numbers() -> tuple[tuple[str, int], ...]:
    """The numbers in the names of the tests that are run unconditionally, each with its test."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_bytes()).body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
                continue
            if any("skip" in ast.unparse(mark) or "xfail" in ast.unparse(mark) for mark in node.decorator_list):
                continue
            test = f"{path.relative_to(TESTS)}::{node.name}"
            found += [(test, int(number)) for number in re.findall(r"(?<=_)c(\d{3})(?=_)", node.name)]
    return tuple(found)


def test_every_due_number_has_a_test_over_the_whole_mirror() -> None:
    covered = {number for test, number in numbers() if test.startswith("conformance/")}
    elsewhere = {number for _, number in numbers()} - covered
    missing = set(range(1, LAST + 1)) - covered - set(NOT_DUE)
    assert missing == {111}, f"no test for {sorted(missing)}"
    assert 111 in elsewhere  # a path that is answered without looking at anything


def test_no_test_has_a_number_that_does_not_exist() -> None:
    assert [test for test, number in numbers() if not 1 <= number <= LAST] == []


def test_what_has_a_test_is_not_called_not_due() -> None:
    assert [test for test, number in numbers() if number in NOT_DUE] == []
