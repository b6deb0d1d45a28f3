"""A page that is read column by column comes out as when it is read entry by entry, or is left to that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors import UpstreamMisbehaved
from mirror.model import PageDocument
from mirror.names import project_name
from mirror.simple.entries import Draft, Gate
from mirror.simple.links import SourcePaths
from mirror.simple.parse_json import parse_any_json, parse_json
from mirror.simple.plain_json import read_plain
from tests.simple.samples import DEFAULT, HOST, INDEX, OTHER, digest, entry, json_document, json_page, url_of

PROJECT = project_name("foo-bar")
FILES = [
    "foo_bar-1.0-py3-none-any.whl",
    "foo_bar-1.0.tar.gz",
    "Foo.Bar-2.0.dev1-py3-none-any.whl",
    "foo-bar-0.9.zip",
    "foo-bar-0.8.linux-x86_64.tar.gz",
]
BELOW = "../../packages/aa/bb/"
ODD_NAMES = ["foo_bar-1~1.tar.gz", "foo_bar-1/x.tar.gz", f"foo_bar-{'1' * 240}.tar.gz"]


def gate(document: PageDocument, source: SourcePaths = DEFAULT) -> Gate:
    return Gate(document, PROJECT, source)


def outcome(document: PageDocument, source: SourcePaths, general: bool) -> Draft | str:
    read = parse_any_json if general else parse_json
    try:
        return read(gate(document, source), document.body)
    except UpstreamMisbehaved as error:
        return str(error)


def is_plain(page: Any, source: SourcePaths = DEFAULT, url: str = INDEX) -> bool:
    """Whether `page` is read column by column; that it comes out right is asserted at once."""
    document = json_document(page, url=url)
    assert outcome(document, source, False) == outcome(document, source, True)
    return read_plain(gate(document, source), document.body) is not None


def page_of(*entries: Any, **changes: Any) -> dict[str, Any]:
    return json_page(*entries, **({"name": "foo-bar"} | changes))


def whole_page(**changes: Any) -> dict[str, Any]:
    return page_of(*(entry(filename, **changes) for filename in FILES))


@pytest.mark.parametrize("source", [DEFAULT, OTHER])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hashes": {"sha256": "a" * 64, "md5": "b" * 32}},
        {"core_metadata": True},
        {"core_metadata": False},
        {"core_metadata": ..., "data_dist_info_metadata": ...},
        {"core_metadata": None, "dist_info_metadata": None},
        {"core_metadata": ..., "dist_info_metadata": {"sha256": "c" * 64}},
        {"yanked": "broken by \"me\" – and 'you'"},
        {"yanked": ""},
        {"yanked": ...},
        {"requires_python": ""},
        {"requires_python": ...},
        {"size": ...},
        {"size": None},
        {"upload_time": ...},
        {"upload_time": "2023-02-30T00:00:00Z"},
        {"upload_time": "2023-08-17T17:29:10Z"},
        {"upload_time": "2023-08-17T17:29:10.Z"},
        {"upload_time": "2023-08-17T17:29:10.1234567Z"},
        {"upload_time": "2023-08-17T17:29:10-05:00"},
        {"upload_time": "2023-08-17T17:29:60Z"},
        {"upload_time": "2023-08-17 17:29:10Z"},
        {"upload_time": "2023-08-17T17:29:10z"},
        {"gpg_sig": True},
        {"provenance": "https://index.example.com/integrity/x/provenance"},
        {"provenance": "http://index.example.com/integrity/x/provenance"},
        {"provenance": "https:///x"},
        {"provenance": "https://"},
        {"provenance": "https://user@index.example.com/"},
        {"provenance": ...},
    ],
)
def test_what_indexes_send_is_read_column_by_column(changes: dict[str, Any], source: SourcePaths) -> None:
    assert is_plain(whole_page(**changes), source)
    plain, odd = page_of(entry(FILES[0]), entry(FILES[1], **changes)), page_of(entry(FILES[0], **changes))
    assert is_plain(odd, source)
    if "hashes" not in changes:
        assert is_plain(plain, source)
    for text in json.dumps(whole_page(**changes), indent=1), json.dumps(whole_page(**changes), separators=(",", ":")):
        assert is_plain(text.encode(), source)


@pytest.mark.parametrize("source", [DEFAULT, OTHER])
@pytest.mark.parametrize(
    "index", [INDEX, "https://index.example.com/a/b/simple/foo-bar/", "https://index.example.com/"]
)
def test_relative_links_are_read_column_by_column(source: SourcePaths, index: str) -> None:
    page = page_of(*(entry(filename, url=BELOW + filename) for filename in FILES))
    assert is_plain(page, source, index)


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"url": url_of(FILES[1]).replace("https", "http")},
        {"url": f"{HOST}/packages/.hidden/{FILES[1]}"},
        {"url": f"{HOST}/packages/../{FILES[1]}"},
        {"url": f"{HOST}/packages//{FILES[1]}"},
        {"url": f"{HOST}//{FILES[1]}"},
        {"url": f"{HOST}/packages/a%2fb/{FILES[1]}"},
        {"url": f"{url_of(FILES[1])}#sha256={'a' * 64}"},
        {"url": f"{url_of(FILES[1])}?x={FILES[1]}"},
        {"url": f"{HOST}/packages/a\n{url_of(FILES[1])}"},
        {"url": f"{HOST}/packages/é/{FILES[1]}"},
        {"url": f"https://other.example.com/packages/aa/{FILES[1]}"},
        {"url": f"{HOST}/packages/{'a' * 700}/{FILES[1]}"},
        {"url": ""},
        {"filename": FILES[0]},
        {"filename": "other-1.0.tar.gz"},
        {"filename": ""},
        {"filename": "foo-bar-1.0.tar.gz.metadata", "url": url_of("foo-bar-1.0.tar.gz.metadata")},
        {"filename": "foo-bar-1.0-py3-none-any.whl", "url": url_of("foo-bar-1.0-py3-none-any.whl")},
        *({"filename": name, "url": f"{HOST}/a/{name}"} for name in ODD_NAMES),
        {"hashes": {}},
        {"hashes": None},
        {"hashes": {"sha256": "a" * 64, "md5": "junk"}},
        {"hashes": {"sha256": "A" * 64}},
        {"hashes": {"sha256": "a" * 62 + " a"}},
        {"hashes": {"md5": "a" * 32}},
        {"core_metadata": {"sha256": "junk"}},
        {"core_metadata": {"sha512": "a" * 128}},
        {"yanked": 1},
        {"size": -1},
        {"size": 1.0},
        {"size": 2**53},
        {"gpg_sig": "yes"},
    ],
)
def test_one_entry_that_is_out_of_the_ordinary(changes: dict[str, Any]) -> None:
    filename = changes.get("filename", FILES[1])
    changes = {key: value for key, value in changes.items() if key != "filename"}
    odd = entry(filename, **({"url": url_of(FILES[1])} | changes))
    assert not is_plain(page_of(entry(FILES[0]), odd))


def test_keys_that_come_twice_are_never_overlooked() -> None:
    body = json.dumps(whole_page(yanked='a "reason"')).encode()
    assert is_plain(body)
    for extra in (b'"size": 1, ', b'"yanked": false, ', b'"s\\u0069ze": 1, ', b'"hashes": {"sha256": "x"}, '):
        document = json_document(body.replace(b'"size"', extra + b'"size"', 1))
        refused = outcome(document, DEFAULT, False)
        assert isinstance(refused, str)
        assert "twice" in refused
    two = json.dumps(page_of(*(entry(filename, yanked="\\") for filename in FILES[:2]))).encode()
    assert "twice" in str(outcome(json_document(two.replace(b'"size"', b'"size": 1, "size"', 1)), DEFAULT, False))
    # escaped quotation marks, real ones and backslashes that only look like them, as many as it takes to hide a key
    for reason in ('"', "\\", '\\"', '\\\\"', '"\\', "\\\\"):
        for count in range(1, 5):
            page = json.dumps(whole_page(yanked=reason * count)).encode()
            assert outcome(json_document(page), DEFAULT, False) == outcome(json_document(page), DEFAULT, True)
            doubled = json_document(page.replace(b'"size"', b'"size": 1, "size"', 1))
            assert "twice" in str(outcome(doubled, DEFAULT, False))


def test_the_name_of_a_project_spelt_in_very_many_ways() -> None:
    names = [f"foo{'-' * (i + 1)}bar-{i}.tar.gz" for i in range(40)]
    assert is_plain(page_of(*map(entry, names[:8])))
    assert not is_plain(page_of(*map(entry, names)))


def test_a_name_that_a_source_archive_may_have_and_a_wheel_may_not() -> None:
    assert not is_plain(page_of(entry("foo-bar-1.0.tar.gz"), entry("foo-bar-1.0-py3-none-any.whl")))
    assert is_plain(page_of(entry("foo-bar-1.0.tar.gz"), entry("foo.bar-1.0-py3-none-any.whl")))


def test_the_same_file_name_twice() -> None:
    assert not is_plain(page_of(entry(FILES[0]), entry(FILES[0])))


def test_core_metadata_with_more_than_one_digest_each() -> None:
    assert not is_plain(whole_page(core_metadata={"sha256": "a" * 64, "md5": "b" * 32}))


def test_relative_links_below_a_folder_that_is_none() -> None:
    page = page_of(entry(FILES[0], url="../../" + FILES[0]))
    for folder in (".", ".hidden", "a//b"):
        assert not is_plain(page, OTHER, f"https://index.example.com/{folder}/simple/foo-bar/")
    assert is_plain(page, OTHER, "https://index.example.com/a/simple/foo-bar/")


def test_an_empty_page_and_unknown_keys_beside_the_files() -> None:
    assert not is_plain(page_of())
    assert not is_plain(page_of(entry(FILES[0]), shiny=1))
    assert is_plain(page_of(entry(FILES[0]), meta={"api-version": "1.4", "shiny": [{"a": "b"}, "c"]}))


# --- any page whatever -----------------------------------------------------------------------------------

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(["", "a" * 64, "A" * 64, "\\", '"', "\n", "é", "\ud800"]),
    st.dictionaries(st.sampled_from(["sha256", "md5", "x", "SHA256"]), st.sampled_from(["a" * 64, "b" * 32, "", 5])),
    st.lists(st.integers(), max_size=2),
)
hexes = st.integers(0, 16**64 - 1).map(lambda i: f"{i:064x}")
hashes = st.one_of(
    st.builds(lambda h: {"sha256": h}, hexes),
    st.builds(lambda h: {"md5": h[:32], "sha256": h}, hexes),
)
moments = st.datetimes().map(lambda moment: moment.isoformat() + "Z")
# Pieces that shall meet: each is right in some company and wrong in another.
links = st.builds(
    lambda start, folder, end: start + folder + end,
    st.sampled_from(
        [HOST + "/", HOST + "/packages/", HOST + ":443/", HOST + ":99999/", "../", "../../", "", "/", "\n"]
    ),
    st.lists(st.sampled_from(["packages/", "aa/", ".a/", "a./", "..", "/", "%2e", "é/", "\n", "~+@=,!/", HOST])).map(
        "".join
    ),
    st.sampled_from(["{}", "{}", "{}", "x{}", "{}#a", "{}?b", "{}\n", "{}/"]),
)
filenames = st.builds(
    lambda name, rest: name + rest,
    st.sampled_from(["foo_bar-", "foo-bar-", "Foo.Bar-", "foo__bar-", "foo-", "", "ſoo-bar-", "foo-bar"]),
    st.sampled_from(
        [
            *("1.0-py3-none-any.whl", "1.0.whl", "1.0.tar.gz", "2.zip", "1.0+local.zip", "1.linux-x86_64.tar.gz"),
            *("1-py3.egg", "v1.0.tar.gz", "1.0-1.tar.gz", "a..b.tar.gz", "1" * 300),
            *("1.metadata", "1.asc", "\n", "a/b", ""),
        ]
    ),
)
ordinary: dict[str, st.SearchStrategy[Any]] = {
    "hashes": hashes,
    "size": st.integers(0, 2**53 - 1),
    "upload-time": moments,
    "requires-python": st.sampled_from([None, "", ">=3"]),
    "core-metadata": st.one_of(st.booleans(), st.none(), st.builds(lambda h: {"sha256": h}, hexes)),
    "dist-info-metadata": st.one_of(st.booleans(), st.none(), st.builds(lambda h: {"sha256": h}, hexes)),
    "data-dist-info-metadata": st.one_of(st.booleans(), st.none(), hashes),
    "yanked": st.sampled_from([False, True, "", "no\n", 'a "b"', "é", None]),
    "gpg-sig": st.sampled_from([True, False, None]),
    "provenance": st.sampled_from(
        [None, "https://x.example.com/a", "https://[::1]/", "http://x/", "https:///", "https://é"]
    ),
    "_private": junk,
    "unknown": junk,
}


@st.composite
def entries(draw: st.DrawFn) -> Any:
    common = draw(st.sets(st.sampled_from(sorted(set(ordinary) - {"unknown", "_private"}))))
    start = draw(links)
    count = draw(st.integers(0, 6))
    found: list[Any] = []
    for i in range(count):
        filename = draw(filenames) if draw(st.integers(0, 9)) == 0 else f"foo_bar-{i}.tar.gz"
        link = draw(links) if draw(st.integers(0, 19)) == 0 else start
        given = {"filename": filename, "url": link.replace("{}", filename), "hashes": {"sha256": digest(filename)}}
        given |= {key: draw(ordinary[key]) for key in sorted(common)}
        if draw(st.integers(0, 15)) == 0:
            given[draw(st.sampled_from([*given, *ordinary]))] = draw(junk)
        if draw(st.integers(0, 15)) == 0:
            del given[draw(st.sampled_from(sorted(given)))]
        found.append(draw(junk) if draw(st.integers(0, 60)) == 0 else given)
    return found


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    page = page_of(*draw(entries()))
    if draw(st.integers(0, 5)) == 0:
        page[draw(st.sampled_from([*page, "project-status", "alternate-locations", "shiny", "_x"]))] = draw(junk)
    text = json.dumps(page, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 7)) == 0:  # something twice, or broken
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + draw(st.sampled_from(['"size": 1, ', '"a": "b", ', '"', "\\", ",", '\\"', "\\u0022"]))
            + text[at:]
        )
    return text.encode("utf-8", "surrogatepass")


@settings(max_examples=600, deadline=None)
@given(
    bodies(), st.sampled_from([DEFAULT, OTHER]), st.sampled_from([INDEX, "http://127.0.0.1:8000/a/./simple/foo-bar/"])
)
def test_both_ways_agree_on_any_page(body: bytes, source: SourcePaths, index: str) -> None:
    document = json_document(body, url=index)
    assert outcome(document, source, False) == outcome(document, source, True)


@settings(max_examples=300, deadline=None)
@given(entries())
def test_reading_plainly_changes_nothing_where_it_declines(found: list[Any]) -> None:
    document = json_document(page_of(*found))
    asked = gate(document)
    if read_plain(asked, document.body) is None:
        first = parse_any_json(asked, document.body)
        assert first == parse_any_json(gate(document), document.body)
