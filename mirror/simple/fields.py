"""Check the optional facts of a file entry, whichever form of page they come from."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

HEX_LENGTHS: Final = {
    "md5": 32,
    "sha1": 40,
    "sha224": 56,
    "sha256": 64,
    "sha384": 96,
    "sha512": 128,
    "sha3_224": 56,
    "sha3_256": 64,
    "sha3_384": 96,
    "sha3_512": 128,
    "blake2s": 64,
    "blake2b": 128,
    "blake2b_256": 64,
}
"""Hex digits of a digest, by algorithm."""
_API_1 = re.compile(r"0*1(?:\.\d{1,9})?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEX = re.compile(r"(?:[0-9a-f]{2}){16,128}")
_ALGORITHM = re.compile(r"[a-z][a-z0-9_]{1,31}")
_UPLOAD_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)
_HTTPS = re.compile(r"https://[A-Za-z0-9\[][A-Za-z0-9._~:/?#\[\]!$&'()*+,;=%-]*")
MAX_SIZE = 2**53 - 1
"""The largest integer that every JSON reader keeps (RFC 8259 §6)."""


def is_api_1(version: str) -> bool:
    """Whether `version` is an API version 1.x, which is what is understood here (PEP 629)."""
    return _API_1.fullmatch(version.strip()) is not None


def clean_hashes(given: dict[Any, Any]) -> dict[str, str]:
    """Those of `given` that look like digests: known algorithms at their length, others as whole bytes of hex."""
    if len(given) == 1 and type(value := given.get("sha256")) is str and _SHA256.fullmatch(value):
        return given
    found: dict[str, str] = {}
    for name, value in given.items():
        if type(name) is not str or type(value) is not str:
            continue
        algorithm, digits = name.lower(), value.lower()
        length = HEX_LENGTHS.get(algorithm, len(digits))
        if len(digits) == length and _ALGORITHM.fullmatch(algorithm) and _HEX.fullmatch(digits):
            found.setdefault(algorithm, digits)
    return found


def clean_upload_time(given: object) -> str | None:
    """`given` if it is a real moment in PEP 700's form, unchanged."""
    if type(given) is not str or not _UPLOAD_TIME.fullmatch(given):
        return None
    try:
        datetime.fromisoformat(given[:19])
    except ValueError:  # the 30th of February; a leap second, which the installers' parsers refuse as well
        return None
    return given


def clean_size(given: object) -> int | None:
    """`given` if it is a number of bytes."""
    return given if type(given) is int and 0 <= given <= MAX_SIZE else None


def clean_provenance(given: object) -> str | None:
    """`given` if it is an absolute https URL without credentials (PEP 740)."""
    return given if type(given) is str and _HTTPS.fullmatch(given) else None


def metadata_from_json(given: object) -> bool | dict[str, str]:
    """`core-metadata` of a JSON entry (PEP 714): only sha256 is kept, any other object of hashes means True."""
    if type(given) is dict:
        sha256 = clean_hashes(given).get("sha256")
        return {"sha256": sha256} if sha256 else True
    return given is True


def metadata_from_html(given: str) -> bool | dict[str, str]:
    """`data-core-metadata` of an anchor (PEP 714): `true`, or `<algorithm>=<hex>`."""
    algorithm, equals, value = given.strip().partition("=")
    if equals:
        return metadata_from_json({algorithm: value}) if clean_hashes({algorithm: value}) else False
    return algorithm.lower() == "true"
