"""Opening a store in a bucket: what keeps the mirror from starting, what does not, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from mirror.adapters.s3.store import S3Store
from mirror.adapters.system_clock import SystemClock
from mirror.counters import Counters
from mirror.errors import ConfigError, StartError, StoreFailure
from mirror.testing import MovableClock
from tests.adapters.s3_scene import KEY, PAGE, PATIENCE, on_stage, options_for
from tests.support.s3.proxy import FaultProxy
from tests.support.s3.services import Moto, Rclone


@pytest.fixture
def proxy(moto_service: Moto) -> Iterator[FaultProxy]:
    with FaultProxy(moto_service) as proxy:
        yield proxy


@pytest.fixture
def bucket(moto_service: Moto) -> str:
    return moto_service.new_bucket()


async def refusal(proxy: FaultProxy, bucket: str, **options: Any) -> str:
    """Why the mirror does not start."""
    store = S3Store(options_for(proxy, bucket, **options), Counters(), SystemClock())
    with pytest.raises(StartError) as failure:
        await store.start()
    assert "\n" not in str(failure.value)
    return str(failure.value)


async def test_an_empty_bucket_becomes_a_store(proxy: FaultProxy, bucket: str) -> None:
    async with on_stage(proxy, bucket, prefix="one/") as scene:
        client = proxy.service.client()
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]]
        assert keys == ["one/layout.json"]
        layout = json.loads(client.get_object(Bucket=bucket, Key="one/layout.json")["Body"].read())
        assert layout["layout"] == 1
        await scene.store.put(PAGE, b"page")
    async with on_stage(proxy, bucket, prefix="one/") as scene:
        assert await scene.store.read(PAGE, 100) == b"page"
    async with on_stage(proxy, bucket, prefix="two/") as scene:
        assert await scene.store.read(PAGE, 100) is None


async def test_what_the_service_can_do_is_told_in_one_line(proxy: FaultProxy, bucket: str) -> None:
    with capture_logs() as logs:
        async with on_stage(proxy, bucket) as scene:
            told = scene.store.capabilities()
    assert told == {
        "exact": True,
        "conditional_create": True,
        "conditional_replace": True,
        "conditional_reads": True,
        "ranges": 206,
        "lists": True,
        "deletes": True,
        "absence": "404 NoSuchKey",
    }
    [line] = [entry for entry in logs if entry["event"] == "object store opened"]
    assert {name: line[name] for name in told} == told
    assert line["follows"] == "nothing is missing"


@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        ({"ignored": ["if-none-match"]}, "conditional_create"),
        ({"ignored": ["if-match"]}, "conditional_replace"),
        ({"error": "PreconditionFailed"}, "conditional_create"),
        ({"error": "PreconditionFailed"}, "conditional_replace"),
        ({"error": "NotImplemented"}, "conditional_create"),
    ],
    ids=str,
)
async def test_s9_exact_is_what_was_seen_to_be_exact(
    proxy: FaultProxy, bucket: str, fault: dict[str, Any], lost: str
) -> None:
    proxy.fault(method="PUT", conditional=True, **fault)
    async with on_stage(proxy, bucket) as scene:
        assert not scene.store.capabilities()[lost]
        assert not scene.store.exact


async def test_s5_a_missing_bucket(proxy: FaultProxy, moto_service: Moto) -> None:
    why = await refusal(proxy, moto_service.unused_name())
    assert "There is no bucket" in why
    assert "s3-bucket" in why


async def test_k11_the_wrong_region(proxy: FaultProxy, bucket: str) -> None:
    proxy.fault(method="GET", error="PermanentRedirect", headers={"x-amz-bucket-region": "eu-north-1"})
    assert "set s3-region to eu-north-1" in await refusal(proxy, bucket)
    proxy.heal()
    body = b"<Error><Code>AuthorizationQueryParametersError</Code><Region>eu-west-3</Region></Error>"
    proxy.fault(method="GET", status=400, error="PermanentRedirect", body=body)
    assert "set s3-region to eu-west-3" in await refusal(proxy, bucket)


@pytest.mark.parametrize("signed", [True, False])
async def test_k11_the_wrong_region_without_a_hint(proxy: FaultProxy, bucket: str, signed: bool) -> None:
    proxy.fault(error="PermanentRedirect")
    assert "set s3-region" in await refusal(proxy, bucket, signed_reads=signed)


@pytest.mark.parametrize("error", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AccessDenied"])
async def test_refused_credentials(proxy: FaultProxy, bucket: str, error: str) -> None:
    proxy.fault(error=error)
    assert "refuses the credentials" in await refusal(proxy, bucket)


async def test_credentials_that_may_not_write(proxy: FaultProxy, bucket: str) -> None:
    proxy.fault(method="PUT", error="AccessDenied")
    assert "refuses the credentials" in await refusal(proxy, bucket)


async def test_wrong_keys_at_a_service_that_looks_at_them(rclone_service: Rclone) -> None:
    with FaultProxy(rclone_service) as proxy:
        why = await refusal(proxy, rclone_service.new_bucket(), secret_access_key="another-secret")
    assert "refuses the credentials" in why
    assert "another-secret" not in why


async def test_half_a_pair_of_keys(proxy: FaultProxy, bucket: str) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        options_for(proxy, bucket, secret_access_key=None)


async def test_no_credentials_at_all(proxy: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    why = await refusal(proxy, bucket, access_key_id=None, secret_access_key=None)
    assert "s3-access-key-id" in why


async def test_no_region_at_amazon(proxy: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    assert "s3-region" in await refusal(proxy, bucket, endpoint_url=None, region=None)


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 200, "body": b"<html>Welcome</html>", "headers": {"Content-Type": "text/html"}},
        {"status": 404, "body": b"<html>Not found</html>", "headers": {"Content-Type": "text/html"}},
        {"status": 302, "headers": {"Location": "http://127.0.0.1:1/login"}},
        {"status": 301, "headers": {"Location": "https://127.0.0.1:1/"}},
        {"status": 405},
    ],
    ids=str,
)
async def test_something_that_is_no_s3(proxy: FaultProxy, bucket: str, answer: dict[str, Any]) -> None:
    proxy.fault(method="GET", **answer)
    assert "s3-endpoint-url" in await refusal(proxy, bucket)


async def test_a_place_that_somebody_else_uses(proxy: FaultProxy, bucket: str) -> None:
    proxy.service.client().put_object(Bucket=bucket, Key="photos/cat.jpg", Body=b"cat")
    assert "it is no store of this mirror" in await refusal(proxy, bucket)
    keys = [entry["Key"] for entry in proxy.service.client().list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["photos/cat.jpg"]
    async with on_stage(proxy, bucket, prefix="packages/"):
        pass


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        (b'{"layout": 2, "shard": "xxh3_64/2x2"}', "layout 2"),
        (b"{", "damaged"),
        (b'{"layout": 1, "shard": "other"}', "unknown layout"),
    ],
)
async def test_a_store_of_another_layout(proxy: FaultProxy, bucket: str, layout: bytes, why: str) -> None:
    proxy.service.client().put_object(Bucket=bucket, Key="layout.json", Body=layout)
    assert why in await refusal(proxy, bucket)
    assert proxy.calls(method="PUT") == 0


async def test_another_replica_begins_the_store_at_the_same_time(proxy: FaultProxy, bucket: str) -> None:
    async with on_stage(proxy, bucket) as scene:
        await scene.store.put(PAGE, b"page")
        # The first look of the second replica was before that, its listing is after.
        proxy.fault("layout.json", method="GET", error="NoSuchKey", times=1)
        async with on_stage(proxy, bucket) as other:
            assert await other.store.read(PAGE, 100) == b"page"


async def test_a_bucket_that_may_not_be_listed(proxy: FaultProxy, bucket: str) -> None:
    proxy.fault(operation="ListObjectsV2", error="AccessDenied")
    proxy.fault("layout.json", method="GET", error="AccessDenied", times=1)
    proxy.fault("tmp/*", method="GET", error="AccessDenied", times=1)
    async with on_stage(proxy, bucket) as scene:
        assert scene.store.exact
        assert not scene.store.capabilities()["lists"]
        await scene.store.put(PAGE, b"page")
        with pytest.raises(StoreFailure):
            assert [found async for found in scene.store.list("")]


@pytest.mark.parametrize(
    "fault",
    [
        {"error": "SlowDown"},
        {"error": "InternalError"},
        {"error": "RequestTimeTooSkewed"},
        {"status": 502, "body": b"<html>"},
        {"reset": True},
    ],
    ids=str,
)
async def test_s1_a_service_that_is_not_well_delays_nothing(
    proxy: FaultProxy, bucket: str, fault: dict[str, Any]
) -> None:
    proxy.fault(**fault)
    with capture_logs() as logs:
        async with on_stage(proxy, bucket) as scene:
            assert [entry["log_level"] for entry in logs if entry["event"] == "object store does not answer"] == [
                "warning"
            ]
            assert not scene.store.exact
            assert scene.store.capabilities() == {}
            for call in (scene.store.check(), scene.store.read(PAGE, 1), scene.store.put(PAGE, b"")):
                with pytest.raises(StoreFailure):
                    await call
            proxy.heal()
            scene.clock.advance(60)
            await scene.store.check()
            assert scene.store.capabilities()["exact"]
            await scene.store.put(PAGE, b"page")


async def test_s1_a_black_hole_at_the_start(proxy: FaultProxy, bucket: str) -> None:
    fault = proxy.fault(hang=True)
    clock = MovableClock()
    store = S3Store(options_for(proxy, bucket, connect_timeout=PATIENCE, read_timeout=PATIENCE), Counters(), clock)
    await store.start()
    try:
        with pytest.raises(StoreFailure, match="left alone"):
            await store.put(PAGE, b"page")
        assert fault.hits == 1
        proxy.heal()
        clock.advance(60)
        await store.put(PAGE, b"page")
        assert store.exact
    finally:
        await store.aclose()


async def test_what_only_people_can_put_right_is_told_also_later(proxy: FaultProxy, moto_service: Moto) -> None:
    bucket = moto_service.unused_name()
    proxy.fault(error="SlowDown")
    async with on_stage(proxy, bucket) as scene:
        proxy.heal()
        with pytest.raises(StoreFailure, match="There is no bucket"):
            await scene.store.check()
        with pytest.raises(StoreFailure, match="There is no bucket"):
            await scene.store.open(KEY)


async def test_a_layout_that_disappears_is_noticed(proxy: FaultProxy, bucket: str) -> None:
    async with on_stage(proxy, bucket) as scene:
        proxy.service.client().delete_object(Bucket=bucket, Key="layout.json")
        with pytest.raises(StoreFailure, match="it is gone"):
            await scene.store.check()


async def test_unknown_client_options(proxy: FaultProxy, bucket: str) -> None:
    assert "no_such_option" in await refusal(proxy, bucket, client_options={"no_such_option": 1})
    assert "s3-client-options" in await refusal(proxy, bucket, client_options={"s3": 1})
