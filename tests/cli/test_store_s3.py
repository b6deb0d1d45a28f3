"""`mirror store` over real S3 services."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.store_command import contents_of, stocked, store_command, store_json
from tests.maintenance.stocked import bytes_of
from tests.support.s3.services import S3Service

pytest.importorskip("aiobotocore")


def settings_of(service: S3Service, bucket: str, prefix: str = "") -> dict[str, str]:
    return {
        "MIRROR_STORAGE": "s3",
        "MIRROR_S3_BUCKET": bucket,
        "MIRROR_S3_PREFIX": prefix,
        "MIRROR_S3_ENDPOINT_URL": service.endpoint_url,
        "MIRROR_S3_REGION": service.region,
        "MIRROR_S3_ACCESS_KEY_ID": service.access_key,
        "MIRROR_S3_SECRET_ACCESS_KEY": service.secret_key,
        "MIRROR_LOG_LEVEL": "warning",
    }


def test_init_makes_the_bucket_and_says_what_the_service_does_not_take(s3_service: S3Service, tmp_path: Path) -> None:
    """T-62."""
    settings = settings_of(s3_service, s3_service.unused_name(), "a/b/")
    first = store_json(tmp_path, "init", environ=settings)
    again = store_json(tmp_path, "init", environ=settings)
    assert (first["bucket_created"], again["bucket_created"]) == (True, False)
    if s3_service.name == "rclone":
        assert "refuses" in first["lifecycle"]
    else:
        assert (first["lifecycle"], again["lifecycle"]) == ("added", "present")
        rules = s3_service.client().get_bucket_lifecycle_configuration(Bucket=settings["MIRROR_S3_BUCKET"])["Rules"]
        assert [rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for rule in rules] == [1]
    keys = [
        entry["Key"]
        for entry in s3_service.client().list_objects_v2(Bucket=settings["MIRROR_S3_BUCKET"]).get("Contents", ())
    ]
    assert "a/b/layout.json" in keys
    assert "is ready" in store_command(tmp_path, "init", environ=settings).stdout


def test_rules_that_were_there_stay(moto_service: S3Service, tmp_path: Path) -> None:
    bucket = moto_service.new_bucket()
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 7}}
    moto_service.client().put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [theirs]})
    assert store_json(tmp_path, "init", environ=settings_of(moto_service, bucket))["lifecycle"] == "added"
    rules = moto_service.client().get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert sorted(rule["ID"] for rule in rules) == ["mirror-abort-incomplete-uploads", "theirs"]


def test_a_folder_moves_to_a_bucket_to_another_and_back(s3_service: S3Service, tmp_path: Path) -> None:
    """P-12, P-15: same keys, same bytes; verify and gc work on the bucket."""
    stocked(tmp_path / "store", "p", "q")
    before = contents_of(tmp_path / "store")
    first, second = s3_service.new_bucket(), s3_service.new_bucket()
    settings = settings_of(s3_service, first, "one/")
    store_command(tmp_path, "copy", f"directory:{tmp_path / 'store'}", "store", environ=settings)
    store_json(tmp_path, "copy", "store", f"s3://{second}/two/", "--checksum", environ=settings)
    again = store_json(tmp_path, "copy", "store", f"s3://{second}/two/", environ=settings)
    assert again["copied"] == {"objects": 0, "bytes": 0}
    store_command(tmp_path, "copy", f"s3://{second}/two/", f"directory:{tmp_path / 'back'}", environ=settings)
    assert contents_of(tmp_path / "back") == before
    there = settings_of(s3_service, second, "two/")
    assert store_json(tmp_path, "verify", environ=there)["sound"] is True
    key = next(key for key in before if key.endswith(".tar.gz"))
    s3_service.client().put_object(Bucket=second, Key=f"two/{key}", Body=bytes_of("another"))
    found = store_json(tmp_path, "verify", "--repair", code=1, environ=there)
    assert [(each["kind"], each["key"], each["quarantined"]) for each in found["findings"]] == [("damaged", key, True)]
    assert store_json(tmp_path, "verify", environ=there)["sound"] is True
    stats = store_json(tmp_path, "stats", environ=there)
    assert stats["store"] == f"s3://{second}/two"
    assert stats["projects"] == {"pypi": 2}
    gc = store_json(tmp_path, "gc", "--unused-for", "1d", "--force", environ=there)
    assert gc["deleted"]["objects"] == 0, "everything was written just now"


def test_sigterm_ends_a_command_that_waits() -> None:
    """Its exit code is the shells' own for SIGTERM; it does not sit out the time limits of a silent service."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        settings = {
            "MIRROR_STORAGE": "s3",
            "MIRROR_S3_BUCKET": "packages",
            "MIRROR_S3_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "MIRROR_S3_ACCESS_KEY_ID": "key",
            "MIRROR_S3_SECRET_ACCESS_KEY": "secret",
            "MIRROR_S3_READ_TIMEOUT": "1h",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MIRROR_", "AWS_"))}
        with subprocess.Popen(
            [sys.executable, "-m", "mirror", "store", "verify"],
            env=kept | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            connection, _ = silent.accept()
            process.terminate()
            out, _ = process.communicate(timeout=60)
            connection.close()
    assert (process.returncode, out) == (143, b"")
