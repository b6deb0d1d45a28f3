"""Reading from an object store that fails: what is a miss, what is a failure, and what each costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from mirror.errors import StoreFailure
from mirror.model import Blob, ByteStream, Span, Unchanged
from tests.adapters.s3_scene import KEY, PAGE, PATIENCE, Scene, on_stage
from tests.support.objects import body_of, version
from tests.support.s3.proxy import FaultProxy
from tests.support.s3.services import Moto, Rclone


@pytest.fixture
def proxy(rclone_service: Rclone) -> Iterator[FaultProxy]:
    with FaultProxy(rclone_service) as proxy:
        yield proxy


@pytest.fixture
def bucket(rclone_service: Rclone) -> str:
    return rclone_service.new_bucket()


@pytest.fixture(params=[True, False], ids=["signed", "library"])
async def scene(request: pytest.FixtureRequest, proxy: FaultProxy, bucket: str) -> AsyncIterator[Scene]:
    async with on_stage(proxy, bucket, signed_reads=request.param) as scene:
        await scene.store.put(PAGE, b"page")
        proxy.reset_log()
        yield scene


@pytest.fixture
async def patient(proxy: FaultProxy, bucket: str) -> AsyncIterator[Scene]:
    """One whose time limits run out within a test."""
    async with on_stage(proxy, bucket, connect_timeout=PATIENCE, read_timeout=PATIENCE) as scene:
        await scene.store.put(PAGE, b"page")
        proxy.reset_log()
        yield scene


async def why(scene: Scene, key: str = PAGE) -> str:
    with pytest.raises(StoreFailure) as failure:
        await scene.store.read(key, 100)
    return failure.value.why


async def test_a_read_is_one_get_and_never_a_head(scene: Scene) -> None:
    assert await scene.store.read(PAGE, 100) == b"page"
    assert await body_of(await scene.store.open(PAGE)) == b"page"
    assert await body_of(await scene.store.open(PAGE, Span(1, 2))) == b"ag"
    assert await scene.store.read("meta/absent.json", 100) is None
    assert [call.operation for call in scene.proxy.log] == ["GetObject"] * 4


@pytest.mark.parametrize("error", ["SlowDown", "InternalError", "ServiceUnavailable"])
async def test_s3_two_tries_and_no_more(scene: Scene, error: str) -> None:
    fault = scene.proxy.fault(error=error)
    assert error in await why(scene)
    assert fault.hits == 2
    assert scene.counters["store_retries"] == 1


async def test_s3_a_passing_failure_is_not_seen(scene: Scene) -> None:
    scene.proxy.fault(error="SlowDown", times=1)
    assert await scene.store.read(PAGE, 100) == b"page"
    scene.proxy.fault(status=500, times=1)
    assert await body_of(await scene.store.open(PAGE)) == b"page"


async def test_a_connection_that_is_reset_is_tried_again(scene: Scene) -> None:
    scene.proxy.fault(reset=True, times=2)  # aiohttp itself tries once more on a connection that was used before
    assert await scene.store.read(PAGE, 100) == b"page"
    scene.proxy.fault(reset=True)
    assert "connection" in await why(scene)


async def test_s5_a_missing_bucket_is_no_miss(scene: Scene) -> None:
    scene.proxy.fault(error="NoSuchBucket")
    assert "there is no such bucket" in await why(scene)
    with pytest.raises(StoreFailure):
        await scene.store.open(KEY)


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 404, "body": b"<html>Not found</html>", "headers": {"Content-Type": "text/html"}},
        {"status": 404},
        {"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}},
        {"status": 301, "error": "PermanentRedirect"},
        {"status": 400, "error": "RequestTimeTooSkewed"},
        {"status": 200, "body": b"<html>Please log in</html>", "headers": {"Content-Type": "text/html"}},
        {"status": 204},
    ],
    ids=str,
)
async def test_what_is_no_answer_of_s3_is_no_miss(proxy: FaultProxy, bucket: str, answer: dict[str, Any]) -> None:
    async with on_stage(proxy, bucket) as scene:
        scene.proxy.fault(**answer)
        await why(scene)
        with pytest.raises(StoreFailure):
            await scene.store.open(PAGE)
        assert scene.counters["store_breaker_opened"] == 0


async def test_an_error_in_the_guise_of_success_is_an_error(scene: Scene) -> None:
    scene.proxy.fault(status=200, error="InternalError")
    assert "InternalError" in await why(scene)
    with pytest.raises(StoreFailure, match="InternalError"):
        await scene.store.open(PAGE)


async def test_s4_refused_credentials_raise_an_alarm_and_not_a_storm(scene: Scene) -> None:
    fault = scene.proxy.fault(error="AccessDenied")
    with capture_logs() as logs:
        for _ in range(20):
            assert "the credentials do not allow it" in await why(scene, "meta/absent.json")
        alarms = [entry for entry in logs if entry["log_level"] == "error"]
        assert len(alarms) == 1
        scene.clock.advance(61)
        await why(scene)
        assert len([entry for entry in logs if entry["log_level"] == "error"]) == 2
    assert fault.hits == 21  # each is asked once: it does not help to ask again
    with pytest.raises(StoreFailure):
        await scene.store.check()
    scene.proxy.heal()
    await scene.store.check()


async def test_where_absent_objects_are_forbidden_that_is_a_miss(moto_service: Moto) -> None:
    with FaultProxy(moto_service) as proxy:
        proxy.fault("tmp/*", method="GET", error="AccessDenied", times=1)
        proxy.fault("layout.json", method="GET", error="AccessDenied", times=1)
        async with on_stage(proxy, moto_service.new_bucket()) as scene:
            assert scene.store.exact
            assert scene.store.capabilities()["absence"] == "403 AccessDenied"
            proxy.fault("files/*", error="AccessDenied")
            assert await scene.store.open(KEY) is None
            assert await scene.store.read(KEY, 100) is None
            proxy.fault("files/*", error="InvalidAccessKeyId")
            assert "does not know the access key" in await why(scene, KEY)


@pytest.mark.parametrize("cut", [{"cut_after": 100_000}, {"reset_after": 100_000}])
async def test_s6_a_truncated_body_is_a_failure(scene: Scene, cut: dict[str, int]) -> None:
    body = version(1, 1_000_000)
    await scene.store.put(KEY, body)
    fault = scene.proxy.fault(KEY, **cut)
    received = 0
    stream = await scene.store.open(KEY)
    assert isinstance(stream, ByteStream)
    with pytest.raises(StoreFailure, match=r"broke off|lost|closed"):  # noqa: PT012 - what came before counts
        async for piece in stream.body:
            received += len(piece)
    assert received < len(body)
    with pytest.raises(StoreFailure):
        await scene.store.read(KEY, 2_000_000)
    assert fault.hits == 3  # a stream is not begun anew, a small object is
    scene.proxy.heal()
    assert await body_of(await scene.store.open(KEY)) == body


async def test_a_stalled_body_costs_one_silence(patient: Scene) -> None:
    await patient.store.put(KEY, version(1, 1_000_000))
    patient.proxy.fault(KEY, hang_after=100_000)
    stream = await patient.store.open(KEY)
    assert isinstance(stream, ByteStream)
    with pytest.raises(StoreFailure, match="no answer within the time allowed"):
        async for _ in stream.body:
            pass
    assert patient.counters["store_breaker_opened"] == 1


async def test_a_reader_that_takes_its_time_is_no_stalled_body(patient: Scene) -> None:
    body = version(1, 5_000_000)
    await patient.store.put(KEY, body)
    stream = await patient.store.open(KEY)
    assert isinstance(stream, ByteStream)
    first = await anext(aiter(stream.body))
    await asyncio.sleep(1.5 * PATIENCE)
    assert first + b"".join([piece async for piece in stream.body]) == body


async def test_s1_a_black_hole_costs_one_time_limit_a_period(patient: Scene) -> None:
    fault = patient.proxy.fault(hang=True)
    assert "no answer within the time allowed" in await why(patient)
    assert fault.hits == 1  # a silence is not tried again
    for _ in range(20):
        assert "left alone" in await why(patient)
        with pytest.raises(StoreFailure):
            await patient.store.open(KEY)
    assert fault.hits == 1
    assert patient.counters["store_breaker_opened"] == 1
    patient.clock.advance(60)
    await why(patient)
    assert fault.hits == 2
    patient.proxy.heal()
    patient.clock.advance(60)
    assert await patient.store.read(PAGE, 100) == b"page"
    assert await patient.store.read(PAGE, 100) == b"page"


async def test_s1_a_dead_port_opens_the_breaker_once_it_lasts(scene: Scene) -> None:
    scene.proxy.refuse()
    for _ in range(2):
        assert "no connection" in await why(scene)
        scene.clock.advance(0.6)
    await why(scene)
    assert scene.counters["store_breaker_opened"] == 1
    assert "left alone" in await why(scene)
    asked = scene.counters["store_requests"]
    await why(scene)
    assert scene.counters["store_requests"] == asked
    scene.proxy.accept()
    scene.clock.advance(60)
    assert await scene.store.read(PAGE, 100) == b"page"


async def test_reads_go_on_while_writes_are_left_alone(patient: Scene) -> None:
    patient.proxy.fault(method="PUT", hang=True)
    with pytest.raises(StoreFailure):
        await patient.store.put(PAGE, b"other")
    with pytest.raises(StoreFailure, match="left alone"):
        await patient.store.put(PAGE, b"other")
    assert await patient.store.read(PAGE, 100) == b"page"


async def test_a_service_that_ignores_ranges_and_conditions(moto_service: Moto) -> None:
    bucket = moto_service.new_bucket()
    with FaultProxy(moto_service) as proxy:
        proxy.fault(method="GET", ignored=["range", "if-none-match"])
        async with on_stage(proxy, bucket) as scene:
            assert scene.store.capabilities()["ranges"] is None
            assert not scene.store.capabilities()["conditional_reads"]
            await scene.store.put(PAGE, b"0123456789")
            assert await body_of(await scene.store.open(PAGE, Span(2, 4))) == b"234"
            assert await body_of(await scene.store.open(PAGE, Span(suffix=3))) == b"789"
            found = await scene.store.reread(PAGE, 100, "")
            assert isinstance(found, Blob)
            assert await scene.store.reread(PAGE, 100, found.version) is Unchanged.UNCHANGED


async def test_another_range_than_was_asked_for_is_a_failure(scene: Scene) -> None:
    scene.proxy.fault(
        PAGE, status=206, body=b"pa", headers={"Content-Range": "bytes 0-1/4", "ETag": '"1"', "Content-Length": "2"}
    )
    with pytest.raises(StoreFailure, match="another range"):
        await scene.store.open(PAGE, Span(1, 2))


async def test_a_range_past_the_end_whose_answer_has_no_size(scene: Scene) -> None:
    await scene.store.put("meta/empty.json", b"")
    scene.proxy.fault(status=416, error="InternalError", headers={"Content-Range": "nonsense"}, times=1)
    assert await body_of(await scene.store.open("meta/empty.json", Span(suffix=5))) == b""


async def test_streams_that_are_left_early_give_their_connections_back(proxy: FaultProxy, bucket: str) -> None:
    async with on_stage(proxy, bucket, max_connections=8) as scene:
        await scene.store.put(KEY, version(1, 1_000_000))
        for _ in range(20):
            stream = await scene.store.open(KEY)
            assert isinstance(stream, ByteStream)
            await anext(aiter(stream.body))
            await stream.aclose()
        for _ in range(20):
            assert await scene.store.open("files/absent") is None


async def test_k22_a_cancelled_read_gives_its_connection_back(proxy: FaultProxy, bucket: str) -> None:
    async with on_stage(proxy, bucket, max_connections=8) as scene:
        await scene.store.put(PAGE, b"page")
        fault = proxy.fault(PAGE, hang=True)
        for _ in range(10):
            reading = asyncio.ensure_future(scene.store.open(PAGE))
            await asyncio.to_thread(proxy.wait_for, lambda: fault.hanging)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await asyncio.to_thread(proxy.wait_for, lambda: not fault.hanging)
        proxy.heal()
        assert await body_of(await scene.store.open(PAGE)) == b"page"
        assert scene.counters["store_breaker_opened"] == 0
