"""The settings of the caches on this machine's disk, which stand before a store in S3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mirror.settings.definition import setting
from mirror.settings.kinds import Size
from mirror.settings.places import FilePath

GROUP = "Caches"
_GIB, _MIB = 2**30, 2**20


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Each cache is optional and disposable; without them nothing is written to disk."""

    metadata_cache_dir: Path | None = setting(
        GROUP,
        FilePath(metavar="DIR"),
        None,
        "The folder of a cache for project pages and core metadata, with storage = s3. On a local disk; workers of one "
        "host may share it.",
        example="/var/cache/mirror/metadata",
    )
    metadata_cache_size: int = setting(
        GROUP, Size(minimum=_MIB), _GIB, "How much the metadata cache may hold.", example="4GiB", flag=False
    )
    dist_cache_dir: Path | None = setting(
        GROUP,
        FilePath(metavar="DIR"),
        None,
        "The folder of a cache for archives, and of downloads on their way, with storage = s3. On a local disk; workers "
        "of one host may share it.",
        example="/var/cache/mirror/dist",
    )
    dist_cache_size: int = setting(
        GROUP, Size(minimum=_MIB), 10 * _GIB, "How much the archive cache may hold.", example="100GiB", flag=False
    )
    cache_free_space: int = setting(
        GROUP,
        Size(),
        512 * _MIB,
        "How much room on their disks the caches leave to others.",
        example="5GiB",
        flag=False,
    )
