"""Writing to an object store that fails: retries, uploads in parts, streams, conditional writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path

import pytest

from mirror.adapters.s3.calls import Calls
from mirror.adapters.s3.client import S3Client
from mirror.adapters.s3.requests import Requests
from mirror.adapters.s3.writes import Writes
from mirror.counters import Counters
from mirror.errors import IntegrityError, StoreFailure
from mirror.flight import Tasks
from mirror.testing import MovableClock
from tests.adapters.s3_scene import KEY, PAGE, PATIENCE, Scene, on_stage, options_for, stored
from tests.support.objects import body_of, version
from tests.support.s3.proxy import FaultProxy
from tests.support.s3.services import Moto, Rclone

MIB = 2**20
LARGE = {"multipart_threshold": 6 * MIB, "part_size": 5 * MIB, "largest_put": 6 * MIB}


@pytest.fixture
def proxy(rclone_service: Rclone) -> Iterator[FaultProxy]:
    with FaultProxy(rclone_service) as proxy:
        yield proxy


@pytest.fixture
def bucket(rclone_service: Rclone) -> str:
    return rclone_service.new_bucket()


@pytest.fixture
async def scene(proxy: FaultProxy, bucket: str) -> AsyncIterator[Scene]:
    async with on_stage(proxy, bucket, **LARGE) as scene:
        yield scene


@pytest.fixture
async def exact(moto_service: Moto) -> AsyncIterator[Scene]:
    """On a service that knows conditional writes."""
    with FaultProxy(moto_service) as proxy:
        async with on_stage(proxy, moto_service.new_bucket(), **LARGE) as scene:
            yield scene


@pytest.fixture
async def patient(proxy: FaultProxy, bucket: str) -> AsyncIterator[Scene]:
    """One whose time limits run out within a test."""
    async with on_stage(proxy, bucket, connect_timeout=PATIENCE, read_timeout=PATIENCE, **LARGE) as scene:
        yield scene


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(version(1, 1_000_000))
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(version(1, 17 * MIB))
    return path


def operations(scene: Scene) -> list[str]:
    """What was asked, in this order."""
    return [call.operation for call in scene.proxy.log]


async def pieces(body: bytes, *, size: int = 100_000, error: Exception | None = None) -> AsyncGenerator[bytes, None]:
    """A body on its way; at its end comes `error`."""
    for offset in range(0, len(body), size):
        yield body[offset : offset + size]
    if error is not None:
        raise error


# --- small bodies and files ---------------------------------------------------------------------


async def test_a_write_is_one_request(scene: Scene, file: Path) -> None:
    await scene.store.put(PAGE, b"page")
    await scene.store.adopt(KEY, file)
    await scene.store.put("meta/large.json", version(1, 3 * MIB))
    await scene.store.delete(PAGE)
    assert operations(scene) == ["PutObject"] * 3 + ["DeleteObject"]
    assert stored(scene) == {KEY: version(1, 1_000_000), "meta/large.json": version(1, 3 * MIB)}


async def test_s3_a_small_write_is_tried_twice_and_a_file_three_times(scene: Scene, file: Path) -> None:
    fault = scene.proxy.fault(method="PUT", error="SlowDown")
    with pytest.raises(StoreFailure, match="it is overloaded"):
        await scene.store.put(PAGE, b"page")
    assert fault.hits == 2
    scene.clock.advance(0.1)
    with pytest.raises(StoreFailure, match="it is overloaded"):
        await scene.store.adopt(KEY, file)
    assert fault.hits == 5
    assert file.read_bytes() == version(1, 1_000_000)
    assert stored(scene) == {}
    scene.proxy.heal()
    await scene.store.adopt(KEY, file)
    assert stored(scene) == {KEY: version(1, 1_000_000)}
    assert not file.exists()


@pytest.mark.parametrize("fault", [{"reset": True, "times": 3}, {"error": "InternalError", "times": 2}], ids=str)
async def test_a_file_is_sent_again_from_its_start(scene: Scene, file: Path, fault: dict[str, object]) -> None:
    scene.proxy.fault(KEY, **fault)
    await scene.store.adopt(KEY, file)
    assert stored(scene) == {KEY: version(1, 1_000_000)}


async def test_a_refused_write_is_tried_once_and_keeps_the_file(scene: Scene, file: Path) -> None:
    fault = scene.proxy.fault(method="PUT", error="AccessDenied")
    with pytest.raises(StoreFailure, match="the credentials do not allow it"):
        await scene.store.adopt(KEY, file)
    assert fault.hits == 1
    assert file.exists()
    assert scene.counters["store_breaker_opened"] == 0


async def test_check_tells_of_failed_writes_until_one_succeeds(scene: Scene) -> None:
    scene.proxy.fault(method="PUT", error="AccessDenied")
    with pytest.raises(StoreFailure):
        await scene.store.put(PAGE, b"page")
    with pytest.raises(StoreFailure, match="the credentials do not allow it"):
        await scene.store.check()
    scene.proxy.heal()
    await scene.store.check()
    scene.proxy.reset_log()
    await scene.store.check()
    assert [call.operation for call in scene.proxy.log] == ["GetObject"]
    assert stored(scene) == {}


async def test_a_service_that_takes_no_more_costs_one_silence(patient: Scene, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(version(1, 5 * MIB))
    fault = patient.proxy.fault(KEY, method="PUT", hang=True)
    with pytest.raises(StoreFailure, match="no answer within the time allowed"):
        await patient.store.adopt(KEY, path)
    with pytest.raises(StoreFailure, match="left alone"):
        await patient.store.adopt(KEY, path)
    assert fault.hits == 1
    assert path.exists()


async def test_a_folder_cannot_be_adopted(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(StoreFailure):
        await scene.store.adopt(KEY, tmp_path)
    assert scene.counters["store_breaker_opened"] == 0
    assert stored(scene) == {}


# --- in parts -----------------------------------------------------------------------------------


async def test_a_large_file_is_sent_in_parts(scene: Scene, large: Path) -> None:
    await scene.store.adopt(KEY, large)
    assert stored(scene) == {KEY: version(1, 17 * MIB)}
    assert operations(scene) == ["CreateMultipartUpload", *["UploadPart"] * 4, "CompleteMultipartUpload"]
    parts = [call.query["partNumber"] for call in scene.proxy.requests(operation="UploadPart")]
    assert set(parts[:2]) == {"1", "2"}
    assert sorted(parts) == ["1", "2", "3", "4"]
    assert not large.exists()


async def test_a_part_alone_is_sent_again(scene: Scene, large: Path) -> None:
    scene.proxy.fault(operation="UploadPart", skip=1, times=2, error="SlowDown")
    await scene.store.adopt(KEY, large)
    assert stored(scene) == {KEY: version(1, 17 * MIB)}
    assert scene.proxy.calls(operation="UploadPart") == 6


async def test_a_part_that_fails_for_good_leaves_nothing_behind(scene: Scene, large: Path) -> None:
    scene.proxy.fault(operation="UploadPart", skip=2, error="AccessDenied")
    with pytest.raises(StoreFailure, match="the credentials do not allow it"):
        await scene.store.adopt(KEY, large)
    assert scene.proxy.calls(operation="AbortMultipartUpload") == 1
    assert scene.proxy.calls(operation="CompleteMultipartUpload") == 0
    assert stored(scene) == {}
    assert large.exists()


async def test_a_cancelled_upload_leaves_nothing_behind(scene: Scene, large: Path) -> None:
    fault = scene.proxy.fault(operation="UploadPart", skip=1, hang=True)
    upload = asyncio.ensure_future(scene.store.adopt(KEY, large))
    await asyncio.to_thread(scene.proxy.wait_for, lambda: fault.hanging)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert scene.proxy.calls(operation="AbortMultipartUpload") == 1
    assert stored(scene) == {}
    assert large.exists()


async def test_s8_an_error_in_the_guise_of_success_is_an_error(scene: Scene, large: Path) -> None:
    scene.proxy.fault(operation="CompleteMultipartUpload", status=200, error="InternalError")
    with pytest.raises(StoreFailure, match="InternalError"):
        await scene.store.adopt(KEY, large)
    assert scene.proxy.calls(operation="CompleteMultipartUpload") == 2
    assert scene.proxy.calls(operation="AbortMultipartUpload") == 1
    assert stored(scene) == {}
    assert large.exists()


async def test_s8_a_completion_whose_answer_is_lost_counts(patient: Scene, large: Path) -> None:
    patient.proxy.fault(operation="CompleteMultipartUpload", hang_answer=True)
    await patient.store.adopt(KEY, large)
    assert stored(patient) == {KEY: version(1, 17 * MIB)}
    assert patient.proxy.calls(operation="AbortMultipartUpload") == 0


async def test_s8_a_completion_that_was_done_though_it_said_otherwise_counts(scene: Scene, large: Path) -> None:
    scene.proxy.fault(operation="CompleteMultipartUpload", error="InternalError", done=True, times=1)
    await scene.store.adopt(KEY, large)
    assert stored(scene) == {KEY: version(1, 17 * MIB)}


async def test_s8_a_completion_that_was_not_done_does_not_count(patient: Scene, large: Path) -> None:
    patient.proxy.fault(operation="CompleteMultipartUpload", hang=True)
    with pytest.raises(StoreFailure):
        await patient.store.adopt(KEY, large)
    assert stored(patient) == {}
    assert large.exists()


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
@pytest.mark.parametrize("size", [0, 1_000_000, 17 * MIB])
async def test_a_stream_is_stored(moto_service: Moto, size: int, checksums: str) -> None:
    bucket = moto_service.new_bucket()
    with FaultProxy(moto_service) as proxy:
        async with on_stage(proxy, bucket, checksums=checksums, **LARGE) as scene:
            body = version(1, size) if size else b""
            await scene.store.pour(KEY, len(body), pieces(body))
            assert stored(scene) == {KEY: body}


@pytest.mark.parametrize("size", [1_000_000, 17 * MIB])
@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
async def test_a_stream_that_breaks_off_is_not_stored(
    proxy: FaultProxy, bucket: str, size: int, checksums: str
) -> None:
    async with on_stage(proxy, bucket, checksums=checksums, **LARGE) as scene:
        body = version(1, size)
        damaged = IntegrityError("one", "a.whl", "is not what was promised")
        # The very last piece is not sent before it is known to be the last.
        with pytest.raises(IntegrityError) as failure:
            await scene.store.pour(KEY, len(body), pieces(body, error=damaged))
        assert failure.value is damaged
        with pytest.raises(StoreFailure, match="ended 5 bytes early"):
            await scene.store.pour(KEY, len(body) + 5, pieces(body))
        with pytest.raises(StoreFailure, match="longer than was said"):
            await scene.store.pour(KEY, len(body) - 5, pieces(body))
        with pytest.raises(StoreFailure, match="longer than was said"):
            await scene.store.pour(KEY, 100_000, pieces(body))
        with pytest.raises(TimeoutError):  # also what looks like a fault of the service's
            await scene.store.pour(KEY, len(body), pieces(body, error=TimeoutError()))
        assert stored(scene) == {}
        assert scene.counters["store_breaker_opened"] == 0
        assert scene.proxy.calls(operation="CompleteMultipartUpload") == 0


async def test_a_stream_is_closed_whatever_happens(scene: Scene) -> None:
    fault = scene.proxy.fault(KEY, hang=True)
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)
        finally:
            closed.set()

    upload = asyncio.ensure_future(scene.store.pour(KEY, 5 * MIB, endless()))
    await asyncio.to_thread(scene.proxy.wait_for, lambda: fault.hanging)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert closed.is_set()
    unread = pieces(b"body")
    with pytest.raises(ValueError, match="key"):
        await scene.store.pour("../etc", 2000, unread)
    assert [piece async for piece in unread] == []


async def test_a_refusal_in_the_middle_of_a_stream_ends_it(proxy: FaultProxy, bucket: str) -> None:
    """The service answers before it has read the body, whose source goes on for ever."""
    closed = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b"<Error><Code>AccessDenied</Code></Error>"
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await closed.wait()
        writer.close()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            yield b"x" * 1000
            await asyncio.Event().wait()
        finally:
            closed.set()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    options = options_for(proxy, bucket, endpoint_url=url)
    client, tasks = S3Client(options), Tasks(Counters())
    calls = Calls("writes", 1, options, Counters(), MovableClock(), queued=True)
    await client.start()
    try:
        with pytest.raises(StoreFailure, match="the credentials do not allow it"):
            await Writes(Requests(client, options), calls, tasks, options).pour(KEY, 2000, endless())
        assert closed.is_set()
    finally:
        await client.aclose()
        server.close()


async def test_a_slow_stream_is_no_silence_of_the_service(patient: Scene) -> None:
    body = version(1, 1_000_000)

    async def slow() -> AsyncGenerator[bytes, None]:
        yield body[:500_000]
        await asyncio.sleep(1.5 * PATIENCE)
        yield body[500_000:]

    await patient.store.pour(KEY, len(body), slow())
    assert stored(patient) == {KEY: body}


async def test_a_stream_that_fails_underway_is_not_sent_again(scene: Scene) -> None:
    fault = scene.proxy.fault(KEY, error="SlowDown")
    with pytest.raises(StoreFailure, match="overloaded"):
        await scene.store.pour(KEY, 1000, pieces(b"x" * 1000))
    assert fault.hits == 1


# --- conditional writes -------------------------------------------------------------------------


async def test_s10_a_conflict_is_tried_again(exact: Scene) -> None:
    assert exact.store.exact
    exact.proxy.fault(conditional=True, error="ConditionalRequestConflict", times=1)
    assert await exact.store.create(PAGE, b"mine")
    found = await exact.store.reread(PAGE, 100, "")
    fault = exact.proxy.fault(conditional=True, method="PUT", error="ConditionalRequestConflict")
    assert not await exact.store.create(PAGE, b"other")
    assert not await exact.store.replace(PAGE, b"other", "0" * 32)
    assert fault.hits == 6
    with pytest.raises(StoreFailure, match="busy"):
        await exact.store.create("meta/other.json", b"mine")
    with pytest.raises(StoreFailure, match="busy"):
        await exact.store.replace(PAGE, b"other", getattr(found, "version", ""))
    assert stored(exact) == {PAGE: b"mine"}
    assert exact.counters["store_breaker_opened"] == 0


async def test_a_creation_whose_answer_is_lost_counts(exact: Scene) -> None:
    exact.proxy.fault(conditional=True, error="InternalError", done=True, times=1)
    assert await exact.store.create(PAGE, b"mine")
    exact.proxy.fault(conditional=True, error="InternalError", times=1)
    assert not await exact.store.create(PAGE, b"mine")  # the same bytes, by another
    assert stored(exact) == {PAGE: b"mine"}


async def test_a_replacement_whose_answer_is_lost_counts(exact: Scene) -> None:
    await exact.store.put(PAGE, b"first")
    found = await exact.store.reread(PAGE, 100, "")
    assert found is not None
    exact.proxy.fault(conditional=True, error="InternalError", done=True, times=1)
    assert await exact.store.replace(PAGE, b"second", getattr(found, "version", ""))
    assert stored(exact) == {PAGE: b"second"}


async def test_a_conditional_write_into_a_missing_bucket_is_a_failure(exact: Scene) -> None:
    exact.proxy.fault(error="NoSuchBucket")
    with pytest.raises(StoreFailure):
        await exact.store.create(PAGE, b"mine")
    with pytest.raises(StoreFailure):
        await exact.store.replace(PAGE, b"mine", "0")


@pytest.mark.parametrize("error", ["NotImplemented", "InvalidArgument"])
async def test_s9_a_service_that_refuses_conditions_is_not_exact(moto_service: Moto, error: str) -> None:
    with FaultProxy(moto_service) as proxy:
        proxy.fault(method="PUT", conditional=True, error=error, status=501 if error == "NotImplemented" else 400)
        async with on_stage(proxy, moto_service.new_bucket()) as scene:
            assert not scene.store.exact
            assert await scene.store.create(PAGE, b"first")
            assert not await scene.store.create(PAGE, b"second")
            found = await scene.store.reread(PAGE, 100, "")
            assert await scene.store.replace(PAGE, b"third", getattr(found, "version", ""))
            assert not await scene.store.replace(PAGE, b"fourth", getattr(found, "version", ""))
            assert stored(scene) == {PAGE: b"third"}


# --- out of service -----------------------------------------------------------------------------


async def test_an_object_that_cannot_be_copied_stays(scene: Scene) -> None:
    await scene.store.put(PAGE, b"damaged")
    scene.proxy.fault(operation="CopyObject", status=200, error="InternalError")
    with pytest.raises(StoreFailure):
        await scene.store.quarantine(PAGE)
    assert stored(scene) == {PAGE: b"damaged"}
    assert await body_of(await scene.store.open(PAGE)) == b"damaged"
