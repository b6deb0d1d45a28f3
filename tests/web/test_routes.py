"""The grammar of request targets, without a server and with one."""

from __future__ import annotations

import asyncio
import string

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from mirror.errors import BadRequest, NotFound
from mirror.names import ProjectName
from mirror.web.routes import (
    FileRoute,
    HealthRoute,
    HomeRoute,
    LegacyJsonRoute,
    MetricsRoute,
    ProjectListRoute,
    ProjectPageRoute,
    ProvenanceRoute,
    RedirectRoute,
    Route,
    parse_target,
)
from tests.web.conftest import WHEEL
from tests.web.memory import MemoryRepository, Served, serving

DEMO = ProjectName("demo")


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/", HomeRoute()),
        ("/?x=1", HomeRoute()),
        ("/simple/", ProjectListRoute()),
        ("/pypi/simple/", ProjectListRoute()),
        ("/simple/?format=text/html", ProjectListRoute("text/html")),
        ("/simple/demo/", ProjectPageRoute(DEMO)),
        ("/simple/%64emo/", ProjectPageRoute(DEMO)),
        ("/simple/json/", ProjectPageRoute(ProjectName("json"))),
        ("/simple", RedirectRoute("simple/")),
        ("/simple/Demo", RedirectRoute("demo/")),
        ("/simple/De.mo/?a", RedirectRoute("../de-mo/?a")),
        ("/packages/ab/x-1.0.tar.gz", FileRoute("packages/ab/x-1.0.tar.gz")),
        ("/pypi/packages/ab/x-1.0.tar.gz?y", FileRoute("packages/ab/x-1.0.tar.gz")),
        ("/files/internal/a@b/~c/x-1.0.tar.gz.metadata", FileRoute("files/internal/a@b/~c/x-1.0.tar.gz", "metadata")),
        ("/packages/x-1.0.whl.provenance", FileRoute("packages/x-1.0.whl", "provenance")),
        ("/packages/x-1.0.whl.asc", FileRoute("packages/x-1.0.whl", "asc")),
        ("/packages/x-1%2B2.whl", FileRoute("packages/x-1+2.whl")),
        ("/demo/json", LegacyJsonRoute(DEMO)),
        ("/demo/json/", LegacyJsonRoute(DEMO)),
        ("/pypi/Demo/json", LegacyJsonRoute(DEMO, mount="pypi/")),
        ("/pypi/json", LegacyJsonRoute(ProjectName("pypi"))),
        ("/pypi/demo/1.0/json", LegacyJsonRoute(DEMO, "1.0", "pypi/")),
        ("/demo/1!1.0+a/json/", LegacyJsonRoute(DEMO, "1!1.0+a")),
        ("/files/json", LegacyJsonRoute(ProjectName("files"))),
        ("/files/1.0/json", LegacyJsonRoute(ProjectName("files"), "1.0")),
        ("/integrity/Demo/1.0/x-1.0.whl/provenance", ProvenanceRoute(DEMO, "1.0", "x-1.0.whl")),
        ("/livez", HealthRoute("livez")),
        ("/readyz", HealthRoute("readyz")),
        ("/metrics", MetricsRoute()),
    ],
)
def test_routes(target: str, route: Route) -> None:
    assert parse_target(target) == route


@pytest.mark.parametrize(
    "target",
    [
        "/nothing",
        "/pypi/",
        "/pypi",
        "/simple//",
        "/simple/a//",
        "/simple/./",
        "/simple/../",
        "/simple/a/b/",
        "/packages/",
        "/packages/x/",
        "/packages/../x",
        "/packages/%2e%2e/x",
        "/packages/.%2e/x",
        "/packages/a;b/x",
        "/packages/a%3Bb/x",
        "/packages/a%2Fb",
        "/packages/a%2fb",
        "/packages/a%5Cb",
        "/packages/a\\b",
        "/packages/a%00",
        "/packages/a%25b",
        "/packages/a%252Fb",
        "/packages/a%",
        "/packages/a%4",
        "/packages/a%zz",
        "/packages/%+41",
        "/packages/a%0d%0ab",
        "/packages/a%20b",
        "/packages/é",
        "/packages/%C3%A9",
        "/packages/%FF",
        "/packages/a b",
        "/packages/a\x7fb",
        "/packages/-x",
        "/packages/.metadata",
        "/packages/a..b/../x",
        "/packages/..",
        "/packages/" + "a" * 245,
        "/packages/" + "a/" * 600 + "x",
        "/simple/x/" + "?" + "y" * 5000,
        "/files/UPPER/a/x.whl",
        "/livez/",
        "/metrics/x",
        "/demo/-1/json",
        "/demo/a%2Fb/json",
        "/integrity/demo/1.0/a%2Fb/provenance",
        "/%2Bsimple/demo/",
        "/simple/demo/?é",
    ],
)
def test_what_is_no_path_of_ours(target: str) -> None:
    with pytest.raises(NotFound):
        parse_target(target)


