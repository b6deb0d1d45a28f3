"""The services come back where they were, with what they keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.s3.services import DidNotStart, Rclone, S3Service


def test_a_bucket_is_new_and_its_objects_are_there_to_see(s3_service: S3Service) -> None:
    bucket, other = s3_service.new_bucket(), s3_service.new_bucket()
    client = s3_service.client()
    client.put_object(Bucket=bucket, Key="a/b", Body=b"1")
    assert client.get_object(Bucket=bucket, Key="a/b")["Body"].read() == b"1"
    assert "Contents" not in client.list_objects_v2(Bucket=other)


def test_rclone_keeps_its_objects_and_port_through_a_crash_and_a_restart(own_rclone: Rclone) -> None:
    bucket, endpoint = own_rclone.new_bucket(), own_rclone.endpoint_url
    own_rclone.client().put_object(Bucket=bucket, Key="a/b", Body=b"1")
    own_rclone.kill()
    own_rclone.start()
    own_rclone.restart()
    assert own_rclone.endpoint_url == endpoint
    assert own_rclone.client().get_object(Bucket=bucket, Key="a/b")["Body"].read() == b"1"
    assert (own_rclone.root / bucket / "a" / "b").read_bytes() == b"1"


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    class Broken(Rclone):
        def command(self, port: int) -> list[str | Path]:
            return [*super().command(port), "--no-such-option"]

    with pytest.raises(DidNotStart, match="no-such-option"):
        Broken(tmp_path).start()


@pytest.mark.ceph
def test_ceph_keeps_its_objects_through_a_restart(ceph_service: S3Service) -> None:
    bucket = ceph_service.new_bucket()
    ceph_service.client().put_object(Bucket=bucket, Key="a", Body=b"1")
    ceph_service.restart()
    assert ceph_service.client().get_object(Bucket=bucket, Key="a")["Body"].read() == b"1"
