"""The legacy JSON API and the integrity API."""

from __future__ import annotations

import gzip
import json

import pytest

from mirror.errors import NoSuchProject, UpstreamDown
from mirror.model import File, ProjectPage, ProjectStatus
from mirror.names import ProjectName
from mirror.web.legacy_document import legacy_document
from tests.web.conftest import SDIST, WHEEL
from tests.web.memory import Blob, MemoryRepository, Served, serving


@pytest.mark.parametrize("target", ["/demo/json", "/demo/json/", "/pypi/demo/json", "/pypi/Demo/json/"])
async def test_c112_project_document(served: Served, target: str) -> None:
    answer = await served.get(target, {"Host": "mirror.example.com"})
    mount = "pypi/" if target.startswith("/pypi/") else ""
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    document = json.loads(answer.body)
    assert set(document) == {"info", "urls", "releases", "vulnerabilities", "last_serial"}
    assert document["last_serial"] == 4711
    assert document["info"]["summary"] == "A demo."
    assert set(document["releases"]) == {"1.0", "2.0"}
    (wheel,) = document["releases"]["1.0"]
    content = served.repository.blobs[f"packages/ab/cd/{WHEEL}"]
    assert content.digest is not None
    assert wheel == {
        "comment_text": None,
        "core-metadata": {"sha256": "0" * 64},
        "digests": {"sha256": content.digest.hex},
        "downloads": -1,
        "filename": WHEEL,
        "has_sig": False,
        "md5_digest": None,
        "packagetype": "bdist_wheel",
        "python_version": "py3",
        "requires_python": ">=3.8",
        "size": 3000,
        "upload_time": "2024-01-02T03:04:05",
        "upload_time_iso_8601": "2024-01-02T03:04:05.678901Z",
        "url": f"http://mirror.example.com/{mount}packages/ab/cd/{WHEEL}",
        "yanked": False,
        "yanked_reason": None,
    }
    (sdist,) = document["releases"]["2.0"]
    assert (sdist["packagetype"], sdist["python_version"]) == ("sdist", "source")
    assert (sdist["yanked"], sdist["yanked_reason"]) == (True, "broken & <bad>")
    # 2.0 is yanked, so the project is about 1.0
    assert document["urls"] == [wheel]


async def test_c112_version_document(served: Served) -> None:
    for target in ("/pypi/demo/2.0/json", "/demo/2.0.0/json/"):
        document = json.loads((await served.get(target)).body)
        assert set(document) == {"info", "urls", "vulnerabilities", "last_serial"}
        assert [entry["filename"] for entry in document["urls"]] == [SDIST]
    assert (await served.get("/pypi/demo/3.0/json")).status == 404


async def test_c112_file_url_is_the_one_of_the_page(repository: MemoryRepository) -> None:
    repository.add_file("demo", "demo-1.0+cpu-py3-none-any.whl", Blob(b"plus"))
    async with serving(repository, public_url="https://mirror.example.com/") as served:
        document = json.loads((await served.get("/demo/json")).body)
        for entries in document["releases"].values():
            for entry in entries:
                answer = await served.get(entry["url"].removeprefix("https://mirror.example.com"))
                assert answer.status == 200
                assert f'"{entry["filename"]}"' in answer.headers["content-disposition"]


async def test_c113_unknown_project_is_404(served: Served) -> None:
    assert (await served.get("/pypi/unknown/json")).status == 404
    served.repository.failures["legacy_json"] = NoSuchProject("demo")
    assert (await served.get("/pypi/demo/json")).status == 404
    served.repository.failures["legacy_json"] = UpstreamDown("pypi", "timed out")
    assert (await served.get("/pypi/demo/json")).status == 503


async def test_freshness_is_bounded_by_the_page_and_by_fifteen_minutes(served: Served) -> None:
    for max_age, expected in ((60, "max-age=60, public"), (5000, "max-age=900, public"), (0, "no-cache")):
        served.repository.max_age = max_age
        assert (await served.get("/demo/json")).headers["cache-control"] == expected


async def test_document_is_compressed_and_revalidated(served: Served) -> None:
    plain = await served.get("/demo/json")
    packed = await served.get("/demo/json", {"Accept-Encoding": "gzip"})
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["etag"] != plain.headers["etag"]
    assert packed.headers["vary"] == "Accept-Encoding"
    assert (await served.get("/demo/json", {"If-None-Match": plain.headers["etag"]})).status == 304


def test_current_version_is_the_newest_that_is_neither_yanked_nor_a_preview() -> None:
    def file(name: str, *, yanked: bool = False) -> File:
        return File(filename=name, url="", path=f"packages/{name}", yanked=yanked)

    page = ProjectPage(
        ProjectName("demo"),
        (
            file("demo-1.9.tar.gz"),
            file("demo-1.10.tar.gz"),
            file("demo-2.0rc1.tar.gz"),
            file("demo-1.11.zip", yanked=True),
        ),
        versions=("1.9", "1.10", "1.11", "2.0rc1", "odd version"),
    )
    document = legacy_document(page, {}, None, lambda f: f.path)
    assert document["info"]["version"] == "1.10"
    assert document["releases"]["odd version"] == []
    named = legacy_document(page, {"info": {"version": "1.9"}}, None, lambda f: f.path)
    assert [entry["filename"] for entry in named["urls"]] == ["demo-1.9.tar.gz"]


def test_t16_a_quarantined_project_offers_no_files() -> None:
    page = ProjectPage(
        ProjectName("demo"),
        (File(filename="demo-1.9.tar.gz", url="", path="packages/demo-1.9.tar.gz"),),
        versions=("1.9",),
        status=ProjectStatus("quarantined"),
    )
    document = legacy_document(page, {}, None, lambda f: f.path)
    assert (document["urls"], document["releases"]) == ([], {"1.9": []})


async def test_c114_provenance(served: Served) -> None:
    target = f"/integrity/demo/1.0/{WHEEL}/provenance"
    for accept in (None, "*/*", "application/vnd.pypi.integrity.v1+json", "application/json"):
        answer = await served.get(target, {"Accept": accept} if accept else None)
        assert (answer.status, answer.body) == (200, b'{"version":1}')
        assert answer.headers["content-type"] == "application/vnd.pypi.integrity.v1+json"
        assert answer.headers["vary"] == "Accept"
    assert (await served.get(target, {"Accept": "text/html, */*;q=0"})).status == 406
    for missing in (
        f"/integrity/demo/2.0/{WHEEL}/provenance",
        f"/integrity/demo/2.0/{SDIST}/provenance",
        "/integrity/demo/1.0/demo-1.0.zip/provenance",
        f"/integrity/unknown/1.0/{WHEEL}/provenance",
    ):
        assert (await served.get(missing)).status == 404
