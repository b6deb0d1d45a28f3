"""How an object store is spoken to: addresses, credentials, encryption, certificates; and what is told to nobody."""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import pytest
import trustme
from aiohttp import web
from structlog.testing import capture_logs

from mirror.adapters.s3.client import S3Client
from mirror.adapters.s3.options import S3Options
from mirror.adapters.s3.store import S3Store
from mirror.adapters.system_clock import SystemClock
from mirror.counters import Counters
from mirror.errors import StartError, StoreFailure
from mirror.model import Blob
from tests.adapters.s3_scene import KEY, PAGE, on_stage, options_for
from tests.support.objects import version
from tests.support.s3.proxy import FaultProxy
from tests.support.s3.services import Moto, Rclone

MIB = 2**20


@pytest.fixture
def proxy(moto_service: Moto) -> Iterator[FaultProxy]:
    with FaultProxy(moto_service) as proxy:
        yield proxy


@pytest.fixture
def bucket(moto_service: Moto) -> str:
    return moto_service.new_bucket()


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


# --- addresses ----------------------------------------------------------------------------------


async def address(**options: Any) -> str:
    """Where the object `x` is."""
    client = S3Client(S3Options(bucket="my-bucket", access_key_id="key", secret_access_key="secret", **options))
    await client.start()
    try:
        return (await client.url("x", lifetime=60)).partition("?")[0]
    finally:
        await client.aclose()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"region": "eu-central-1"}, "https://my-bucket.s3.eu-central-1.amazonaws.com/x"),
        ({"region": "eu-central-1", "addressing": "path"}, "https://s3.eu-central-1.amazonaws.com/my-bucket/x"),
        ({"endpoint_url": "https://s3.example.com/"}, "https://s3.example.com/my-bucket/x"),
        (
            {"endpoint_url": "https://s3.example.com:9000/", "prefix": "a/b/"},
            "https://s3.example.com:9000/my-bucket/a/b/x",
        ),
        ({"endpoint_url": "https://s3.example.com/", "addressing": "virtual"}, "https://my-bucket.s3.example.com/x"),
        (
            {"region": "eu-central-1", "client_options": {"s3": {"use_dualstack_endpoint": True}}},
            "https://my-bucket.s3.dualstack.eu-central-1.amazonaws.com/x",
        ),
    ],
    ids=str,
)
async def test_k10_addresses(options: dict[str, Any], expected: str) -> None:
    assert await address(**options) == expected


async def test_k12_the_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://all.example.com")
    assert await address() == "https://all.example.com/my-bucket/x"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.com")
    assert await address() == "https://s3.example.com/my-bucket/x"
    assert await address(endpoint_url="https://own.example.com/") == "https://own.example.com/my-bucket/x"


async def test_k11_the_region_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert "eu-west-1" in await address()
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert "eu-north-1" in await address()
    assert "eu-south-1" in await address(region="eu-south-1")


# --- what is sent -------------------------------------------------------------------------------


async def write_everything(store: S3Store, tmp_path: Path) -> None:
    """Every kind of write."""
    await store.put(PAGE, b"page")
    await store.put("meta/large.json", version(1, 2 * MIB))
    await store.create("leases/a", b"a")
    found = await store.reread("leases/a", 10, "")
    assert isinstance(found, Blob)
    await store.replace("leases/a", b"b", found.version)
    for name, size in (("small", 1000), ("large", 7 * MIB)):
        path = tmp_path / name
        path.write_bytes(b"x" * size)
        await store.adopt(f"{KEY}.{name}.whl", path)
    await store.pour(KEY, 4, _body())
    await store.put(KEY + ".metadata", b"metadata")
    await store.quarantine(KEY)


async def _body() -> AsyncGenerator[bytes, None]:
    yield b"body"


WRITES = {"PutObject", "CopyObject", "CreateMultipartUpload"}


async def test_k10_no_checksums_and_no_chunks_unless_asked_for(proxy: FaultProxy, bucket: str, tmp_path: Path) -> None:
    async with on_stage(proxy, bucket, multipart_threshold=6 * MIB, part_size=5 * MIB) as scene:
        await write_everything(scene.store, tmp_path)
    assert {call.operation for call in proxy.log} > WRITES
    for call in proxy.log:
        assert not [name for name in call.headers if "checksum" in name or name in ("x-amz-trailer", "expect")]
        assert "aws-chunked" not in call.headers.get("content-encoding", "")
        assert "transfer-encoding" not in call.headers


async def test_checksums_where_they_are_asked_for(proxy: FaultProxy, bucket: str, tmp_path: Path) -> None:
    async with on_stage(
        proxy, bucket, multipart_threshold=6 * MIB, part_size=5 * MIB, checksums="when_supported"
    ) as scene:
        await write_everything(scene.store, tmp_path)
    bodies = [call for call in proxy.log if call.operation in ("PutObject", "UploadPart")]
    assert bodies
    assert all("x-amz-checksum-crc32" in call.headers for call in bodies)


