from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest

from mirror.errors import UpstreamMisbehaved
from mirror.model import Learned, ProjectStatus
from mirror.simple.strict_json import BadJson, decode
from tests.simple.samples import (
    HOST,
    OTHER,
    WHEEL,
    digest,
    entry,
    json_document,
    json_page,
    learned,
    many,
    parse,
    parse_files,
    path_of,
    url_of,
)


def test_one_file_as_pypi_sends_it() -> None:
    page = parse_files(entry())
    (file,) = page.files
    assert page.name == "click"
    assert page.versions == ("8.1.7",)
    assert page.serial == 24
    assert page.dropped == 0
    assert msgspec.structs.asdict(file) == {
        "filename": WHEEL,
        "url": url_of(WHEEL),
        "path": path_of(WHEEL),
        "hashes": {"sha256": digest(WHEEL)},
        "size": 97941,
        "upload_time": "2023-08-17T17:29:10.123456Z",
        "requires_python": ">=3.7",
        "core_metadata": {"sha256": digest(WHEEL + ".metadata")},
        "yanked": False,
        "gpg_sig": None,
        "provenance": None,
        "extra": None,
    }


def test_c028_a_project_without_files() -> None:
    page = parse(json_document(json_page(versions=["2.0", "10.0", "1.0"])))
    assert page.files == ()
    assert page.versions == ("1.0", "2.0", "10.0")


def test_c036_other_upstreams() -> None:
    (file,) = parse(json_document(json_page(entry())), OTHER).files
    assert file.path == f"files/internal/{path_of(WHEEL)}"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"SHA256": "A" * 64}, {"sha256": "a" * 64}),
        ({"sha256": "a" * 63}, {}),
        ({"sha256": "g" * 64}, {}),
        ({"sha256": None, "md5": "b" * 32}, {"md5": "b" * 32}),
        ({"sha256": "a" * 64, "sha512": "c" * 64}, {"sha256": "a" * 64}),
        ({"new_256": "d" * 64}, {"new_256": "d" * 64}),
        ({'"><script>': "d" * 64}, {}),
        ({}, {}),
        (None, {}),
        (..., {}),
    ],
)
def test_c044_hashes(given: Any, kept: dict[str, str]) -> None:
    (file,) = parse_files(entry(hashes=given)).files
    assert file.hashes == kept


@pytest.mark.parametrize(
    ("given", "kept"), [(0, 0), (5, 5), (-1, None), (1.5, None), ("5", None), (True, None), (2**70, None)]
)
def test_c045_size(given: Any, kept: int | None) -> None:
    assert parse_files(entry(size=given)).files[0].size == kept


@pytest.mark.parametrize("moment", ["2023-08-17T17:29:10Z", "2023-08-17T17:29:10.1Z", "2023-08-17T17:29:10.000000Z"])
def test_c047_upload_time_byte_for_byte(moment: str) -> None:
    assert parse_files(entry(upload_time=moment)).files[0].upload_time == moment


@pytest.mark.parametrize(
    "moment",
    [
        "",
        None,
        5,
        "2023-08-17",
        "2023-02-30T00:00:00Z",
        "2023-08-17T17:29:10",
        "2023-08-17T17:29:10+00:00",
        "2023-08-17T17:29:10Z\n",
    ],
)
def test_c046_upload_time_of_another_shape_is_left_out(moment: Any) -> None:
    assert parse_files(entry(upload_time=moment)).files[0].upload_time is None


def test_c048_requires_python() -> None:
    assert parse_files(entry(requires_python=None)).files[0].requires_python is None
    assert parse_files(entry(requires_python="")).files[0].requires_python is None
    assert parse_files(entry(requires_python=">=3, <4")).files[0].requires_python == ">=3, <4"


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({"core_metadata": True}, True),
        ({"core_metadata": False}, False),
        ({"core_metadata": {}}, True),
        ({"core_metadata": {"md5": "a" * 32}}, True),
        ({"core_metadata": {"sha256": "junk"}}, True),
        ({"core_metadata": {"sha256": "a" * 64, "md5": "a" * 32}}, {"sha256": "a" * 64}),
        ({"core_metadata": "yes"}, False),
        ({"core_metadata": ...}, {"sha256": digest(WHEEL + ".metadata")}),
        ({"core_metadata": ..., "dist_info_metadata": {"sha256": "b" * 64}}, {"sha256": "b" * 64}),
        ({"core_metadata": ..., "data_dist_info_metadata": ...}, False),
        ({"core_metadata": False, "dist_info_metadata": True}, False),
    ],
)
def test_c049_u25_core_metadata(keys: dict[str, Any], kept: Any) -> None:
    (file,) = parse_files(entry(**keys)).files
    assert file.core_metadata == kept
    assert file.extra is None


