"""Section 3: what a page says in JSON (items 37 to 59)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.chain import HOSTILE, JSON, Chain, archive, catalogue, chained
from tests.support.packages import Project

DEMO = {file.filename: file for file in catalogue()[0].files}


def odd_page(chain: Chain, page: dict[str, Any] | None = None, **keys: Any) -> None:
    """From now on upstream's page of demo has one file, with these keys in place of its own."""
    chain.upstream.heal()
    chain.clock.advance(3600)
    file = archive("demo")
    entry = {"filename": file.filename, "url": f"/{file.path}", "hashes": {"sha256": file.sha256}, "size": file.size}
    entry |= {key.replace("_", "-"): value for key, value in keys.items()}
    whole = {"meta": {"api-version": "1.4"}, "name": "demo", "versions": ["1.0"], "files": [entry]} | (page or {})
    chain.upstream.fault("/simple/demo/", status=200, body=json.dumps(whole).encode(), content_type=JSON)


async def odd_entry(chain: Chain, **keys: Any) -> dict[str, Any]:
    odd_page(chain, **keys)
    (entry,) = (await chain.entries("demo")).values()
    return entry


async def test_c037_top_level(both: Chain) -> None:
    page = await both.json("demo")
    assert set(page) - {"project-status"} == {"meta", "name", "files", "versions"}
    assert isinstance(page["meta"], dict)
    assert isinstance(page["files"], list)
    assert [entry["filename"] for entry in page["files"]] == list(DEMO)


async def test_c038_api_version_is_the_text_1_4(chain: Chain) -> None:
    for name in ("demo", "empty", ""):
        assert (await chain.json(name))["meta"]["api-version"] == "1.4"


async def test_c038_a_newer_minor_version_is_understood_and_not_claimed(chain: Chain) -> None:
    odd_page(chain, {"meta": {"api-version": "1.9"}})
    assert (await chain.json("demo"))["meta"]["api-version"] == "1.4"


async def test_c039_serial_is_passed_through(chain: Chain, tmp_path: Path) -> None:
    assert (await chain.json("demo"))["meta"]["_last-serial"] == 4711
    async with chained(tmp_path / "second", style={"serial": False}) as other:
        assert "_last-serial" not in (await other.json("demo"))["meta"]


async def test_c040_name_is_normalised(both: Chain) -> None:
    assert (await both.json("old-name"))["name"] == "old-name"


async def test_c041_versions_are_unique_and_cover_the_files(both: Chain) -> None:
    assert sorted((await both.json("demo"))["versions"]) == ["1.0", "1.0+cpu", "2!0.1", "2.0"]


async def test_c042_filename_is_the_end_of_the_url(every: Chain) -> None:
    for filename, entry in (await every.entries("demo")).items():
        assert entry["url"].rpartition("/")[2] == filename


async def test_c043_url_is_text(every: Chain) -> None:
    assert {type(entry["url"]) for entry in (await every.entries("demo")).values()} == {str}


async def test_c044_hashes_are_always_there(both: Chain) -> None:
    for filename, entry in (await both.entries("demo")).items():
        assert entry["hashes"] == {"sha256": DEMO[filename].sha256}


@pytest.mark.parametrize("json_upstream", [True, False])
@pytest.mark.parametrize("hashes", ["md5", None])
async def test_c044_weak_or_no_hashes(tmp_path: Path, hashes: str | None, json_upstream: bool) -> None:
    async with chained(tmp_path, style={"json": json_upstream, "hashes": hashes}) as chain:
        entry = await chain.entry("demo")
        assert entry["hashes"] == ({"md5": archive("demo").md5} if hashes else {})
        assert (await chain.get(await chain.target("demo"))).body == archive("demo").content


async def test_c044_names_and_digits_are_lower_case(chain: Chain) -> None:
    entry = await odd_entry(chain, hashes={"SHA256": archive("demo").sha256.upper(), "x": 3, "sha512": "no"})
    assert entry["hashes"] == {"sha256": archive("demo").sha256}


async def test_c045_size_is_a_number(chain: Chain) -> None:
    for filename, entry in (await chain.entries("demo")).items():
        assert (type(entry["size"]), entry["size"]) == (int, DEMO[filename].size)


