"""What a key says of its object, and under which key its use is recorded."""

from __future__ import annotations

import pytest
import xxhash

from mirror.names import archive_key, origin_key, page_key, project_list_key, project_name
from mirror.stores.keys import Kind, access_hash, access_key, is_recorded, kind_of, page_of

P = project_name("upstream")
"""A project whose page has nearly the key of the record of where an upstream is."""
WHEEL = archive_key("pypi", P, "upstream-1.0-py3-none-any.whl")


@pytest.mark.parametrize(
    ("key", "kind", "recorded"),
    [
        (WHEEL, Kind.ARCHIVE, True),
        (WHEEL + ".metadata", Kind.RECORD, True),
        (WHEEL + ".provenance", Kind.RECORD, True),
        (page_key("pypi", P), Kind.RECORD, True),
        (page_key("pypi", P, ".legacy-1.0"), Kind.RECORD, True),
        (project_list_key("pypi"), Kind.LIST, True),
        (origin_key("pypi"), Kind.OTHER, False),
        ("local/ab/cd/p/p-1.0.tar.gz", Kind.OTHER, False),
        ("local/ab/cd/p/p-1.0.tar.gz.metadata", Kind.OTHER, False),
        ("leases/0123456789abcdef.json", Kind.OTHER, False),
        ("access/2026-01-01/a.bin", Kind.OTHER, False),
    ],
)
def test_kinds(key: str, kind: Kind, recorded: bool) -> None:
    assert kind_of(key) is kind
    assert is_recorded(key) is recorded


def test_an_archive_and_its_sidecars_are_used_together() -> None:
    together = {WHEEL, WHEEL + ".metadata", WHEEL + ".provenance"}
    assert {access_key(key) for key in together} == {WHEEL}
    assert {access_hash(key) for key in together} == {xxhash.xxh3_64_intdigest(WHEEL.encode())}
    assert access_key(page_key("pypi", P)) == page_key("pypi", P)
    assert access_key("meta/pypi/ab/cd/odd.metadata") == "meta/pypi/ab/cd/odd.metadata"


def test_the_page_of_an_archive_is_the_one_that_names_it() -> None:
    assert page_of(WHEEL) == page_of(WHEEL + ".metadata") == page_key("pypi", P)
    for other in (page_key("pypi", P), "files/stray", "local/ab/cd/p/p-1.0.tar.gz/x"):
        assert page_of(other) is None
