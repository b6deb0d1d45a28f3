from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from mirror.model import File, ProjectPage, ProjectStatus
from mirror.names import project_name
from mirror.simple.negotiate import Format
from mirror.simple.render import render_page
from mirror.simple.terms import HTML_TYPE, JSON_TYPE
from tests.simple.samples import WHEEL, digest, entry, html_document, json_document, many, parse, parse_files, path_of

ROOT = "../../"
PLAIN = File(
    filename=WHEEL,
    url=f"https://files.example.com/{path_of(WHEEL)}",
    path=path_of(WHEEL),
    hashes={"sha256": digest(WHEEL)},
    size=97941,
    upload_time="2023-08-17T17:29:10.123456Z",
    requires_python=">=3.7",
    core_metadata={"sha256": "a" * 64},
)


def page_of(*files: File, **facts: Any) -> ProjectPage:
    return ProjectPage(name=project_name("click"), files=files, versions=("8.1.7",), **facts)


def changed(**facts: Any) -> File:
    return msgspec.structs.replace(PLAIN, **facts)


def as_json(*files: File, **facts: Any) -> Any:
    return json.loads(render_page(page_of(*files, **facts), Format.JSON, ROOT))


def file_json(**facts: Any) -> dict[str, Any]:
    (found,) = as_json(changed(**facts))["files"]
    assert isinstance(found, dict)
    return found


def as_html(*files: File, **facts: Any) -> str:
    return render_page(page_of(*files, **facts), Format.HTML, ROOT).decode()


def anchor(**facts: Any) -> dict[str, str | None]:
    (node,) = LexborHTMLParser(as_html(changed(**facts))).tags("a")
    return node.attributes


# --- JSON ----------------------------------------------------------------------------------------------


def test_c037_top_level() -> None:
    assert list(as_json(PLAIN)) == ["meta", "name", "versions", "files"]
    assert as_json(status=ProjectStatus("active"))["project-status"] == {"status": "active"}


def test_c038_c045_api_version() -> None:
    assert as_json(PLAIN)["meta"] == {"api-version": "1.4"}
    assert as_json()["meta"]["api-version"] == "1.4"
    assert as_json(PLAIN, changed(filename="click-1.zip", size=None))["meta"]["api-version"] == "1.0"
    assert "size" not in file_json(size=None)
    assert file_json(size=0)["size"] == 0


def test_c039_serial() -> None:
    assert as_json(serial=7)["meta"]["_last-serial"] == 7


def test_c040_c041_name_and_versions() -> None:
    assert as_json()["name"] == "click"
    assert as_json()["versions"] == ["8.1.7"]


def test_c042_c043_url_is_relative_and_ends_in_the_file_name() -> None:
    assert file_json()["url"] == ROOT + path_of(WHEEL)
    odd = "files/x/whl/torch-2.0+cpu~a!1@b=,-1.zip"
    assert file_json(path=odd)["url"] == ROOT + odd
    assert file_json(path="files/x/a b%/c.zip")["url"] == f"{ROOT}files/x/a%20b%25/c.zip"


def test_c044_hashes_always_present() -> None:
    assert file_json(hashes={})["hashes"] == {}
    assert file_json()["hashes"] == {"sha256": digest(WHEEL)}


def test_c046_c047_upload_time() -> None:
    assert file_json()["upload-time"] == "2023-08-17T17:29:10.123456Z"
    assert "upload-time" not in file_json(upload_time=None)


def test_c048_requires_python_is_not_escaped() -> None:
    assert file_json()["requires-python"] == ">=3.7"
    assert "requires-python" not in file_json(requires_python=None)


@pytest.mark.parametrize(
    ("value", "expected"), [(False, None), (True, True), ({"sha256": "b" * 64}, {"sha256": "b" * 64})]
)
def test_c049_c050_core_metadata(value: Any, expected: Any) -> None:
    found = file_json(core_metadata=value)
    assert found.get("core-metadata") == expected
    assert not {"dist-info-metadata", "data-dist-info-metadata"} & found.keys()


@pytest.mark.parametrize(("value", "expected"), [(False, False), (True, True), ("", True), ("bad <b>", "bad <b>")])
def test_c051_yanked(value: Any, expected: Any) -> None:
    assert file_json(yanked=value)["yanked"] == expected


def test_c052_gpg_sig() -> None:
    assert "gpg-sig" not in file_json()
    assert file_json(gpg_sig=False)["gpg-sig"] is False


def test_c053_provenance() -> None:
    assert "provenance" not in file_json()
    assert "provenance" not in file_json(provenance="http://x.example.com/")
    assert file_json(provenance="https://x.example.com/")["provenance"] == "https://x.example.com/"


