"""The mirror is told to end while the service does not answer: rows S1 and P2."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.s3.disks import caches
from tests.s3.scene import Bucket

SLOW: dict[str, Any] = {"s3_connect_timeout": 60, "s3_read_timeout": 120, "drain_timeout": 1}
"""Whoever waited for the service would wait longer than `MirrorProcess.terminate` does."""


async def test_p2_a_service_that_hangs_does_not_hold_up_the_end(bucket: Bucket, tmp_path: Path) -> None:
    for settings in ({}, caches(tmp_path)):
        replica = bucket.replica(**SLOW, **settings)
        archive = replica.publish(f"last-{len(settings)}", 100_000)
        await replica.get_whole(archive)
        await bucket.holds(archive)
        await bucket.holds_page(f"last-{len(settings)}")
        bucket.proxy.fault(hang=True)
        async with replica.logging("use not recorded", reason="the store has not answered before the end"):
            await asyncio.to_thread(replica.mirror.terminate)
        bucket.proxy.heal()