@pytest.mark.parametrize("target", ["", "*", "http://h/simple/", "//h/simple/", "h:443", "simple/", "/simple/#x", "?x"])
def test_only_the_origin_form_is_taken(target: str) -> None:
    with pytest.raises(BadRequest):
        parse_target(target)


@given(st.text(st.sampled_from("/%.?#;\\+ ~@" + "25fF2e0Cc" + "simplepypiackages" + "\x00\n\u00e9\ud800")))
@example("/simple/%")
def test_any_text_is_a_route_or_refused(text: str) -> None:
    for target in (text, f"/simple/{text}/", f"/packages/{text}", f"/{text}/json"):
        try:
            route = parse_target(target)
        except (NotFound, BadRequest):
            continue
        match route:
            case FileRoute(path):
                assert "//" not in path
                assert ".." not in path.split("/")
                assert not path.startswith("/")
                assert set(path) <= set(string.ascii_letters + string.digits + "/._+!~@=,-")
            case RedirectRoute(location):
                path = location.partition("?")[0]
                assert path.removeprefix("../").rstrip("/").replace("-", "").isalnum()
                assert all("!" <= c <= "~" for c in location)


_GOOD = (
    f"/packages/ab/cd/{WHEEL}",
    f"/packages/ab/cd/{WHEEL}.metadata",
    "/packages/ab/cd/demo-2.0.tar.gz",
    "/simple/demo/",
    "/pypi/simple/demo/",
    "/demo/json",
    "/integrity/demo/1.0/demo-1.0-py3-none-any.whl/provenance",
)
_PIECE = st.sampled_from(
    [
        "%2F",
        "%2f",
        "%5C",
        "%00",
        "%25",
        "%252F",
        "%2e",
        "%2E%2E",
        "..",
        ".",
        ";",
        ";x=1",
        "//",
        "/",
        "/../",
        "/./",
        "\\",
        "%0d%0a",
        "%C0%AF",
        "%",
        "?",
        "?x=1",
        "#",
        "+",
        "%2B",
        "%20",
        "%41",
        "a",
        "A",
        "~",
        ":",
        "@",
        "*",
        "&",
        "%EF%BC%8E",
    ]
)


async def test_i1_mutated_paths_are_the_same_resource_or_refused(repository: MemoryRepository) -> None:
    """faults 3.3 no. 2: what a mutated path answers is what its one decoding names, or a refusal; never a 5xx."""
    loop = asyncio.get_running_loop()
    async with serving(repository) as served:
        originals = {target: (await served.get(target)).body for target in _GOOD}

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(_GOOD), st.integers(0, 60), st.integers(0, 3), _PIECE)
        def check(target: str, position: int, removed: int, piece: str) -> None:
            mutated = target[:position] + piece + target[position + removed :]
            assume(mutated.startswith("/"))
            answer = asyncio.run_coroutine_threadsafe(served.get(mutated), loop).result(20)
            assert answer.status < 500
            assert b"Traceback" not in answer.body
            if answer.status == 200 and answer.body not in originals.values():
                assert parse_target(mutated) in (HomeRoute(), ProjectListRoute())
            elif answer.status == 200 and answer.body:
                # the same bytes only because it is the same route, however it was spelt
                routes = {parse_target(t) for t, body in originals.items() if body == answer.body}
                route = parse_target(mutated)
                assert route in routes or isinstance(route, ProjectPageRoute | ProvenanceRoute | LegacyJsonRoute)

        await asyncio.to_thread(check)


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:1/simple/",
        "http://example.com/packages/ab/cd/x.whl",
        "//example.com/simple/demo/",
        "*",
        "simple/",
    ],
)
async def test_no_open_relay_over_http(served: Served, target: str) -> None:
    answer = await served.get(target)
    assert 400 <= answer.status < 500
    assert not served.repository.asked


async def test_connect_is_refused(served: Served) -> None:
    answer = await served.get("example.com:443", method="CONNECT")
    assert 400 <= answer.status < 500


async def test_c111_hatch_path_is_404(served: Served) -> None:
    for target in ("/+simple/demo/", "/%2Bsimple/demo/"):
        assert (await served.get(target)).status == 404