@pytest.mark.parametrize("key", [None, "arn:aws:kms:eu-central-1:111122223333:key/example"])
async def test_every_write_asks_for_encryption(proxy: FaultProxy, bucket: str, tmp_path: Path, key: str | None) -> None:
    async with on_stage(
        proxy, bucket, sse="aws:kms", sse_kms_key_id=key, multipart_threshold=6 * MIB, part_size=5 * MIB
    ) as scene:
        await write_everything(scene.store, tmp_path)
    writes = [call for call in proxy.log if call.operation in WRITES]
    assert {call.operation for call in writes} == WRITES
    for call in writes:
        assert call.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert call.headers["x-amz-server-side-encryption-bucket-key-enabled"] == "true"
        assert call.headers.get("x-amz-server-side-encryption-aws-kms-key-id") == key


async def test_only_archives_have_the_storage_class(proxy: FaultProxy, bucket: str, tmp_path: Path) -> None:
    async with on_stage(
        proxy, bucket, storage_class="STANDARD_IA", multipart_threshold=6 * MIB, part_size=5 * MIB
    ) as scene:
        await write_everything(scene.store, tmp_path)
    classes = {
        call.key: call.headers.get("x-amz-storage-class")
        for call in proxy.log
        if call.operation in ("PutObject", "CreateMultipartUpload")
    }
    assert classes == {
        PAGE: None,
        "meta/large.json": None,
        "leases/a": None,
        f"{KEY}.small.whl": "STANDARD_IA",
        f"{KEY}.large.whl": "STANDARD_IA",
        KEY: "STANDARD_IA",
        f"{KEY}.metadata": None,
    }


async def test_c06_more_options_reach_the_library(proxy: FaultProxy, bucket: str) -> None:
    more = {"proxies": {}, "user_agent_extra": "hello/1"}
    async with on_stage(proxy, bucket, client_options=more) as scene:
        await scene.store.put(PAGE, b"page")
    assert "hello/1" in proxy.log[-1].headers["user-agent"]


async def test_requests_go_through_the_configured_proxy(rclone_service: Rclone) -> None:
    """The address of the service is one that nobody but the proxy knows."""
    seen: list[str] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n")
        method, target, _ = head.split(b" ", 2)
        seen.append(urlsplit(target.decode()).hostname or "")
        rest = urlsplit(target.decode())._replace(scheme="", netloc="").geturl().encode()
        await _tunnel(reader, writer, rclone_service.port, method + b" " + rest + b" HTTP/1.1\r\nConnection: close\r\n")

    async with _listening(relay) as port:
        options = options_for(
            rclone_service,
            rclone_service.new_bucket(),
            endpoint_url="http://s3.example.invalid/",
            client_options={"proxies": {"http": f"http://user:password@127.0.0.1:{port}"}},
        )
        store = S3Store(options, Counters(), SystemClock())
        await store.start()
        await store.put(PAGE, b"page")
        assert await store.read(PAGE, 100) == b"page"
        await store.aclose()
    assert set(seen) == {"s3.example.invalid"}


# --- signed URLs --------------------------------------------------------------------------------


def fetched(url: str) -> bytes:
    """The body of an answer to somebody who knows nothing but the URL."""
    with urlopen(url) as answer:
        body: bytes = answer.read()
        return body


async def test_a_presigned_url_gives_the_object(rclone_service: Rclone) -> None:
    with FaultProxy(rclone_service) as proxy:
        async with on_stage(proxy, rclone_service.new_bucket(), prefix="below/") as scene:
            await scene.store.put(KEY, b"wheel")
            for filename in (KEY.rpartition("/")[2], "other+name.whl"):
                redirect = await scene.store.presigned(KEY, filename)
                assert redirect is not None
                query = parse_qs(urlsplit(redirect.url).query)
                assert query["X-Amz-Expires"] == ["300"]
                assert ("response-content-disposition" in query) == (filename == "other+name.whl")
                assert await asyncio.to_thread(fetched, redirect.url) == b"wheel"
            assert await scene.store.presigned("files/absent.whl", "absent.whl") is not None


async def test_nobody_is_sent_to_a_service_that_is_down(proxy: FaultProxy, bucket: str) -> None:
    async with on_stage(proxy, bucket, connect_timeout=1, read_timeout=1) as scene:
        proxy.fault(hang=True)
        with pytest.raises(StoreFailure):
            await scene.store.read(PAGE, 1)
        assert await scene.store.presigned(KEY, "a.whl") is None


# --- credentials --------------------------------------------------------------------------------


