"""The signer is compared with botocore's own, character by character."""

from __future__ import annotations

import time
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.adapters.s3.signing import QuerySigner

NOW = 1_700_000_000.0
BASES = [
    "https://bucket.s3.eu-central-1.amazonaws.com/",
    "https://s3.example.com:443/bucket/",
    "https://s3.example.com:9000/bucket/",
    "http://127.0.0.1:80/bucket/",
    "http://127.0.0.1:8091/my.bucket/",
    "http://[::1]:8091/bucket/",
    "http://S3.example.com/below/bucket/",
]
KEYS = [
    "files/pypi/ac/f3/requests/requests-2.32.3-py3-none-any.whl",
    "mirror/local/a/x+1.0~rc=1,2@3!-_é.whl",
    "a b/%2F/ü/~!'()*;:@&=+$,?#[].json",
    "x",
]
TOKENS = [None, "a+/=token?&%20é"]


class _At(S3SigV4QueryAuth):  # type: ignore[misc] # botocore has no types
    """Signs at the given moment."""

    def __init__(self, *args: object, now: float, **more: object) -> None:
        super().__init__(*args, **more)
        self._moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))

    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        request.context["timestamp"] = self._moment
        super()._modify_request_before_signing(request)


def botocore_query(url: str, token: str | None, secret: str, lifetime: int, now: float) -> dict[str, str]:
    """The query that botocore signs; `url` has no signature, but perhaps parameters."""
    request = AWSRequest("GET", url)
    credentials = Credentials("AKIDEXAMPLE/+", secret, token)
    _At(credentials, "s3", "eu-central-1", expires=lifetime, now=now).add_auth(request)
    return dict(parse_qsl(urlsplit(request.url).query, keep_blank_values=True))


def compare(base: str, key: str, token: str | None, **fields: str) -> None:
    keys = ReadOnlyCredentials("AKIDEXAMPLE/+", "secret", token)
    more = {name.replace("_", "-"): value for name, value in fields.items()}
    url = QuerySigner(base, "eu-central-1").url(key, keys, now=NOW, lifetime=300, fields=more)
    bare = url.partition("?")[0]
    rest = url.rpartition("X-Amz-SignedHeaders=host")[2].partition("&X-Amz-Signature=")[0].removeprefix("&")
    theirs = botocore_query(f"{bare}?{rest}" if rest else bare, token, "secret", 300, NOW)
    assert dict(parse_qsl(urlsplit(url).query, keep_blank_values=True)) == theirs


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("base", BASES)
def test_it_signs_as_botocore_does(base: str, key: str, token: str | None) -> None:
    compare(base, key, token)


@given(key=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None, database=None)
def test_it_signs_any_key_as_botocore_does(key: str) -> None:
    compare(BASES[2], key, None)


def test_more_parameters_are_signed() -> None:
    compare(BASES[0], KEYS[0], "token", response_content_disposition='attachment; filename="a b+ü.whl"')


def test_the_day_key_follows_the_date_and_the_secret() -> None:
    signer = QuerySigner(BASES[0], "eu-central-1")
    moments = [
        ("one", NOW),
        ("two", NOW),
        ("two", NOW + 86_400),
        ("one", NOW + 86_400),
        ("one", NOW + 86_401),
    ]
    for secret, now in moments:
        keys = ReadOnlyCredentials("AKIDEXAMPLE/+", secret, None)
        url = signer.url("a.json", keys, now=now, lifetime=60)
        assert dict(parse_qsl(urlsplit(url).query)) == botocore_query(url.partition("?")[0], None, secret, 60, now)
