"""The table of failures."""

from __future__ import annotations

import inspect
from http import HTTPStatus

import pytest

from mirror import errors
from mirror.errors import MirrorError
from mirror.web.failures import TABLE, failure, status_of

EXPECTED = {
    "BadRequest": 400,
    "InvalidName": 400,
    "UnsatisfiableSpan": 416,
    "NotAcceptable": 406,
    "NotFound": 404,
    "NoSuchProject": 404,
    "NoSuchFile": 404,
    "NoSuchSidecar": 404,
    "NotHeld": 404,
    "UpstreamFailure": 503,
    "UpstreamDown": 503,
    "UpstreamBusy": 503,
    "UpstreamMisbehaved": 503,
    "IntegrityError": 502,
    "StoreFailure": 503,
    "ShuttingDown": 503,
    "UnreadableArchive": 502,
    "ConfigError": 500,
    "StartError": 500,
}


def tree() -> list[type[MirrorError]]:
    """Every error class of the tree but its root."""
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, MirrorError) and kind is not MirrorError
    ]


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_every_error_has_its_place_in_the_table(kind: type[MirrorError]) -> None:
    assert any(ancestor in TABLE for ancestor in kind.__mro__), "not in the table"
    assert status_of(kind.__new__(kind)) == EXPECTED[kind.__name__]


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (errors.UnsatisfiableSpan(7), 416, {"Content-Range": "bytes */7"}),
        (errors.NotAcceptable(("text/html",)), 406, {"Vary": "Accept, Accept-Encoding"}),
        (errors.UpstreamBusy("u", "w", retry_after=9), 503, {"Retry-After": "5"}),
        (errors.UpstreamBusy("u", "w", retry_after=0), 503, {"Retry-After": "1"}),
        (errors.UpstreamDown("u", "w"), 503, {"Retry-After": "2"}),
        (errors.ShuttingDown(), 503, {"Retry-After": "2"}),
        (errors.StoreFailure("read", "k", "w"), 503, {"Retry-After": "2"}),
        (errors.IntegrityError("u", "f", "w"), 502, {}),
    ],
)
def test_headers(error: Exception, status: int, headers: dict[str, str]) -> None:
    answer = failure(error, "id")
    assert answer.status == status
    assert answer.headers["Cache-Control"] == "no-store"
    assert {name: answer.headers[name] for name in headers} == headers
    if status != 503:
        assert "Retry-After" not in answer.headers


def test_unforeseen_error_tells_nothing() -> None:
    answer = failure(ValueError("secret"), "some-id")
    assert answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert isinstance(answer.body, bytes)
    assert b"secret" not in answer.body
    assert b"some-id" in answer.body
