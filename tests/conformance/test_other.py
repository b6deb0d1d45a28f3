"""Section 8: the legacy JSON API, attestations, health, CORS (items 112 to 116)."""

from __future__ import annotations

import json
import re
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import pytest

from tests.conformance.chain import HOSTILE, Chain, J, archive, authority, catalogue, chained
from tests.conformance.test_json_page import odd_page

DEMO = {file.filename: file for file in catalogue()[0].files}
INTEGRITY = "application/vnd.pypi.integrity.v1+json"


async def document(chain: Chain, target: str) -> dict[str, Any]:
    answer = await chain.get(target)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), target
    found: dict[str, Any] = json.loads(answer.body)
    return found


@pytest.mark.parametrize("mount", ["", "/pypi"])
async def test_c112_project_document(both: Chain, mount: str) -> None:
    found = await document(both, f"{mount}/demo/json")
    assert found == await document(both, f"{mount}/demo/json/")
    assert set(found) == {"info", "urls", "releases", "vulnerabilities", "last_serial"}
    assert found["info"]["name"].lower() == "demo"
    assert found["info"]["version"] == "1.0+cpu"
    assert set(found["releases"]) == {"1.0", "1.0+cpu", "2.0", "2!0.1"}
    assert found["urls"] == found["releases"]["1.0+cpu"]
    assert found["vulnerabilities"] == []
    files = [entry for entries in found["releases"].values() for entry in entries]
    assert {entry["filename"] for entry in files} == set(DEMO)
    for entry in files:
        file = DEMO[entry["filename"]]
        assert entry["digests"]["sha256"] == file.sha256
        assert entry["upload_time_iso_8601"] == file.upload_time
        assert entry["requires_python"] == file.requires_python
        assert (entry["yanked"], entry["yanked_reason"]) == (
            bool(file.yanked),
            file.yanked if isinstance(file.yanked, str) else None,
        )
        assert entry["packagetype"] == ("bdist_wheel" if file.filename.endswith(".whl") else "sdist")
        parts = urlsplit(entry["url"])
        assert (parts.scheme, parts.netloc) == ("http", f"127.0.0.1:{both.port}")
        assert (await both.get(parts.path)).status == 200


@pytest.mark.parametrize("mount", ["", "/pypi"])
async def test_c112_release_document(both: Chain, mount: str) -> None:
    for version in ("2.0", "2.0.0"):
        found = await document(both, f"{mount}/demo/{version}/json")
        assert set(found) == {"info", "urls", "vulnerabilities", "last_serial"}
        assert [entry["filename"] for entry in found["urls"]] == [archive("demo", 2).filename]
        assert found["urls"][0]["yanked_reason"] == HOSTILE
    assert (await document(both, f"{mount}/demo/1.0%2Bcpu/json"))["urls"][0]["filename"] == archive("demo", 1).filename
    assert (await both.get(f"{mount}/demo/9.9/json")).status == 404


async def test_c112_what_only_upstream_knows_is_passed_on(chain: Chain) -> None:
    found = await document(chain, "/pypi/demo/json")
    assert (found["info"]["summary"], found["last_serial"]) == ("demo for tests", 4711)
    known = [{"id": "PYSEC-1", "fixed_in": ["2.0"]}]
    body = json.dumps({"info": {"name": "big", "x": "y"}, "vulnerabilities": known, "last_serial": 5}).encode()
    chain.upstream.fault("/pypi/big/json", status=200, body=body, content_type="application/json")
    found = await document(chain, "/big/json")
    assert (found["info"]["x"], found["vulnerabilities"], found["last_serial"]) == ("y", known, 5)


async def test_c112_without_such_an_api_upstream_the_archive_tells(minimal: Chain) -> None:
    await minimal.hold("demo")
    info = (await document(minimal, "/demo/1.0/json"))["info"]
    assert (info["summary"], info["requires_python"]) == ("demo for tests", ">=3.8")
    assert info["requires_dist"] == ["alpha", "beta>=2"]


async def test_c112_survives_its_upstream(both: Chain) -> None:
    before = await document(both, "/demo/json")
    await both.settle()
    await both.upstream.stop()
    both.clock.advance(86_400)
    assert await document(both, "/demo/json") == before