async def test_c045_without_sizes_the_page_is_1_0_until_they_are_known(minimal: Chain) -> None:
    page = await minimal.json("big")
    assert page["meta"]["api-version"] == "1.0"
    assert "size" not in page["files"][0]
    await minimal.hold("big")
    page = await minimal.json("big")
    assert page["meta"]["api-version"] == "1.4"
    assert page["files"][0]["size"] == archive("big").size


async def test_c046_upload_time_is_utc_or_absent(both: Chain) -> None:
    for filename, entry in (await both.entries("demo")).items():
        assert entry["upload-time"] == DEMO[filename].upload_time


async def test_c046_what_is_no_upload_time_is_left_out(chain: Chain) -> None:
    for given in (None, "", "2024-01-02", "2024-01-02T03:04:05+01:00", "2024-02-30T00:00:00Z", 5):
        assert "upload-time" not in await odd_entry(chain, upload_time=given), given


async def test_c046_unknown_upload_time_is_absent(tmp_path: Path) -> None:
    for number, json_upstream in enumerate((True, False)):
        async with chained(tmp_path / str(number), style={"json": json_upstream, "upload_time": False}) as chain:
            for entry in (await chain.entries("demo")).values():
                assert "upload-time" not in entry


async def test_c047_upload_time_is_upstreams_byte_for_byte(chain: Chain) -> None:
    for given in ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05.1Z", "2024-01-02T03:04:05.100000Z"):
        assert (await odd_entry(chain, upload_time=given))["upload-time"] == given
    await chain.get(f"/{archive('demo').path}")
    await chain.settle()
    assert (await chain.entry("demo"))["upload-time"] == given


async def test_c048_requires_python_is_plain_text(both: Chain) -> None:
    entries = await both.entries("demo")
    assert [entries[name].get("requires-python") for name in DEMO] == [f.requires_python for f in DEMO.values()]
    assert ">=3.8" in {f.requires_python for f in DEMO.values()}


async def test_c049_core_metadata_is_an_object_of_hashes(chain: Chain) -> None:
    for filename, entry in (await chain.entries("demo")).items():
        sha256 = DEMO[filename].metadata_sha256
        assert entry.get("core-metadata", False) == ({"sha256": sha256} if sha256 else False)


async def test_c049_core_metadata_without_a_digest(tmp_path: Path) -> None:
    async with chained(tmp_path, style={"metadata": "flag"}) as chain:
        assert (await chain.entry("demo"))["core-metadata"] is True
        assert (await chain.get(f"{await chain.target('demo')}.metadata")).body == archive("demo").metadata


async def test_c050_the_misnomers_of_core_metadata_are_never_in_json(both: Chain) -> None:
    await both.hold("demo")
    assert b"dist-info-metadata" not in (await both.page("demo")).body


async def test_c050_core_metadata_is_read_under_its_old_names(chain: Chain) -> None:
    entry = await odd_entry(chain, dist_info_metadata={"sha256": "0" * 64})
    assert entry["core-metadata"] == {"sha256": "0" * 64}
    assert "dist-info-metadata" not in entry


async def test_c051_yanked_is_true_or_a_reason(both: Chain) -> None:
    entries = await both.entries("demo")
    assert [entries[name]["yanked"] for name in DEMO] == [False, False, HOSTILE, True]


async def test_c051_empty_reason_becomes_true(chain: Chain) -> None:
    assert (await odd_entry(chain, yanked=""))["yanked"] is True


async def test_c052_signature_is_a_boolean_or_absent(chain: Chain) -> None:
    assert all("gpg-sig" not in entry for entry in (await chain.entries("demo")).values())
    assert (await odd_entry(chain, gpg_sig=True))["gpg-sig"] is True
    assert "gpg-sig" not in await odd_entry(chain, gpg_sig="yes")


async def test_c053_provenance_is_an_absolute_https_url_or_absent(chain: Chain) -> None:
    url = "https://index.example.com/integrity/demo/1.0/x/provenance"
    assert (await odd_entry(chain, provenance=url))["provenance"] == url
    for other in (None, "http://index.example.com/x", "/integrity/x", "javascript:alert(1)", 5):
        assert "provenance" not in await odd_entry(chain, provenance=other)