@pytest.mark.parametrize(
    ("given", "kept"), [("", True), (True, True), (False, False), ("broken", "broken"), (None, False)]
)
def test_c051_yanked(given: Any, kept: bool | str) -> None:
    assert parse_files(entry(yanked=given)).files[0].yanked == kept


def test_c052_gpg_sig() -> None:
    assert [parse_files(entry(gpg_sig=v)).files[0].gpg_sig for v in (True, False, None, "x")] == [
        True,
        False,
        None,
        None,
    ]


@pytest.mark.parametrize(
    "url", ["http://x.example.com/", "javascript:x", "https://u:p@x.example.com/", "//x", 'https://x"', 5]
)
def test_c053_provenance_only_https(url: Any) -> None:
    assert parse_files(entry(provenance=url)).files[0].provenance is None
    good = "https://index.example.com/integrity/click/provenance"
    assert parse_files(entry(provenance=good)).files[0].provenance == good


def test_c054_status() -> None:
    status = {"status": "archived", "reason": "done"}
    expected = ProjectStatus("archived", "done")
    assert parse(json_document(json_page(project_status=status))).status == expected
    meta = {"api-version": "1.4", "project-status": status}
    assert parse(json_document(json_page(meta=meta))).status == expected


def test_c056_c058_unknown_keys_survive_and_forbidden_ones_do_not() -> None:
    page = parse(
        json_document(
            json_page(
                entry(variant={"a": [1]}, _private=1, dist_info_metadata=True),
                meta={"api-version": "1.9", "_last-serial": 7, "_x": 1, "tracks": [], "new": 1},
                alternate_locations=[],
                _x=1,
                shiny={"y": None},
            )
        )
    )
    assert page.files[0].extra == {"variant": {"a": [1]}}
    assert page.extra == {"shiny": {"y": None}}
    assert page.meta_extra == {"new": 1}
    assert page.serial == 7


def test_c059_lone_surrogates_are_replaced() -> None:
    body = json.dumps(json_page(entry(yanked="a\ud800b\\udfff \U0001f600\udc00", odd={"\udcff": "x"}))).encode()
    assert b"\\ud800b" in body
    (file,) = parse(json_document(body)).files
    assert file.yanked == "a\ufffdb\\udfff \U0001f600\ufffd"
    assert file.extra == {"odd": {"\ufffd": "x"}}


@pytest.mark.parametrize(
    "bad",
    [
        entry("../x"),
        entry("other-1.0.tar.gz"),
        entry("clickhouse-1.0.tar.gz"),
        entry("click-8.tar.gz", url=url_of(WHEEL)),
        entry(url="javascript:alert(1)"),
        entry(url=f"{HOST}/packages/a/{WHEEL}\r\nX: y"),
        entry(WHEEL + "\n", url=url_of(WHEEL)),
        entry(url=...),
        {"url": url_of(WHEEL), "hashes": {}},
        entry(url=5),
        entry() | {"filename": None},
        entry(hashes=[]),
        entry(yanked=1),
        entry(yanked=[]),
        entry(requires_python=3),
        entry(WHEEL + ".metadata"),
        entry(WHEEL + ".provenance"),
        "text",
        None,
        [],
    ],
)
def test_u24_bad_entries_are_dropped_and_counted(bad: Any) -> None:
    page = parse_files(bad, entry("click-1.0.tar.gz"))
    assert [file.filename for file in page.files] == ["click-1.0.tar.gz"]
    assert page.dropped == 1


def test_first_of_two_entries_with_one_name_wins() -> None:
    page = parse_files(entry(size=1), entry(size=2, url=f"{HOST}/packages/zz/{WHEEL}"))
    assert [file.size for file in page.files] == [1]
    assert page.dropped == 1


def test_a_bad_entry_does_not_hide_a_good_one_of_its_name() -> None:
    page = parse_files(entry(yanked=7), entry(size=2))
    assert [file.size for file in page.files] == [2]


