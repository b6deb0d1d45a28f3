"""The list of all projects at its real length, out of a process whose memory is looked at."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.mirror import MirrorProcess
from tests.support.pages import JSON, TEXT
from tests.support.rawhttp import RawConnection, RawResponse
from tests.support.upstream import ThreadedUpstream

NAMES: Final = [f"p{hashlib.sha256(b'%d' % i).hexdigest()[: i % 15]}-{i}" for i in range(700_000)]
ALLOWED: Final = 100 << 20
"""Bytes by which the process may grow while it reads, keeps and serves the list."""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirrorProcess]:
    with ThreadedUpstream() as upstream:
        listed = {"meta": {"api-version": "1.4"}, "projects": [{"name": name} for name in NAMES]}
        upstream.fault("/simple/", status=200, body=json.dumps(listed).encode(), content_type=JSON)
        with MirrorProcess(data_dir=tmp_path_factory.mktemp("data"), upstream_url=upstream.url) as process:
            yield process
        assert upstream.requests["/simple/"] == 1
    assert not process.troubles()


async def listed(mirror: MirrorProcess, headers: dict[str, str], method: str = "GET") -> RawResponse:
    async with RawConnection("127.0.0.1", mirror.port, timeout=90) as connection:
        await connection.request(method, "/simple/", headers)
        return await connection.response(method)


def peak(mirror: MirrorProcess) -> int:
    """The most memory that the process has had, in bytes."""
    status = Path(f"/proc/{mirror.pid}/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))


def names_in(answer: RawResponse, accept: str) -> list[str]:
    assert (answer.status, answer.complete) == (200, True)
    body = answer.body
    if answer.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    if accept == JSON:
        return [project["name"] for project in json.loads(body)["projects"]]
    found = re.findall(r'<a href="([^"]+)/">([^<]+)</a>', body.decode())
    assert all(link == text for link, text in found)
    return [text for _, text in found]


async def test_c022_c057_c071_700000_names_in_bounded_memory(mirror: MirrorProcess) -> None:
    # the same code at its smallest has run before memory is looked at
    assert (await listed(mirror, {"Accept": "image/png"})).status == 406
    before = mirror.rss()
    tags = set()
    for accept, coding in ((JSON, "identity"), (TEXT, "gzip"), (TEXT, "identity"), (JSON, "gzip")):
        fields = {"Accept": accept, "Accept-Encoding": coding}
        answer = await listed(mirror, fields)
        assert answer.headers.get("content-encoding", "identity") == coding
        assert names_in(answer, accept) == NAMES
        tag = answer.headers["etag"]
        tags.add(tag)
        head = await listed(mirror, fields, "HEAD")
        varying = ("date", "x-request-id", "transfer-encoding", "x-cache", "cache-control")
        assert [f for f in head.fields if f[0] not in varying] == [f for f in answer.fields if f[0] not in varying]
        again = await listed(mirror, fields | {"If-None-Match": tag})
        assert (again.status, again.headers["etag"]) == (304, tag)
    assert len(tags) == 4
    grown = peak(mirror) - before
    assert grown < ALLOWED, f"it grew by {grown >> 20} MiB"