async def test_c054_project_status_is_at_the_top(chain: Chain) -> None:
    assert (await chain.json("demo"))["project-status"] == {"status": "active"}
    assert (await chain.json("old-name"))["project-status"] == {"status": "archived", "reason": HOSTILE}


async def test_c054_project_status_in_meta_is_understood(chain: Chain) -> None:
    odd_page(chain, {"meta": {"api-version": "1.4", "project-status": {"status": "deprecated"}}})
    page = await chain.json("demo")
    assert page["project-status"] == {"status": "deprecated"}
    assert "project-status" not in page["meta"]


async def test_c054_project_status_from_html(tmp_path: Path) -> None:
    async with chained(tmp_path, style={"json": False, "status": True}) as chain:
        assert (await chain.json("old-name"))["project-status"]["status"] == "archived"


@pytest.mark.parametrize("json_upstream", [True, False])
async def test_c055_quarantined_project_has_no_files(tmp_path: Path, json_upstream: bool) -> None:
    async with chained(tmp_path, style={"json": json_upstream, "status": True}) as chain:
        page = await chain.json("evil")
        assert (page["files"], page["project-status"]["status"]) == ([], "quarantined")
        assert b"<a " not in (await chain.page("evil", "text/html")).body


async def test_c055_files_leave_the_page_when_the_status_turns(chain: Chain) -> None:
    await chain.hold("demo")
    chain.upstream.publish(Project("demo", catalogue()[0].files, status="quarantined", serial=4712))
    chain.clock.advance(3600)
    assert (await chain.json("demo"))["files"] == []


async def test_c056_unknown_keys_are_no_error(chain: Chain) -> None:
    odd_page(
        chain,
        {"meta": {"api-version": "1.4", "later": 1, "_private": 2}, "later": {"a": [None]}, "_private": 3},
        later=["x"],
        _private=4,
    )
    page = await chain.json("demo")
    assert (page["later"], page["meta"]["later"], page["files"][0]["later"]) == ({"a": [None]}, 1, ["x"])
    assert b"_private" not in (await chain.page("demo")).body


async def test_c057_root(both: Chain) -> None:
    root = await both.json("")
    assert set(root) == {"meta", "projects"}
    assert root["projects"] == [{"name": name} for name in ("big", "demo", "empty", "evil", "old-name")]


async def test_c057_each_name_once(chain: Chain) -> None:
    names = [{"name": name} for name in ("Demo", "demo", "DEMO", "other", "../evil", "")]
    body = json.dumps({"meta": {"api-version": "1.4"}, "projects": names}).encode()
    chain.upstream.fault("/simple/", status=200, body=body, content_type=JSON)
    assert [entry["name"] for entry in (await chain.json(""))["projects"]] == ["demo", "other"]


async def test_c058_rejected_keys_are_not_passed_on(chain: Chain) -> None:
    odd_page(
        chain,
        {
            "meta": {"api-version": "1.4", "tracks": ["https://index.example.com/simple/demo/"]},
            "alternate-locations": ["https://index.example.com/simple/demo/"],
        },
    )
    body = (await chain.page("demo")).body
    assert b"tracks" not in body
    assert b"alternate-locations" not in body


async def test_c059_odd_texts_are_valid_in_every_form(chain: Chain) -> None:
    for reason, expected in (
        ("\ud800", "\ufffd"),
        ("a\udfffb", "a\ufffdb"),
        ("\x00\x1f\u2028", "\x00\x1f\u2028"),
        ("\U0001f600", "\U0001f600"),
        ('"\\', '"\\'),
        ("\r\n", "\r\n"),
    ):
        odd_page(chain, {"project-status": {"status": "archived", "reason": reason}}, yanked=reason, extra=reason)
        page = json.loads((await chain.page("demo")).body.decode("utf-8", "strict"))
        assert page["files"][0]["yanked"] == page["files"][0]["extra"] == page["project-status"]["reason"] == expected
        (await chain.page("demo", "text/html")).body.decode("utf-8", "strict")
        document = (await chain.get("/demo/json")).body.decode("utf-8", "strict")
        assert json.loads(document)["urls"][0]["yanked_reason"] == expected
