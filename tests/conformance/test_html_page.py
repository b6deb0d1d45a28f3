"""Section 4: what a page says in HTML (items 60 to 72), read with a parser that the mirror does not use."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from tests.conformance.chain import HOSTILE, HT, Chain, archive, catalogue
from tests.conformance.test_json_page import odd_page

DEMO = {file.filename: file for file in catalogue()[0].files}
VOID = ("meta", "br", "link", "hr", "img")


class Page(HTMLParser):
    """The anchors and meta elements of a document whose elements have to be closed in order."""

    def __init__(self, body: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.anchors: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.metas: dict[str, str] = {}
        self.comments: list[str] = []
        self.doctype = ""
        self._open: list[str] = []
        self.feed(body.decode())
        self.close()
        assert not self._open

    def handle_decl(self, decl: str) -> None:
        self.doctype = decl

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), "an attribute comes twice"
        if tag not in VOID:
            self._open.append(tag)
        if tag == "a":
            self.anchors.append(given)
            self.texts.append("")
        if tag == "meta" and given.get("name"):
            self.metas[str(given["name"])] = str(given["content"])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "a" in self._open:
            self.texts[-1] += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


async def page_of(chain: Chain, name: str) -> Page:
    return Page((await chain.page(name, "text/html")).body)


async def anchor(chain: Chain, number: int = 0) -> dict[str, str | None]:
    return (await page_of(chain, "demo")).anchors[number]


async def odd_anchor(chain: Chain, page: dict[str, Any] | None = None, **keys: Any) -> dict[str, str | None]:
    odd_page(chain, page, **keys)
    return await anchor(chain)


async def test_c060_html5(both: Chain) -> None:
    for name in ("demo", "empty", "old-name", ""):
        for accept in ("text/html", HT):
            body = (await both.page(name, accept)).body
            assert body.startswith(b"<!DOCTYPE html>")
            assert Page(body).doctype == "DOCTYPE html"


async def test_c061_repository_version(both: Chain) -> None:
    for name in ("demo", "empty", ""):
        assert (await page_of(both, name)).metas["pypi:repository-version"] == "1.4"


async def test_c062_one_anchor_a_file_with_its_name(both: Chain) -> None:
    page = await page_of(both, "demo")
    assert page.texts == list(DEMO)


async def test_c063_href_ends_in_the_digest(both: Chain) -> None:
    for found, file in zip((await page_of(both, "demo")).anchors, DEMO.values(), strict=True):
        assert found["href"] == f"../../{file.path}#sha256={file.sha256}"


async def test_c064_attribute_values_are_escaped(both: Chain) -> None:
    body = (await both.page("demo", "text/html")).body
    assert b'data-requires-python="&gt;=3.8"' in body
    assert HOSTILE.encode() not in body
    assert (await anchor(both, 2))["data-yanked"] == HOSTILE


async def test_c064_hostile_texts_do_not_break_out(chain: Chain) -> None:
    hostile = "\"'><script>alert(1)</script><a href='x'>&amp;"
    status = {"project-status": {"status": hostile, "reason": hostile}}
    odd_page(chain, status, yanked=hostile, requires_python=hostile)
    page = await page_of(chain, "demo")
    (found,) = page.anchors
    assert (found["data-yanked"], found["data-requires-python"]) == (hostile, hostile)
    assert page.metas["pypi:project-status"] == page.metas["pypi:project-status-reason"] == hostile


async def test_c065_yanked_or_not(both: Chain) -> None:
    anchors = (await page_of(both, "demo")).anchors
    assert [found.get("data-yanked", False) for found in anchors] == [False, False, HOSTILE, ""]


async def test_c066_core_metadata_under_both_names(chain: Chain) -> None:
    for found, file in zip((await page_of(chain, "demo")).anchors, DEMO.values(), strict=True):
        expected = f"sha256={file.metadata_sha256}" if file.metadata_sha256 else None
        assert found.get("data-core-metadata") == found.get("data-dist-info-metadata") == expected


async def test_c066_core_metadata_that_the_mirror_has_made(minimal: Chain) -> None:
    assert not {"data-core-metadata", "data-dist-info-metadata"} & set(await anchor(minimal))
    await minimal.hold("demo")
    found = await anchor(minimal)
    expected = f"sha256={archive('demo').metadata_sha256}"
    assert found["data-core-metadata"] == found["data-dist-info-metadata"] == expected


async def test_c066_without_a_digest_it_is_true(chain: Chain) -> None:
    found = await odd_anchor(chain, core_metadata=True)
    assert found["data-core-metadata"] == found["data-dist-info-metadata"] == "true"


async def test_c067_signature_only_when_known(both: Chain) -> None:
    assert all("data-gpg-sig" not in found for found in (await page_of(both, "demo")).anchors)
    assert (await odd_anchor(both, gpg_sig=True))["data-gpg-sig"] == "true"
    assert (await odd_anchor(both, gpg_sig=False))["data-gpg-sig"] == "false"


async def test_c068_provenance_is_an_absolute_https_url(chain: Chain) -> None:
    url = "https://index.example.com/integrity/demo/1.0/x/provenance?a&b"
    assert (await odd_anchor(chain, provenance=url))["data-provenance"] == url
    assert "data-provenance" not in await odd_anchor(chain, provenance="/integrity/demo")


async def test_c069_project_status(chain: Chain) -> None:
    metas = (await page_of(chain, "old-name")).metas
    assert (metas["pypi:project-status"], metas["pypi:project-status-reason"]) == ("archived", HOSTILE)
    metas = (await page_of(chain, "demo")).metas
    assert metas["pypi:project-status"] == "active"
    assert "pypi:project-status-reason" not in metas


async def test_c070_upload_time(both: Chain) -> None:
    for found, file in zip((await page_of(both, "demo")).anchors, DEMO.values(), strict=True):
        assert found["data-upload-time"] == file.upload_time


async def test_c071_root_has_an_anchor_for_each_project(both: Chain) -> None:
    page = await page_of(both, "")
    assert page.texts == ["big", "demo", "empty", "evil", "old-name"]
    assert [found["href"] for found in page.anchors] == [f"{name}/" for name in page.texts]


async def test_c072_serial_stands_at_the_end(chain: Chain) -> None:
    body = (await chain.page("demo", "text/html")).body
    assert body.rstrip().endswith(b"<!--SERIAL 4711-->")
    assert Page(body).comments == ["SERIAL 4711"]


async def test_c072_no_serial_is_invented(minimal: Chain) -> None:
    assert b"SERIAL" not in (await minimal.page("demo", "text/html")).body
