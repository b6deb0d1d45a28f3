from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import UpstreamMisbehaved
from mirror.model import ProjectStatus
from mirror.simple.terms import HTML_TYPE, JSON_TYPE
from tests.simple.samples import (
    HOST,
    WHEEL,
    anchor,
    anchors,
    digest,
    html_document,
    json_document,
    learned,
    many,
    parse,
    path_of,
    url_of,
)


def test_one_file_as_pypi_sends_it() -> None:
    line = anchor(WHEEL, 'data-requires-python="&gt;=3.7" data-upload-time="2023-08-17T17:29:10Z"')
    page = parse(html_document(anchors(line)))
    (file,) = page.files
    assert page.versions == ("8.1.7",)
    assert page.dropped == 0
    assert (file.filename, file.url, file.path) == (WHEEL, url_of(WHEEL), path_of(WHEEL))
    assert file.hashes == {"sha256": digest(WHEEL)}
    assert file.requires_python == ">=3.7"
    assert file.upload_time == "2023-08-17T17:29:10Z"
    assert (file.size, file.core_metadata, file.yanked, file.gpg_sig, file.provenance) == (
        None,
        False,
        False,
        None,
        None,
    )


def attribute(text: str) -> msgspec.Struct:
    (file,) = parse(html_document(anchors(anchor(WHEEL, text)))).files
    return file


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("data-yanked", "yanked", True),
        ('data-yanked=""', "yanked", True),
        ('data-yanked="a &lt;b&gt; &quot;c&quot; &amp;amp;"', "yanked", 'a <b> "c" &amp;'),
        ('data-core-metadata="true"', "core_metadata", True),
        ('data-core-metadata="false"', "core_metadata", False),
        ('data-core-metadata=""', "core_metadata", False),
        (f'data-core-metadata="sha256={"a" * 64}"', "core_metadata", {"sha256": "a" * 64}),
        (f'data-dist-info-metadata="sha256={"B" * 64}"', "core_metadata", {"sha256": "b" * 64}),
        ('data-core-metadata="sha256=junk"', "core_metadata", False),
        (f'data-core-metadata="md5={"a" * 32}"', "core_metadata", True),
        ('data-core-metadata="false" data-dist-info-metadata="true"', "core_metadata", False),
        ('data-gpg-sig="true"', "gpg_sig", True),
        ('data-gpg-sig="false"', "gpg_sig", False),
        ('data-gpg-sig="x"', "gpg_sig", None),
        (
            'data-provenance="https://index.example.com/p?a=1&amp;b=2"',
            "provenance",
            "https://index.example.com/p?a=1&b=2",
        ),
        ('data-provenance="http://index.example.com/p"', "provenance", None),
        ('data-upload-time="yesterday"', "upload_time", None),
        ('data-requires-python=""', "requires_python", None),
    ],
)
def test_attributes(text: str, field: str, value: object) -> None:
    assert getattr(attribute(text), field) == value


def test_c054_status_and_serial() -> None:
    metas = '<meta name="pypi:project-status" content="archived"><meta name="pypi:project-status-reason" content="a &amp; b">'
    page = parse(html_document(metas + anchors(anchor()) + "<!--SERIAL 1234-->"))
    assert page.status == ProjectStatus("archived", "a & b")
    assert page.serial == 1234
    assert parse(html_document(anchors(anchor()), serial=8)).serial == 8


@pytest.mark.parametrize(
    ("href", "hashes"),
    [
        (WHEEL, {}),
        (f"{WHEEL}#md5={'A' * 32}", {"md5": "a" * 32}),
        (f"{WHEEL}#egg=click-8&sha256={'a' * 64}", {"sha256": "a" * 64}),
        (f"{WHEEL}#sha256=short", {}),
        (f"{WHEEL}?x=1#sha512={'a' * 128}", {"sha512": "a" * 128}),
    ],
)
def test_fragments(href: str, hashes: dict[str, str]) -> None:
    (file,) = parse(html_document(anchors(f'<a href=" {href}\n">anything</a>'))).files
    assert file.filename == WHEEL
    assert file.path == f"files/pypi/simple/click/{WHEEL}"
    assert file.hashes == hashes


def test_base_href_and_odd_links() -> None:
    page = parse(
        html_document(
            "<title>Index of /click</title>"
            f'<base href="{HOST}/packages/b/"><a href="../">Parent</a><a href="?C=N;O=D">Name</a><a name=x>y</a>'
            '<a href="click-1.0.tar.gz">x</a><a href="readme.txt">r</a><a href="click-1.0.tar.gz.asc">s</a>'
            '<a href="javascript:alert(1)">j</a><a href="CLICK-2.0%2Blocal.zip">z</a>'
        )
    )
    assert [file.path for file in page.files] == ["packages/b/click-1.0.tar.gz", "packages/b/CLICK-2.0+local.zip"]
    assert page.dropped == 3
    assert page.versions == ("1.0", "2.0+local")