def test_c054_status_at_top_level() -> None:
    assert as_json(status=ProjectStatus("archived", "done"))["project-status"] == {
        "status": "archived",
        "reason": "done",
    }


@pytest.mark.parametrize("form", list(Format))
def test_c055_quarantined_shows_no_files(form: Format) -> None:
    page = page_of(PLAIN, status=ProjectStatus("quarantined"))
    body = render_page(page, form, ROOT)
    assert WHEEL.encode() not in body
    assert b"quarantined" in body


def test_c056_c058_extra_keys_never_override() -> None:
    junk = {"url": "javascript:x", "upload-time": "x", "dist-info-metadata": {"a": "b"}, "provenance": "x", "new": 1}
    assert file_json(extra=junk, upload_time=None) == file_json(upload_time=None) | {"new": 1}
    top = as_json(
        extra={"files": 1, "alternate-locations": [], "y": 2}, meta_extra={"api-version": "9", "tracks": [], "z": 3}
    )
    assert top["files"] == []
    assert top["y"] == 2
    assert "alternate-locations" not in top
    assert top["meta"] == {"z": 3, "api-version": "1.4"}


def test_c059_lone_surrogates() -> None:
    found = as_json(changed(yanked="a\ud800", extra={"\udc00": ["\ud801"]}))
    assert found["files"][0]["yanked"] == "a?"
    assert found["files"][0]["?"] == ["?"]
    assert 'data-yanked="a?"' in as_html(changed(yanked="a\ud800"))


# --- HTML ----------------------------------------------------------------------------------------------


def test_c002_both_html_forms_are_the_same_bytes() -> None:
    page = page_of(PLAIN)
    assert render_page(page, Format.HTML, ROOT) == render_page(page, Format.TEXT, ROOT)


def test_c060_c061_head() -> None:
    html = as_html(changed(size=None))
    assert html.startswith("<!DOCTYPE html>")
    assert '<meta name="pypi:repository-version" content="1.4">' in html


def test_c062_text_is_the_file_name() -> None:
    nodes = LexborHTMLParser(as_html(PLAIN, changed(filename="click-1.zip"))).tags("a")
    assert [node.text() for node in nodes] == [WHEEL, "click-1.zip"]


def test_c063_fragment() -> None:
    assert anchor()["href"] == f"{ROOT}{path_of(WHEEL)}#sha256={digest(WHEEL)}"
    assert anchor(hashes={})["href"] == ROOT + path_of(WHEEL)
    assert anchor(hashes={"md5": "a" * 32, "sha512": "b" * 128})["href"] == f"{ROOT}{path_of(WHEEL)}#sha512={'b' * 128}"
    assert anchor(hashes={"md5": "a" * 32})["href"] == f"{ROOT}{path_of(WHEEL)}#md5={'a' * 32}"


def test_c064_values_are_escaped() -> None:
    assert 'data-requires-python="&gt;=3.7"' in as_html(PLAIN)
    reason = "a <b> & \"c\" 'd' \r\n e"
    assert anchor(yanked=reason)["data-yanked"] == reason


def test_c065_yanked() -> None:
    assert "data-yanked" not in anchor()
    assert 'data-yanked=""' in as_html(changed(yanked=True))
    assert 'data-yanked=""' in as_html(changed(yanked=""))


@pytest.mark.parametrize(
    ("value", "text"), [({"sha256": "b" * 64}, f"sha256={'b' * 64}"), (True, "true"), ({}, None), (False, None)]
)
def test_c066_both_metadata_attributes(value: Any, text: str | None) -> None:
    found = anchor(core_metadata=value)
    assert found.get("data-core-metadata") == found.get("data-dist-info-metadata") == text


def test_c067_gpg_sig() -> None:
    assert "data-gpg-sig" not in anchor()
    assert [anchor(gpg_sig=v)["data-gpg-sig"] for v in (True, False)] == ["true", "false"]


def test_c068_provenance() -> None:
    assert anchor(provenance="https://x.example.com/?a&b")["data-provenance"] == "https://x.example.com/?a&b"
    assert "data-provenance" not in anchor(provenance="javascript:x")


def test_c069_status() -> None:
    html = as_html(status=ProjectStatus("deprecated", 'use "b"'))
    assert '<meta name="pypi:project-status" content="deprecated">' in html
    assert '<meta name="pypi:project-status-reason" content="use &quot;b&quot;">' in html
    assert "project-status" not in as_html()


def test_c070_upload_time() -> None:
    assert anchor()["data-upload-time"] == "2023-08-17T17:29:10.123456Z"


def test_c072_serial() -> None:
    assert as_html(serial=12).endswith("</html>\n<!--SERIAL 12-->\n")


# --- hostile values and round trips --------------------------------------------------------------------

