"""Circles of mirrors are found by Via."""

from __future__ import annotations

import pytest

from mirror.via import note, with_own


@pytest.mark.parametrize(
    ("inbound", "sent"),
    [
        (None, "1.1 mirror-a"),
        ("", "1.1 mirror-a"),
        ("1.1 front, 1.0 mirror-b (x)", "1.1 front, 1.0 mirror-b (x), 1.1 mirror-a"),
        ("1.1 a\tb", "1.1 mirror-a"),
        ("x" * 2000, "1.1 mirror-a"),
    ],
)
def test_the_hops_so_far_are_passed_on_if_they_are_sane(inbound: str | None, sent: str) -> None:
    note(inbound)
    assert with_own("mirror-a") == sent