@asynccontextmanager
async def token_service(lifetime: timedelta) -> AsyncIterator[tuple[str, list[str]]]:
    """A service that exchanges web identities for keys; its address, and the identities that it was shown."""
    shown: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        fields = await request.post()
        shown.append(str(fields["WebIdentityToken"]))
        expires = datetime.now(UTC) + lifetime
        return web.Response(
            content_type="text/xml",
            text=f"""<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
              <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>KEY{len(shown)}</AccessKeyId>
              <SecretAccessKey>secret</SecretAccessKey><SessionToken>session+token/{len(shown)}</SessionToken>
              <Expiration>{expires:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>
              </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>""",
        )

    application = web.Application()
    application.router.add_post("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}", shown
    finally:
        await runner.cleanup()


async def test_k14_web_identity_is_exchanged_anew_before_its_keys_expire(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = tmp_path / "token"
    identity.write_text("first identity")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/mirror")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(identity))
    # Keys that are about to expire: every use exchanges them.
    async with token_service(timedelta(minutes=1)) as (address, shown):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", address)
        async with on_stage(proxy, bucket, access_key_id=None, secret_access_key=None) as scene:
            await scene.store.put(PAGE, b"page")
            identity.write_text("second identity")
            assert await scene.store.read(PAGE, 100) == b"page"
            query = proxy.log[-1].query
            assert query["X-Amz-Credential"].startswith("KEY")
            assert query["X-Amz-Security-Token"] == f"session+token/{len(shown)}"
            assert shown[0] == "first identity"
            assert shown[-1] == "second identity"


async def test_keys_that_cannot_be_renewed_are_a_failure(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = tmp_path / "token"
    identity.write_text("identity")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/mirror")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(identity))
    async with token_service(timedelta(seconds=-1)) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", address)
        # What has expired before it came: the service's clock is wrong, or ours.
        async with on_stage(proxy, bucket, access_key_id=None, secret_access_key=None) as scene:
            with pytest.raises(StoreFailure, match="fresh credentials could not be had"):
                await scene.store.read(PAGE, 100)
            assert await scene.store.presigned(KEY, "a.whl") is None


# --- certificates -------------------------------------------------------------------------------


@asynccontextmanager
async def _listening(serve: Any, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, first: bytes = b"") -> None:
    """Passes everything on to `port` and back."""
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    inner_writer.write(first)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(65536):
                sink.write(piece)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))


@pytest.mark.parametrize("signed", [True, False])
async def test_k41_own_certificates(
    moto_service: Moto, proxy: FaultProxy, bucket: str, tmp_path: Path, signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _tunnel(reader, writer, moto_service.port)

    async with _listening(serve, context) as port:
        options = {"endpoint_url": f"https://127.0.0.1:{port}/", "signed_reads": signed}
        for trusted, more in ((True, {"ca_bundle": bundle}), (False, {})):
            store = S3Store(options_for(proxy, bucket, **options, **more), Counters(), SystemClock())
            await store.start()
            try:
                if trusted:
                    await store.put(PAGE, version(1, 2 * MIB))
                    assert await store.read(PAGE, 3 * MIB) == version(1, 2 * MIB)
                else:
                    with pytest.raises(StoreFailure, match="the certificate is not trusted"):
                        await store.read(PAGE, 100)
            finally:
                await store.aclose()


async def test_certificates_that_cannot_be_read(proxy: FaultProxy, bucket: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for path in (empty, tmp_path / "absent.pem"):
        store = S3Store(options_for(proxy, bucket, ca_bundle=path), Counters(), SystemClock())
        with pytest.raises(StartError, match="certificates"):
            await store.start()


# --- what is told to nobody ---------------------------------------------------------------------


SECRETS = ("hush-hush-secret", "hush-hush-token", "hush-hush-password", "X-Amz-Signature", "X-Amz-Credential")


@pytest.mark.parametrize(
    "fault",
    [
        {"error": "AccessDenied"},
        {"error": "SignatureDoesNotMatch"},
        {"error": "SlowDown"},
        {"reset": True},
        {"status": 302, "headers": {"Location": "http://127.0.0.1:1/?X-Amz-Signature=1"}},
        {"status": 200, "body": b"<html>"},
        {"status": 400, "headers": {"Content-Length": "x"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("signed", [True, False])
async def test_secrets_are_told_to_nobody(proxy: FaultProxy, bucket: str, fault: dict[str, Any], signed: bool) -> None:
    options = {"secret_access_key": SECRETS[0], "session_token": SECRETS[1], "signed_reads": signed}
    told = []
    with capture_logs() as logs:
        async with on_stage(proxy, bucket, **options) as scene:
            proxy.fault(**fault)
            for call in (
                lambda: scene.store.read(PAGE, 1),
                lambda: scene.store.open(KEY),
                lambda: scene.store.put(PAGE, b"page"),
                lambda: scene.store.put(PAGE, b"x" * MIB),
                lambda: scene.store.create(PAGE, b"page"),
                lambda: scene.store.check(),
            ):
                with pytest.raises(StoreFailure) as failure:
                    await call()
                told.append("".join(traceback.format_exception(failure.value)))
                scene.clock.advance(60)
    more = {"proxies": {"http": f"http://user:{SECRETS[2]}@127.0.0.1:1"}}
    told += [str(logs), repr(options_for(proxy, bucket, **options, client_options=more))]
    for text in told:
        assert not [secret for secret in SECRETS if secret in text]