HOSTILE = [
    '"><script>alert(1)</script>',
    "' onclick='x",
    "--><!--",
    "</a><a href=javascript:x>",
    "&#34;&quot;",
    "\r\nX: y",
    "<!--SERIAL 9-->",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_no5_no_value_makes_an_element_or_attribute(value: str) -> None:
    file = changed(
        filename=value,
        path=f"packages/{value}",
        hashes={value: value},
        requires_python=value,
        upload_time=value,
        core_metadata={"sha256": value},
        yanked=value,
        provenance="https://" + value,
        gpg_sig=True,
    )
    parser = LexborHTMLParser(as_html(file, status=ProjectStatus(value, value)))
    assert parser.root is not None
    tags = [node.tag for node in parser.root.traverse() if node.tag]
    assert set(tags) == {"html", "head", "meta", "title", "body", "h1", "a", "br"}
    (node,) = parser.tags("a")
    assert node.text(strip=True) == value.replace("\r", "\r").strip()
    assert set(node.attributes) == {
        "href",
        "data-requires-python",
        "data-upload-time",
        "data-core-metadata",
        "data-dist-info-metadata",
        "data-yanked",
        "data-gpg-sig",
        "data-provenance",
    }
    assert node.attributes["data-yanked"] == value
    assert (node.attributes["href"] or "").startswith("../../packages/")


NAMES = [WHEEL, "click-1.0.tar.gz", "Click-2.0+local.zip", "click-0.1-py2.7.egg", "CLICK-3.win32.exe"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(bool)
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
EXTRAS = st.dictionaries(
    TEXTS.filter(lambda key: not key.startswith("_")).map(lambda key: "x-" + key),
    st.none() | st.booleans() | st.integers() | TEXTS | st.lists(TEXTS) | st.dictionaries(TEXTS, TEXTS),
    max_size=3,
)


@st.composite
def files(draw: st.DrawFn) -> tuple[File, ...]:
    found = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        path = f"packages/{draw(st.sampled_from(['ab/cd', 'x+y', '~a/=b']))}/{name}"
        found.append(
            File(
                filename=name,
                url=f"https://index.example.com/{path}",
                path=path,
                hashes=draw(st.just({}) | st.fixed_dictionaries({"sha256": HEX})),
                size=draw(st.none() | st.integers(0, 2**53 - 1)),
                upload_time=draw(
                    st.none() | st.datetimes().map(lambda moment: f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z".zfill(27))
                ),
                requires_python=draw(st.none() | TEXTS),
                core_metadata=draw(st.booleans() | st.fixed_dictionaries({"sha256": HEX})),
                yanked=draw(st.booleans() | TEXTS),
                gpg_sig=draw(st.none() | st.booleans()),
                provenance=draw(st.none() | st.just("https://index.example.com/p?a=1&b='2'")),
                extra=draw(st.none() | EXTRAS.filter(bool)),
            )
        )
    return tuple(found)


STATUS = st.none() | st.builds(ProjectStatus, TEXTS, st.none() | TEXTS)
PAGE_URL = "https://index.example.com/simple/click/"


@given(files(), STATUS, st.none() | st.integers(0, 2**53 - 1), EXTRAS, EXTRAS)
def test_round_trip(
    files: tuple[File, ...],
    status: ProjectStatus | None,
    serial: int | None,
    extra: dict[str, Any],
    meta: dict[str, Any],
) -> None:
    page = page_of(*files, status=status, serial=serial, extra=extra, meta_extra=meta)
    read = parse(json_document(render_page(page, Format.JSON, ROOT), JSON_TYPE, PAGE_URL))
    shown = () if status is not None and status.status == "quarantined" else files
    assert replace(read, versions=page.versions, revision="") == replace(page, files=shown)

    read = parse(html_document(render_page(page, Format.HTML, ROOT), HTML_TYPE, PAGE_URL))
    sayable = tuple(msgspec.structs.replace(file, size=None, extra=None) for file in shown)
    assert replace(read, versions=page.versions, revision="") == replace(page, files=sayable, extra={}, meta_extra={})


@given(TEXTS)
def test_hostile_text_survives_json_and_html_unchanged(text: str) -> None:
    page = parse_files(entry(yanked=text, requires_python=text))
    for form, document in ((Format.JSON, json_document), (Format.HTML, html_document)):
        content_type = JSON_TYPE if form is Format.JSON else HTML_TYPE
        (file,) = parse(document(render_page(page, form, ROOT), content_type, PAGE_URL)).files
        assert (file.yanked, file.requires_python) == (text, text)


def test_five_thousand_files_in_every_form() -> None:
    page = parse_files(*(entry(name) for name in many(5000)))
    assert len(json.loads(render_page(page, Format.JSON, ROOT))["files"]) == 5000
    assert len(LexborHTMLParser(render_page(page, Format.TEXT, ROOT)).tags("a")) == 5000
