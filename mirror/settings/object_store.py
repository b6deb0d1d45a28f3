"""The settings of a store in an S3-compatible service."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from mirror.settings.definition import setting
from mirror.settings.kinds import Choice, Count, Duration, Switch, Text
from mirror.settings.places import BucketName, FilePath, JsonObject, KeyPrefix, Network, Url

GROUP = "S3"


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """What `storage = s3` needs; keys and region may also come from where the AWS tools look for them."""

    s3_bucket: str | None = setting(
        GROUP,
        BucketName(),
        None,
        "The bucket. It has to exist: `mirror store init` makes one.",
        example="packages",
    )
    s3_prefix: str = setting(
        GROUP,
        KeyPrefix(),
        "",
        "What the keys of this mirror begin with, so that several mirrors can share a bucket. Replicas of one mirror "
        "have the same prefix.",
        example="mirror/",
    )
    s3_endpoint_url: str | None = setting(
        GROUP,
        Url(),
        None,
        "The address of the service, where it is not Amazon's; AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL count too.",
        example="https://s3.example.com/",
    )
    s3_region: str | None = setting(
        GROUP,
        Text(),
        None,
        "The region of the bucket; AWS_REGION, AWS_DEFAULT_REGION and the AWS profile count too. With an endpoint of "
        "its own and no region it is us-east-1, which most other services expect.",
        example="eu-central-1",
    )
    s3_addressing: Literal["auto", "path", "virtual"] = setting(
        GROUP,
        Choice(("auto", "path", "virtual")),
        "auto",
        "Whether the bucket's name is a part of the path or of the host's name; auto is path with an endpoint of its "
        "own, and virtual at Amazon.",
        example="path",
    )
    s3_access_key_id: str | None = setting(
        GROUP,
        Text(),
        None,
        "The access key. Without it the usual places of the AWS tools are asked: environment, shared files and "
        "profiles, web identity, container and instance roles.",
        example="AKIAIOSFODNN7EXAMPLE",
        flag=False,
    )
    s3_secret_access_key: str | None = setting(
        GROUP, Text(), None, "The secret that belongs to s3-access-key-id.", example="", flag=False, secret=True
    )
    s3_session_token: str | None = setting(
        GROUP, Text(), None, "The token that temporary keys come with.", example="", flag=False, secret=True
    )
    s3_ca_bundle: Path | None = setting(
        GROUP,
        FilePath(),
        None,
        "Certificates (PEM) that are trusted for the service in place of the system's; AWS_CA_BUNDLE counts too.",
        example="/etc/ssl/corporate.pem",
        flag=False,
    )
    s3_sse: Literal["none", "AES256", "aws:kms"] = setting(
        GROUP,
        Choice(("none", "AES256", "aws:kms")),
        "none",
        "Server-side encryption that every write asks for; none leaves it to the bucket's default.",
        example="aws:kms",
        flag=False,
    )
    s3_sse_kms_key_id: str | None = setting(
        GROUP,
        Text(),
        None,
        "The key for s3-sse = aws:kms; without it the account's own.",
        example="arn:aws:kms:eu-central-1:111122223333:key/example",
        flag=False,
    )
    s3_bucket_key: bool = setting(
        GROUP,
        Switch(),
        True,
        "With s3-sse = aws:kms, let the bucket's key save calls to the key service.",
        example="off",
        flag=False,
    )
    s3_storage_class: str | None = setting(
        GROUP,
        Text(),
        None,
        "The storage class of archives; pages and other small objects have the bucket's default.",
        example="INTELLIGENT_TIERING",
        flag=False,
    )
    s3_checksums: Literal["when_required", "when_supported"] = setting(
        GROUP,
        Choice(("when_required", "when_supported")),
        "when_required",
        "Whether requests carry the service's own checksums; many compatible services refuse or garble them.",
        example="when_supported",
        flag=False,
    )
    s3_signed_reads: bool = setting(
        GROUP,
        Switch(),
        True,
        "Read objects with signed URLs, at a fifth of the cost; off reads them through the AWS library.",
        example="off",
        flag=False,
    )
    s3_connect_timeout: float = setting(
        GROUP,
        Duration(minimum=0.001, maximum=3600),
        2.0,
        "How long a connection to the service may take.",
        example="5",
        flag=False,
    )
    s3_read_timeout: float = setting(
        GROUP,
        Duration(minimum=0.001, maximum=3600),
        10.0,
        "How long the service may be silent in the middle of an answer.",
        example="30",
        flag=False,
    )
    s3_max_connections: int = setting(
        GROUP, Count(1, 10_000), 64, "Connections to the service at one time.", example="128", flag=False
    )
    s3_client_options: dict[str, object] = setting(
        GROUP,
        JsonObject(),
        {},
        "More options for the AWS library's client, as a JSON object whose keys are the arguments of botocore's Config.",
        example='{"proxies": {"https": "http://proxy.example.com:3128"}}',
        flag=False,
    )
    redirect_networks: tuple[IPv4Network | IPv6Network, ...] = setting(
        GROUP,
        Network(),
        (),
        "Clients in these networks are sent to the bucket for archives that it holds, with URLs that are signed for a "
        "few minutes. They must be able to reach it; all others are served by the mirror.",
        example="10.0.0.0/8",
    )
    cluster_wait: float = setting(
        GROUP,
        Duration(maximum=3600),
        10.0,
        "How long a replica waits for a file that another replica is downloading, before it downloads it itself; 0 for "
        "not at all. Needs a service with exact conditional writes.",
        example="0",
        flag=False,
    )
