from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import pytest
from selectolax.lexbor import LexborHTMLParser

from mirror.errors import UpstreamMisbehaved
from mirror.simple.negotiate import Format
from mirror.simple.project_list import parse_names
from mirror.simple.render_list import ListRenderer, render_list
from mirror.simple.terms import HTML_TYPE, JSON_TYPE

HEAD = '<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.4"><title>Simple index</title></head><body>'


async def pieces_of(body: bytes, step: int) -> AsyncIterator[bytes]:
    for at in range(0, len(body), step):
        yield body[at : at + step]


async def names_in(body: str | bytes, content_type: str = "text/html", step: int = 50_000) -> list[str]:
    data = body.encode() if isinstance(body, str) else body
    return [name async for batch in parse_names(content_type, pieces_of(data, step)) for name in batch]


def json_list(*names: object) -> str:
    return json.dumps(
        {"meta": {"api-version": "1.4", "_last-serial": 3}, "projects": [{"name": n, "_last-serial": 1} for n in names]}
    )


def html_list(*names: str) -> str:
    return HEAD + "\n".join(f'<a href="/simple/{n}/">{n}</a><br/>' for n in names) + "</body></html><!--SERIAL 3-->"


@pytest.mark.parametrize("step", [1, 3, 17, 100_000])
async def test_html_and_json_in_pieces(step: int) -> None:
    names = ["0", "Foo.Bar", "a_b", "zope.interface"]
    expected = ["0", "foo-bar", "a-b", "zope-interface"]
    assert await names_in(html_list(*names), step=step) == expected
    assert await names_in(json_list(*names), JSON_TYPE, step) == expected
    assert await names_in("\ufeff" + json_list(*names), "application/json", step) == expected


async def test_text_before_href_and_href_where_the_text_is_no_name() -> None:
    body = (
        HEAD
        + '<a href="0-0/">0-._.-0</a><a href="/simple/Foo_Bar/?x#y">» Foo «</a><a href="../">../</a><A HREF=a>A</A>'
    )
    assert await names_in(body) == ["0-0", "foo-bar", "a"]


async def test_invalid_names_are_dropped() -> None:
    assert await names_in(json_list("ok", "../x", "", "-a", "\u212a8s", None, 5, {}, "x" * 300, "a\nb"), JSON_TYPE) == [
        "ok"
    ]
    assert await names_in(html_list("ok", "..", "-a", "\u212a8s")) == ["ok"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("", JSON_TYPE),
        (" \n", "text/html"),
        ("{}", JSON_TYPE),
        ("null", JSON_TYPE),
        ('{"message":"slow down"}', JSON_TYPE),
        (json_list("a", "b")[:-3], JSON_TYPE),
        (json_list("a") + "x", JSON_TYPE),
        ("[" * 100_000, JSON_TYPE),
        ('{"meta":{"api-version":"1.0"},"projects":[' + '["]",' * 10_000, JSON_TYPE),
        ('{"projects":[]}', JSON_TYPE),
        ('{"meta":{"api-version":"1.0"},"projects":{"a":{"name":"a"}}}', JSON_TYPE),
        (json_list("a").replace('"1.4"', '"2.0"'), JSON_TYPE),
        (html_list("a"), JSON_TYPE),
        ("<title>Log in</title><form><input></form><a href=help/>help</a>", "text/html"),
        ('<title>Hello</title><a href="/start">Start here now</a>', "text/html"),
        ("<h1>502 Bad Gateway</h1>", "text/html"),
        ("<p>" + "x" * 300_000, "text/html"),
        (html_list("a") + ("<div>" * 12_000 + "<a href=b>b</a>") * 20, "text/html"),
    ],
)
async def test_u22_what_is_no_list_is_upstreams_failure(body: str, content_type: str) -> None:
    with pytest.raises(UpstreamMisbehaved):
        await names_in(body, content_type)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(json_list(), JSON_TYPE), (html_list(), "text/html"), ("<p>", HTML_TYPE), ("<h1>Simple index</h1>", "text/html")],
)
async def test_an_empty_list_is_a_list(body: str, content_type: str) -> None:
    assert await names_in(body, content_type) == []


async def test_a_plain_list_without_any_mark() -> None:
    assert await names_in('<a href="foo/">foo</a><a href="bar_baz">Bar.Baz</a>') == ["foo", "bar-baz"]


@pytest.mark.parametrize("is_json", [True, False])
async def test_a_big_list_takes_bounded_memory(is_json: bool) -> None:
    count = 40_000

    async def body() -> AsyncIterator[bytes]:
        yield b'{"meta":{"api-version":"1.0"},"projects":[{"name":"first"}' if is_json else HEAD.encode()
        for start in range(0, count, 1000):
            numbers = range(start, start + 1000)
            if is_json:
                yield "".join(f',{{"_last-serial":{i},"name":"project-{i}"}}' for i in numbers).encode()
            else:
                yield "".join(f'<a href="/simple/project-{i}/">project-{i}</a>\n' for i in numbers).encode()
        yield b"]}" if is_json else b"</body></html>"

    tracemalloc.start()
    try:
        found = 0
        async for batch in parse_names(JSON_TYPE if is_json else "text/html", body()):
            found += len(batch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == count + is_json
    assert peak < 3 * 1024 * 1024


LINES = b"a\nfoo-bar\nz9\n"


@pytest.mark.parametrize("step", [1, 2, 5, 100])
@pytest.mark.parametrize("ended", [True, False])
async def test_c022_c057_c071_list_in_every_form(step: int, ended: bool) -> None:
    lines = LINES if ended else LINES[:-1]
    pieces = [lines[at : at + step] for at in range(0, len(lines), step)]
    as_json = b"".join(render_list(pieces, Format.JSON))
    assert json.loads(as_json) == {
        "meta": {"api-version": "1.4"},
        "projects": [{"name": "a"}, {"name": "foo-bar"}, {"name": "z9"}],
    }
    as_html = b"".join(render_list(pieces, Format.HTML))
    assert as_html == b"".join(render_list(pieces, Format.TEXT))
    assert as_html.startswith(b"<!DOCTYPE html>")
    nodes = LexborHTMLParser(as_html).tags("a")
    assert [(node.attributes["href"], node.text()) for node in nodes] == [
        ("a/", "a"),
        ("foo-bar/", "foo-bar"),
        ("z9/", "z9"),
    ]
    assert await names_in(as_html) == await names_in(as_json, JSON_TYPE) == ["a", "foo-bar", "z9"]


@pytest.mark.parametrize("form", list(Format))
async def test_an_empty_list_rendered(form: Format) -> None:
    body = b"".join(render_list([], form))
    assert await names_in(body, form.value) == []


@pytest.mark.parametrize("bad", [b"foo\nBar\n", b"a b\n", b'"\n', b"<a>\n", b"a\0\n"])
def test_a_damaged_file_of_names_is_not_served(bad: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        ListRenderer(Format.JSON).feed(bad)


def test_rendering_holds_no_list() -> None:
    def lines() -> Iterator[bytes]:
        for start in range(0, 40_000, 1000):
            yield "".join(f"project-{i}\n" for i in range(start, start + 1000)).encode()

    for form in (Format.JSON, Format.HTML):
        tracemalloc.start()
        try:
            size = sum(map(len, render_list(lines(), form)))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert size > 800_000
        assert peak < 512 * 1024
