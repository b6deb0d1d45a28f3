"""What a store in an S3-compatible service is: its bucket, its address, its limits, its credentials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from mirror.errors import ConfigError

_MIB: Final = 2**20
_MANY_PARTS: Final = 9_000
"""S3 takes 10,000 parts of one upload."""


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """Settings of one store. Durations are seconds, sizes bytes; the settings that begin with `s3_` tell more.

    Raises `ConfigError` for an access key without its secret, or a secret without its key.
    """

    bucket: str
    prefix: str = ""
    """What every key begins with: empty, or segments that each end in a slash."""
    endpoint_url: str | None = None
    region: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    access_key_id: str | None = None
    """None: the usual places of the AWS tools are asked."""
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    ca_bundle: Path | None = None
    """Certificates (PEM) trusted in place of the system's."""
    sse: Literal["none", "AES256", "aws:kms"] = "none"
    sse_kms_key_id: str | None = None
    bucket_key: bool = True
    storage_class: str | None = None
    """Of archives."""
    checksums: Literal["when_required", "when_supported"] = "when_required"
    signed_reads: bool = True
    """False: objects are read through the AWS library."""
    connect_timeout: float = 2.0
    read_timeout: float = 10.0
    """For the head of an answer, and for any silence in the middle of a body, either way."""
    max_connections: int = 64
    client_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """More arguments for botocore's Config; they may hold a proxy's password."""

    multipart_threshold: int = 256 * _MIB
    """Files larger than this are uploaded in parts."""
    part_size: int = 16 * _MIB
    """At least 5 MiB, which is S3's own least."""
    largest_put: int = 4096 * _MIB
    """What is sent in one request at most; S3 takes 5 GiB."""
    tries: int = 2
    """For one request; a file is sent up to once more often, a body on its way only once."""
    retry_wait: float = 0.1
    """Before the first repetition; each further one waits twice as long, and up to three times this by chance."""
    breaker_first_pause: float = 5.0
    breaker_longest_pause: float = 60.0

    def __post_init__(self) -> None:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ConfigError("s3-access-key-id and s3-secret-access-key belong together: give both, or neither")

    @property
    def where(self) -> str:
        """The place, as messages name it."""
        return f"the bucket {self.bucket}" + (f" below {self.prefix}" if self.prefix else "")

    def part_size_for(self, size: int) -> int:
        """The size of the parts in which an object of `size` bytes is sent, so that they are not too many."""
        return max(self.part_size, -(-size // _MANY_PARTS))
