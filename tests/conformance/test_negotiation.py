"""Section 1: which form of a page answers which Accept (items 1 to 21)."""

from __future__ import annotations

import gzip
import sys
from itertools import product

import pytest

from tests.conformance.chain import HT, TH, Chain, J

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PAGES = ("demo", "")
"""A project page and the list of projects."""


async def answered_as(chain: Chain, accept: str | None, content_type: str) -> None:
    """Both kinds of pages have to come as `content_type`, in a body that is it."""
    for page in PAGES:
        answer = await chain.page(page, accept)
        assert (answer.status, answer.headers["content-type"]) == (200, content_type), (page, accept)
        assert answer.body.startswith(b'{"meta"' if content_type == J else b"<!DOCTYPE html>")
        assert answer.headers["vary"] == "Accept, Accept-Encoding"


async def refused(chain: Chain, accept: str) -> None:
    """406 in a short text, without asking anybody."""
    for page in PAGES:
        answer = await chain.page(page, accept)
        assert (answer.status, answer.headers["content-type"]) == (406, "text/plain; charset=utf-8")
        assert len(answer.body) < 300
    assert not chain.upstream.log


async def test_c001_json_is_json(both: Chain) -> None:
    await answered_as(both, J, J)


async def test_c002_versioned_html_is_the_same_body(both: Chain) -> None:
    await answered_as(both, HT, HT)
    for page in PAGES:
        assert (await both.page(page, HT)).body == (await both.page(page, "text/html")).body


async def test_c003_text_html_is_text_html(both: Chain) -> None:
    await answered_as(both, "text/html", TH)


async def test_c004_no_accept_is_html(both: Chain) -> None:
    await answered_as(both, None, TH)


async def test_c005_anything_is_html(chain: Chain) -> None:
    await answered_as(chain, "*/*", TH)


async def test_c006_any_application_is_not_text_html(chain: Chain) -> None:
    await answered_as(chain, "application/*", J)


async def test_c007_pip_gets_json(both: Chain) -> None:
    await answered_as(both, f"{J}, {HT}; q=0.1, text/html; q=0.01", J)


async def test_c008_poetry_gets_json(both: Chain) -> None:
    await answered_as(both, f"{J}, */*;q=0.1", J)


async def test_c009_quality_decides(chain: Chain) -> None:
    await answered_as(chain, f"text/html, {J};q=0.5", TH)


async def test_c010_quality_decides_below_one(chain: Chain) -> None:
    await answered_as(chain, f"{HT};q=0.2, {J};q=0.1", HT)


async def test_c011_quality_zero_is_not_acceptable(chain: Chain) -> None:
    await answered_as(chain, f"{J};q=0, text/html", TH)


async def test_c012_equals_are_answered_with_the_most_expressive(chain: Chain) -> None:
    await answered_as(chain, f"text/html, {HT}, {J}", J)
    await answered_as(chain, f"text/html;q=0.3, {HT};q=0.3", HT)


async def test_c013_latest_json_is_named_by_its_version(chain: Chain) -> None:
    await answered_as(chain, "application/vnd.pypi.simple.latest+json", J)


async def test_c014_latest_html_is_named_by_its_version(chain: Chain) -> None:
    await answered_as(chain, "application/vnd.pypi.simple.latest+html", HT)


async def test_c015_unmatched_accept_is_406(chain: Chain) -> None:
    await refused(chain, "image/png")


async def test_c016_other_api_version_is_406(chain: Chain) -> None:
    await refused(chain, "application/vnd.pypi.simple.v2+json")


async def test_c017_plain_json_is_406(chain: Chain) -> None:
    await refused(chain, "application/json")


async def test_c018_malformed_accept_is_the_default(chain: Chain) -> None:
    for accept in (";;q=x", ",", "/", "text/html;q=nan", "a" * 4000):
        await answered_as(chain, accept, TH)


async def test_c019_vary_is_on_every_negotiated_answer(chain: Chain) -> None:
    for page in PAGES:
        found = await chain.page(page)
        for answer in (
            found,
            await chain.page(page, J, If_None_Match=found.headers["etag"]),
            await chain.page(page, "image/png"),
            await chain.page(page, J, Accept_Encoding="gzip"),
        ):
            assert answer.headers["vary"] == "Accept, Accept-Encoding"


async def test_c020_format_parameter_overrides_accept(chain: Chain) -> None:
    for page, plus in product(("/simple/demo/", "/simple/"), ("+", "%2B", "%20", "%2b")):
        answer = await chain.get(f"{page}?format={J.replace('+', plus)}", {"Accept": "text/html"})
        assert (answer.status, answer.headers["content-type"]) == (200, J)
        assert (await chain.get(f"{page}?format=text/plain", {"Accept": J})).status == 406


@pytest.mark.parametrize("page", PAGES)
async def test_c021_each_representation_has_its_own_etag(both: Chain, page: str) -> None:
    tags = set()
    for accept in (J, HT, "text/html"):
        bodies = {}
        for coding in ("identity", "gzip", "zstd"):
            answer = await both.page(page, accept, Accept_Encoding=coding)
            assert answer.headers.get("content-encoding", "identity") == coding
            tags.add(answer.headers["etag"])
            bodies[coding] = answer.body
        assert gzip.decompress(bodies["gzip"]) == zstd.decompress(bodies["zstd"]) == bodies["identity"]
    assert len(tags) == 9