@pytest.mark.parametrize("mount", ["", "/pypi"])
@pytest.mark.parametrize("public_url", [None, "https://mirror.example.com/prefix/"])
async def test_c112_pip_compile_finds_every_link_of_the_page(
    tmp_path: Path, mount: str, public_url: str | None
) -> None:
    """It looks up the digest of each link under its exact URL, and downloads every file for which it finds none."""
    async with chained(tmp_path, public_url=public_url) as chain:
        root = (public_url or f"http://127.0.0.1:{chain.port}/").rstrip("/") + mount
        page = json.loads((await chain.get(f"{mount}/simple/demo/", {"Accept": J})).body)
        links = {
            _as_pip_quotes(urljoin(f"{root}/simple/demo/", f["url"])): f["hashes"]["sha256"] for f in page["files"]
        }
        assert {"%2B", "%21"} <= set(re.findall("%..", " ".join(links)))
        releases = (await document(chain, f"{mount}/demo/json"))["releases"]
        told = {entry["url"]: entry["digests"]["sha256"] for entries in releases.values() for entry in entries}
        assert told == links


def _as_pip_quotes(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(path=quote(unquote(parts.path))).geturl()


async def test_c113_document_of_an_unknown_project_is_404(both: Chain) -> None:
    for target in ("/pypi/unknown/json", "/unknown/json", "/unknown/1.0/json", "/pypi/unknown/1.0/json/"):
        assert (await both.get(target)).status == 404


@pytest.fixture
async def attested(tmp_path: Path) -> AsyncIterator[Chain]:
    """A mirror of an index over TLS whose demo 1.0 has attestations."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("127.0.0.1").configure_cert(tls)
    async with chained(tmp_path, tls=tls) as chain:
        odd_page(chain, provenance=f"{chain.upstream.origin}integrity/demo/provenance")
        chain.upstream.fault("/integrity/demo/*", status=200, body=b'{"version":1}', content_type=INTEGRITY)
        yield chain


@pytest.mark.parametrize("mount", ["", "/pypi"])
async def test_c114_attestations_are_passed_through(attested: Chain, mount: str) -> None:
    target = f"{mount}/integrity/demo/1.0/{archive('demo').filename}/provenance"
    for accept in (None, "*/*", INTEGRITY, "application/json", f"text/html, {INTEGRITY};q=0.1"):
        answer = await attested.get(target, {"Accept": accept} if accept else None)
        assert (answer.status, answer.body) == (200, b'{"version":1}')
        assert answer.headers["content-type"] == INTEGRITY
    for accept in ("text/html", "image/png", f"{INTEGRITY};q=0"):
        assert (await attested.get(target, {"Accept": accept})).status == 406
    assert attested.upstream.log[-1].headers["accept"] == INTEGRITY


async def test_c114_no_attestations_are_404(both: Chain) -> None:
    for version, number in (("1.0", 0), ("2.0", 0), ("2.0", 2)):
        target = f"/integrity/demo/{version}/{archive('demo', number).filename}/provenance"
        assert (await both.get(target)).status == 404
    assert (await both.get("/integrity/unknown/1.0/unknown-1.0.tar.gz/provenance")).status == 404
    assert (await both.get(f"{await both.target('demo')}.provenance")).status == 404


async def test_c114_attestations_outlive_their_upstream(attested: Chain) -> None:
    target = f"/integrity/demo/1.0/{archive('demo').filename}/provenance"
    await attested.get(target)
    await attested.upstream.stop()
    assert (await attested.get(target)).body == b'{"version":1}'


async def test_c115_probes_ask_no_upstream_and_no_credentials(tmp_path: Path) -> None:
    async with chained(tmp_path) as chain:
        await chain.upstream.stop()
        for target, said in (("/livez", "alive"), ("/readyz", "ready")):
            for method in ("GET", "HEAD"):
                answer = await chain.get(target, method=method)
                assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
            assert json.loads((await chain.get(target)).body)["status"] == said
        assert not chain.upstream.log


async def test_c115_without_its_store_it_is_not_ready_but_alive(chain: Chain, tmp_path: Path) -> None:
    assert (await chain.get("/readyz")).status == 200
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").write_bytes(b"what once was a folder")
    chain.clock.advance(60)
    answer = await chain.get("/readyz")
    assert (answer.status, json.loads(answer.body)["status"]) == (503, "unready")
    assert (await chain.get("/livez")).status == 200
    (tmp_path / "data").unlink()
    chain.clock.advance(60)
    assert (await chain.get("/readyz")).status == 200
    assert not chain.upstream.log


async def test_c116_cors(both: Chain) -> None:
    for target in ("/simple/", "/simple/demo/", "/demo/json", "/pypi/demo/1.0/json"):
        for fields in ({}, {"Origin": "https://app.example.com"}):
            answer = await both.get(target, fields)
            assert answer.headers["access-control-allow-origin"] == "*"
            again = await both.get(target, fields | {"If-None-Match": answer.headers["etag"]})
            assert (again.status, again.headers["access-control-allow-origin"]) == (304, "*")
