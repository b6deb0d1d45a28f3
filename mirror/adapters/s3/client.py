"""The connection to an object store: the AWS library's client, its credentials, and a session for signed reads."""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import UNSIGNED
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, NoCredentialsError
from botocore.httpsession import mask_proxy_url
from botocore.loaders import Loader, create_loader
from botocore.utils import get_environ_proxies
from yarl import URL

from mirror import __version__
from mirror.adapters.s3.failures import are_expired_keys
from mirror.adapters.s3.options import S3Options
from mirror.adapters.s3.signing import QuerySigner
from mirror.errors import StartError, printable

_CHOOSE_SIGNER: Final = "choose-signer.s3.GetObject"
_READ_BUFFER: Final = 256 * 1024
_KEEP_ALIVE: Final = 15.0
"""Seconds; services close what has been idle for twenty and more."""
_NO_FIELDS: Final[Mapping[str, str]] = {}


class S3Client:
    """What modules beside this one speak to the service with. `start` raises `StartError`."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._exits = AsyncExitStack()
        self._session: AioSession | None = None
        self._own_keys = (
            ReadOnlyCredentials(options.access_key_id, options.secret_access_key, options.session_token)
            if options.access_key_id
            else None
        )

    async def start(self) -> None:
        """Makes the client, which blocks the loop for a tenth of a second: never while requests are answered."""
        try:
            await self._start()
        except (BotoCoreError, TypeError, ValueError) as error:
            raise StartError(f"The object store's client cannot be made: {printable(str(error), 300)}.") from error

    async def _start(self) -> None:
        options = self._options
        self._session = session = AioSession()
        session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
        endpoint = options.endpoint_url or _configured_endpoint(session)
        region = options.region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
        if not region and not endpoint:
            raise StartError("The region of the bucket is unknown: set s3-region (MIRROR_S3_REGION) or AWS_REGION.")
        bundle = options.ca_bundle or session.get_config_variable("ca_bundle")
        trust = await _trust(str(bundle) if bundle else None)
        self._api = await self._exits.enter_async_context(
            session.create_client(
                "s3",
                region_name=region or "us-east-1",
                endpoint_url=endpoint.rstrip("/") if endpoint else None,
                aws_access_key_id=options.access_key_id,
                aws_secret_access_key=options.secret_access_key,
                aws_session_token=options.session_token,
                verify=str(bundle) if bundle else ssl.get_default_verify_paths().cafile,
                config=_config(options, bool(endpoint)),
            )
        )
        self._api.meta.events.register_last("before-call.s3", _plainly)
        base = await self._base_url()
        self._signer = QuerySigner(base, self._api.meta.region_name)
        self._proxy = _proxy(base, self._api.meta.config.proxies)
        self._http = await self._exits.enter_async_context(
            aiohttp.ClientSession(
                # No limit here: turns are the limit, and waiting for one does not count as connecting.
                connector=aiohttp.TCPConnector(limit=0, ssl=trust, keepalive_timeout=_KEEP_ALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"mirror/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None, connect=options.connect_timeout),
                auto_decompress=False,
                read_bufsize=_READ_BUFFER,
                trust_env=False,
            )
        )

    async def aclose(self) -> None:
        """Closes every connection, also those in use."""
        await self._exits.aclose()

    @property
    def api(self) -> Any:
        """aiobotocore's client. It tries everything once: retries are our own."""
        return self._api

    @property
    def endpoint(self) -> str:
        """The service's address, fit for a log."""
        return str(mask_proxy_url(self._api.meta.endpoint_url))

    @property
    def region(self) -> str:
        return str(self._api.meta.region_name)

    @property
    def names(self) -> dict[str, str]:
        """The parameters that every call of `api` has."""
        return {"Bucket": self._options.bucket}

    def full_key(self, key: str) -> str:
        """The key in the bucket of the object that this mirror calls `key`."""
        return self._options.prefix + key

    async def url(self, key: str, *, lifetime: int, fields: Mapping[str, str] = _NO_FIELDS) -> str:
        """A URL that is good for one GET of the object `key`; see `QuerySigner.url`. It is a secret.

        Raises `BotoCoreError` where there are no credentials. They are asked for each time, because they are
        exchanged behind our back before they expire.
        """
        # The real time, as botocore takes it, since the service compares it with its own.
        keys = await self._keys()
        return self._signer.url(self.full_key(key), keys, now=time.time(), lifetime=lifetime, fields=fields)

    async def get(self, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The head of the answer to a signed URL; the caller reads the body to its end or closes it."""
        return await self._http.get(URL(url, encoded=True), headers=headers, allow_redirects=False, proxy=self._proxy)

    async def _keys(self) -> ReadOnlyCredentials:
        if self._own_keys is not None:
            return self._own_keys
        assert self._session is not None
        found = await self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        try:
            return await found.get_frozen_credentials()
        except RuntimeError as error:
            if not are_expired_keys(error):
                raise
            raise CredentialRetrievalError(provider=found.method, error_msg="they have expired") from error

    async def _base_url(self) -> str:
        """What botocore makes of endpoint, region, addressing style and bucket, ending in a slash."""
        events = self._api.meta.events
        events.register_first(_CHOOSE_SIGNER, _unsigned, unique_id=_CHOOSE_SIGNER)
        try:
            url = await self._api.generate_presigned_url("get_object", Params={**self.names, "Key": "x"})
        finally:
            events.unregister(_CHOOSE_SIGNER, unique_id=_CHOOSE_SIGNER)
        return str(url).removesuffix("x")


@functools.cache
def _loader(data_path: str | None) -> Loader:
    """What reads botocore's descriptions of services, and keeps what it has read: half the time that a client takes."""
    return create_loader(data_path)


def _plainly(params: dict[str, Any], **_: object) -> None:
    """Takes from a request what botocore adds for its own kinds of retry."""
    # aiohttp waits without end for a leave to send that a service which refuses at once does not give.
    params["headers"].pop("Expect", None)
    # It would look for the bucket's region, each time anew, and without end where the search is redirected, too.
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _unsigned(**_: object) -> object:
    return UNSIGNED


async def _trust(bundle: str | None) -> ssl.SSLContext:
    try:
        return await asyncio.to_thread(ssl.create_default_context, cafile=bundle)
    except OSError as error:  # SSLError is one
        why = error.strerror or "no certificate in it"
        raise StartError(f"Cannot read the certificates in {bundle}: {why}.") from error


def _configured_endpoint(session: AioSession) -> str | None:
    """What AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and the profile say, which decides of the addressing style too."""
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    found = ConfiguredEndpointProvider(
        full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
    ).provide()
    return str(found) if found else None


def _config(options: S3Options, has_own_endpoint: bool) -> AioConfig:
    style = options.addressing
    if style == "auto":
        style = "path" if has_own_endpoint else "virtual"
    wanted = dict(options.client_options)
    if not isinstance(s3 := wanted.pop("s3", {}), Mapping):
        raise StartError('s3-client-options: "s3" is no object.')
    ours: dict[str, Any] = {
        "signature_version": "s3v4",
        "connect_timeout": options.connect_timeout,
        "read_timeout": options.read_timeout,
        "max_pool_connections": options.max_connections,
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "parameter_validation": False,  # it would refuse bodies that are streamed
        "request_checksum_calculation": options.checksums,
        "response_checksum_validation": options.checksums,
        "tcp_keepalive": True,
        "user_agent_extra": f"mirror/{__version__}",
    }
    # Without payload signing a body can be streamed; over http botocore would hash it first, in the event loop.
    return AioConfig(**{**ours, **wanted}, s3={"addressing_style": style, "payload_signing_enabled": False, **s3})


def _proxy(base_url: str, configured: Mapping[str, str] | None) -> str | None:
    """The proxy of requests to `base_url`, chosen as botocore does."""
    proxies = get_environ_proxies(base_url) if configured is None else configured
    found = proxies.get(urlsplit(base_url).scheme)
    if not found:
        return None
    return found if "://" in found else f"http://{found}"
