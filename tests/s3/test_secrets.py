"""The keys to the bucket, and what is made with them, show nowhere: promise 12."""

from __future__ import annotations

import json
from pathlib import Path

from tests.s3.disks import caches, comes_from_cache
from tests.s3.scene import Bucket

CANARY = "canary-session-51f0"


async def test_promise_12_keys_and_signatures_show_nowhere_whatever_is_logged(bucket: Bucket, tmp_path: Path) -> None:
    replica = bucket.replica(log_level="debug", s3_session_token=CANARY, **caches(tmp_path))
    archive = replica.publish("private", 1_000_000)
    said = [await replica.page("private"), await replica.get_whole(archive)]
    await bucket.holds(archive)
    await bucket.holds_page("private")
    await comes_from_cache(replica, archive)
    bucket.proxy.fault(error="AccessDenied")
    said += [await replica.get(path) for path in ("readyz", "simple/private/", "simple/none/", "metrics")]
    assert said[2].status == 503
    bucket.proxy.heal()

    signatures = {
        signature
        for call in bucket.proxy.requests()
        for signature in (
            call.headers.get("authorization", "").rpartition("Signature=")[2],
            call.query.get("X-Amz-Signature", ""),
        )
        if signature
    }
    assert signatures, "both kinds of signatures are sent"
    answers = "\n".join(f"{answer.fields} {answer.body.decode('latin-1')}" for answer in said)
    logs = json.dumps(replica.mirror.log) + "\n".join(replica.mirror.text)
    disk = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).decode("latin-1")
    for secret in (CANARY, bucket.proxy.secret_key, *signatures):
        assert secret not in answers
        assert secret not in logs
        assert secret not in disk
