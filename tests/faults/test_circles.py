"""Mirrors that are each other's upstream: a request that goes in a circle ends at once (508 inside, 503 outside)."""

from __future__ import annotations

import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.mirror import MirrorProcess


def status(url: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        with e:
            return e.code


@pytest.mark.parametrize("length", [1, 2])
def test_a_circle_of_mirrors_is_found(tmp_path: Path, length: int) -> None:
    with ExitStack() as stack:
        nobody: dict[str, Any] = {"upstream_url": "http://127.0.0.1:9/simple/", "upstream_retries": 0}
        ring = [stack.enter_context(MirrorProcess(data_dir=tmp_path / str(i), **nobody)) for i in range(length)]
        for mirror in ring:  # the first run gave each its port, which its neighbour needs to know
            mirror.terminate()
        for mirror, neighbour in zip(ring, ring[1:] + ring[:1], strict=True):
            mirror.start(upstream_url=neighbour.url, upstream_name="ring")
        assert status(ring[0].url + "demo/") == 503
        for mirror in ring:
            mirror.terminate()
        answers = [e["status"] for mirror in ring for e in mirror.log if e["event"] == "request"]
    assert answers.count(508) == 1
    assert len(answers) == length + 1, "each mirror was asked once, and the first one twice"
