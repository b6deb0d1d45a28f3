"""Buckets for tests of running mirrors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3.scene import Bucket, on_bucket
from tests.support.s3.services import Moto, Rclone


@pytest.fixture
def bucket(rclone_service: Rclone) -> Iterator[Bucket]:
    with on_bucket(rclone_service) as made:
        yield made


@pytest.fixture
def exact_bucket(moto_service: Moto) -> Iterator[Bucket]:
    """On a service with exact conditional writes."""
    with on_bucket(moto_service) as made:
        yield made