def test_learned_facts_fill_the_gaps() -> None:
    (file,) = parse(html_document(anchors(anchor()), learned=learned(size=9, metadata_sha256="c" * 64))).files
    assert (file.size, file.core_metadata) == (9, {"sha256": "c" * 64})


@pytest.mark.parametrize(
    "body",
    [
        "<!DOCTYPE html><html><head><title>Links for click</title></head><body><h1>Links for click</h1></body></html>",
        "<h1>Links for click</h1>",
        "<title>Simple Index</title>",
        "<html><head><title>Index of /simple/click/</title></head><body><a href='../'>../</a></body></html>",
        "<title>Directory listing for /simple/click/</title>",
        "<title>click</title>",
        '<meta name="pypi:repository-version" content="1.0">',
        '\ufeff<meta name="PYPI:repository-version" content="1.1">',
    ],
)
def test_c028_an_empty_index_page_is_an_empty_project(body: str) -> None:
    page = parse(html_document(body))
    assert page.files == ()
    assert page.versions == ()


@pytest.mark.parametrize("row", ["<div><span>{}</span></div>", "<tr><td>{}", "<li><b>{}</b>"])
def test_rows_are_no_nesting(row: str) -> None:
    page = parse(html_document("<ul><table>" + "\n".join(row.format(anchor(name)) for name in many(3000))))
    assert len(page.files) == 3000


def test_media_type_of_its_own_is_proof() -> None:
    assert parse(html_document("<p>", HTML_TYPE)).files == ()


def test_refused_archives_of_the_project_prove_an_index() -> None:
    page = parse(html_document(f'<a href="http://files.example.com/{WHEEL}">x</a>'))
    assert (page.files, page.dropped) == ((), 1)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "   \n",
        "<html><body></body></html>",
        "<title>Welcome to the airport</title><form action=/login><input name=room></form>",
        '<title>Log in</title><a href="/login">Log in</a><a href="/client-setup-1.0.exe">Get the client</a>',
        "<title>Links for guests: simple index</title><form></form>",
        '<meta http-equiv="refresh" content="0;url=/login"><title>Index of /</title>',
        "<h1>502 Bad Gateway</h1><hr>nginx",
        '<meta name="pypi:repository-version" content="2.0"><a href="click-1.0.zip">x</a>',
        '<meta name="pypi:repository-version"><a href="click-1.0.zip">x</a>',
        "not found",
        "<div>" * 100_000,
        "<b></i><i x>" * 30_000,
    ],
)
def test_u22_a_page_that_is_no_index_page_is_upstreams_failure(body: str) -> None:
    with pytest.raises(UpstreamMisbehaved):
        parse(html_document(body))


def test_u22_html_where_json_was_promised_and_text_that_is_neither() -> None:
    with pytest.raises(UpstreamMisbehaved, match="proper JSON"):
        parse(json_document(anchors(anchor()).encode(), JSON_TYPE))
    with pytest.raises(UpstreamMisbehaved, match="neither"):
        parse(html_document("plain words", "text/plain"))
    assert len(parse(html_document(anchors(anchor()), "application/octet-stream")).files) == 1


def test_u24_hostile_anchors_are_dropped_and_the_rest_is_served() -> None:
    page = parse(
        html_document(
            anchors(
                f'<a href="{HOST}/packages/../{WHEEL}">x</a>',
                f'<a href="{HOST}/packages/other-1.0.tar.gz">x</a>',
                '<a href="javascript:alert(1)//click-1.0.zip">x</a>',
                f'<a href="{HOST}/packages/&#13;&#10;x/click-1.0.zip">x</a>',
                f'<a href="https://u:p@files.example.com/{WHEEL}">x</a>',
                f'<a href="{HOST}/packages/click-1.0.zip%00">x</a>',
                anchor(),
                anchor(),
            )
        )
    )
    assert [file.filename for file in page.files] == [WHEEL]
    assert page.dropped == 7


def test_five_thousand_files() -> None:
    page = parse(html_document(anchors(*map(anchor, many(5000)))))
    assert [file.filename for file in page.files] == many(5000)
    assert page.dropped == 0


@given(st.binary() | st.text().map(str.encode))
def test_no_body_breaks_it(body: bytes) -> None:
    page = parse(html_document(b"<p>" + body + anchors(anchor()).encode()[len("<!DOCTYPE html>") :], HTML_TYPE))
    assert {file.filename for file in page.files} <= {WHEEL}
    for content_type in ("text/html", JSON_TYPE, ""):
        with pytest.raises(UpstreamMisbehaved):
            parse(html_document(body[:12].replace(b"<", b""), content_type))