GOOD = json.dumps(json_page(entry())).encode()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"null", "object"),
        (b"[]", "object"),
        (b'"x"', "object"),
        (b"{}", "meta"),
        (b"<html><title>Log in</title>", "proper JSON"),
        (b"{" * 5, "proper JSON"),
        (GOOD[:-1], "proper JSON"),
        (GOOD + b"x", "proper JSON"),
        (b"[" * 100_000, "deep"),
        (b'{"meta":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
        (GOOD.replace(b"97941", b"NaN"), "proper JSON"),
        (GOOD.replace(b"97941", b"1e999"), "proper JSON"),
        (GOOD.replace(b"click", b"cl\xffck"), "UTF-8"),
        (GOOD.replace(b'"versions"', b'"name"'), "twice"),
        (GOOD.replace(b'"size"', b'"filename" '), "twice"),
        (GOOD.replace(b'"size"', b'"file\\u006eame"'), "twice"),
        (json.dumps(json_page(files=...)).encode(), "list of files"),
        (json.dumps(json_page(files={})).encode(), "list of files"),
        (json.dumps(json_page(meta=[])).encode(), "meta"),
        (json.dumps(json_page(meta={})).encode(), "API version"),
        (json.dumps(json_page(meta={"api-version": 1.0})).encode(), "API version"),
        (json.dumps(json_page(meta={"api-version": "2.0"})).encode(), "API version"),
        (json.dumps(json_page(meta={"api-version": "x"})).encode(), "API version"),
        (json.dumps(json_page(meta={"api-version": "9" * 9999})).encode(), "API version"),
        (json.dumps(json_page(versions={})).encode(), "versions"),
        (json.dumps(json_page(name=5)).encode(), "name"),
        (json.dumps(json_page(name="flask")).encode(), "another project"),
        (json.dumps(json_page(project_status="archived")).encode(), "project-status"),
    ],
)
def test_u22_what_is_no_page_is_upstreams_failure(body: bytes, word: str) -> None:
    with pytest.raises(UpstreamMisbehaved) as caught:
        parse(json_document(body))
    assert word in str(caught.value)
    assert caught.value.upstream == "pypi"


def test_u22_what_is_tolerated() -> None:
    expected = parse(json_document(GOOD)).files
    for body, content_type in [
        (b"\xef\xbb\xbf" + GOOD, "application/json"),
        (b"\n " + GOOD, ""),
        (GOOD, "text/html"),
        (GOOD, "text/plain"),
        (json.dumps(json_page(entry()), indent="\t").replace('":', '" \r\n:').encode(), "application/json"),
        (json.dumps(json_page(entry(), name=...)).encode(), "application/json"),
        (json.dumps(json_page(entry(), name="CLICK", versions=None)).encode(), "application/json"),
    ]:
        assert parse(json_document(body, content_type)).files == expected


def test_deep_extra_values_are_not_passed_on() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    (file,) = parse_files(entry(deep=deep, flat=[1])).files
    assert file.extra == {"flat": [1]}


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"b":{"a":2}}', '[{"a:":":"},{"a:":"\\":"}]', '{ "a" : "b" }', "1", '{"\\ud83d\\ude00":"\\\\ud800"}'],
)
def test_strict_decoding_agrees_with_the_standard_library(text: str) -> None:
    assert decode(text.encode()) == json.loads(text)


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '{"x":":","a":[{"b":1, "b" :1}]}', "NaN", "-Infinity", ""])
def test_strict_decoding_refuses(text: str) -> None:
    with pytest.raises(BadJson):
        decode(text.encode())


def test_learned_facts_fill_gaps_and_overrule_nothing() -> None:
    bare = entry(size=..., core_metadata=..., data_dist_info_metadata=...)
    found = learned(size=5, metadata_sha256="e" * 64)
    (file,) = parse_files(bare, learned=found).files
    assert (file.size, file.core_metadata) == (5, {"sha256": "e" * 64})
    assert parse_files(entry(), learned=found).files == parse_files(entry()).files
    flagged = parse_files(entry(core_metadata=True), learned=found).files[0]
    assert flagged.core_metadata == {"sha256": "e" * 64}, "upstream gave no digest to overrule"


def test_u25_core_metadata_that_upstream_garbles_is_not_advertised() -> None:
    promised = entry(core_metadata={"sha256": "d" * 64})
    assert parse_files(promised, learned=learned(metadata_refused=True)).files[0].core_metadata is False
    replaced = learned(metadata_refused=True, metadata_sha256="e" * 64)
    assert parse_files(promised, learned=replaced).files[0].core_metadata == {"sha256": "e" * 64}


def test_revision_changes_with_whatever_a_client_could_see() -> None:
    base = json_document(json_page(entry()))
    changed = msgspec.structs.replace
    documents = [
        base,
        json_document(json_page(entry(yanked=True))),
        changed(base, learned={WHEEL: Learned(size=1)}),
        changed(base, learned={WHEEL: Learned(metadata_sha256="a" * 64)}),
        changed(base, url="https://other.example.com/simple/click/"),
    ]
    revisions = [parse(d).revision for d in documents] + [parse(base, OTHER).revision]
    assert len(set(revisions)) == len(revisions)
    assert parse(changed(base, fetched_at=math.pi, max_age=5)).revision == revisions[0]


def test_serial_of_the_page_comes_before_the_headers() -> None:
    assert parse(json_document(json_page(), serial=99)).serial == 24
    assert parse(json_document(json_page(meta={"api-version": "1.0"}), serial=99)).serial == 99


def test_five_thousand_files() -> None:
    page = parse_files(*(entry(name) for name in many(5000)))
    assert [file.filename for file in page.files] == many(5000)
    assert page.dropped == 0
    assert len(page.versions) == 251
    assert page.by_path[path_of(many(5000)[4999])].size == 97941
