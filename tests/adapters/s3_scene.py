"""A store in S3 behind a proxy that can be told to misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mirror.adapters.s3.options import S3Options
from mirror.adapters.s3.store import S3Store
from mirror.counters import Counters
from mirror.testing import MovableClock
from tests.support.s3.proxy import FaultProxy
from tests.support.s3.services import Endpoint

KEY = "files/one/ac/f3/requests/requests-2.32.3-py3-none-any.whl"
PAGE = "meta/one/ac/f3/requests.json"

PATIENCE = 2.0
"""Seconds of each time limit in tests that wait for one to run out; everything else has to be done in that time."""


@dataclass
class Scene:
    """`store` speaks to the service through `proxy`; `clock` rules its circuit breaker and alarms."""

    store: S3Store
    proxy: FaultProxy
    bucket: str
    counters: Counters
    clock: MovableClock


def options_for(endpoint: Endpoint, bucket: str, **more: Any) -> S3Options:
    """With waits between tries that nobody notices."""
    settings: dict[str, Any] = {
        "bucket": bucket,
        "endpoint_url": endpoint.endpoint_url,
        "region": endpoint.region,
        "access_key_id": endpoint.access_key,
        "secret_access_key": endpoint.secret_key,
        "retry_wait": 0.001,
        # A slow machine is no fault; where one is waited for, the test says less.
        "connect_timeout": 30.0,
        "read_timeout": 60.0,
        "client_options": {"proxies": {}},
    }
    return S3Options(**settings | more)


@asynccontextmanager
async def on_stage(proxy: FaultProxy, bucket: str, **options: Any) -> AsyncIterator[Scene]:
    """A started store; what was asked until then is forgotten."""
    counters, clock = Counters(), MovableClock()
    store = S3Store(options_for(proxy, bucket, **options), counters, clock)
    await store.start()
    await store._tasks.drain(60)  # the sweep: whatever is asked from here on, the test has caused
    try:
        proxy.reset_log()
        yield Scene(store, proxy, bucket, counters, clock)
    finally:
        proxy.heal()
        await store.aclose()


def stored(scene: Scene) -> dict[str, bytes]:
    """What lies in the bucket, seen past the mirror; without the layout."""
    client = scene.proxy.service.client()
    found = client.list_objects_v2(Bucket=scene.bucket).get("Contents", [])
    keys = [entry["Key"] for entry in found if entry["Key"] != "layout.json"]
    return {key: client.get_object(Bucket=scene.bucket, Key=key)["Body"].read() for key in keys}
