"""Signs GET requests in their query (AWS Signature Version 4), at a twentieth of what the AWS library takes for it.

The bucket's address is botocore's, so that addressing styles, regions and endpoints are none of our business; what is
ours is the arithmetic, which is compared with botocore's own signer by the tests.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import quote, urlsplit

_BARE: Final = "-_.~"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NO_FIELDS: Final[Mapping[str, str]] = {}


class Keys(Protocol):
    """Frozen credentials, as botocore gives them."""

    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def token(self) -> str | None: ...


class QuerySigner:
    """Makes URLs that are good for one GET (with any Range and conditions) until they expire."""

    def __init__(self, base_url: str, region: str) -> None:
        """`base_url`: what a key is appended to, ending in a slash, percent-encoded."""
        parts = urlsplit(base_url)
        port = parts.port
        host = (parts.netloc.rpartition("@")[2]).lower()
        if port is not None and port == _DEFAULT_PORTS.get(parts.scheme):
            host = host.rpartition(":")[0]
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._path = parts.path
        self._headers = f"host:{host}\n\nhost\nUNSIGNED-PAYLOAD"
        self._region = region
        self._day = ("", "")
        """The date and the secret that `_day_key` was made of."""
        self._day_key = b""

    def url(self, key: str, keys: Keys, *, now: float, lifetime: int, fields: Mapping[str, str] = _NO_FIELDS) -> str:
        """The URL of the object `key`, percent-encoded, good for `lifetime` seconds from `now` (since the epoch).

        `fields` are further parameters of the query; they sort after those of the signature (`response-…` do).
        """
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        date = moment[:8]
        scope = f"{date}/{self._region}/s3/aws4_request"
        path = self._path + quote(key, safe="/" + _BARE)
        query = (
            f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={quote(f'{keys.access_key}/{scope}', safe=_BARE)}"
            f"&X-Amz-Date={moment}&X-Amz-Expires={lifetime}"
        )
        if keys.token:
            query += f"&X-Amz-Security-Token={quote(keys.token, safe=_BARE)}"
        query += "&X-Amz-SignedHeaders=host"
        for name, value in sorted(fields.items()):
            query += f"&{quote(name, safe=_BARE)}={quote(value, safe=_BARE)}"
        request = hashlib.sha256(f"GET\n{path}\n{query}\n{self._headers}".encode()).hexdigest()
        signed = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{request}"
        signature = hmac.digest(self._key(date, keys.secret_key), signed.encode(), "sha256").hex()
        return f"{self._origin}{path}?{query}&X-Amz-Signature={signature}"

    def _key(self, date: str, secret: str) -> bytes:
        if self._day != (date, secret):
            key = f"AWS4{secret}".encode()
            for word in (date, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            self._day, self._day_key = (date, secret), key
        return self._day_key
