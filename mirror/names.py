"""Normalise and check the names of projects and files, and make the keys under which they are stored.

Everything here is an allow-list that is applied before a name becomes a key, a path, a header or a log
field. `packaging`'s own parsers are parsers, not validators (they accept `../../foo-1.0.tar.gz`), and
its name pattern folds U+212A KELVIN SIGN to `k`, so both come second.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NewType

import xxhash

from mirror.errors import InvalidName

ProjectName = NewType("ProjectName", str)
"""A project name, validated and normalised (PEP 503): `[a-z0-9]+(-[a-z0-9]+)*`."""

MAX_PROJECT_NAME = 200
MAX_FILENAME = 244
"""Longest archive name: 255 bytes, which file systems allow, less `.provenance`, our longest suffix."""

_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_RUNS = re.compile(r"[-_.]+")
_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._+!~@=,-]+", re.ASCII)
_SOURCE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)


def project_name(raw: str) -> ProjectName:
    """`raw` normalised as PEP 503 says.

    Raises `InvalidName` for anything but ASCII letters, digits, `.`, `_` and `-` with a letter or digit
    at both ends, and for names longer than `MAX_PROJECT_NAME`.
    """
    if len(raw) > MAX_PROJECT_NAME:
        raise InvalidName("project name", raw, f"it is longer than {MAX_PROJECT_NAME} characters")
    if not _PROJECT.fullmatch(raw):
        raise InvalidName(
            "project name", raw, "only ASCII letters, digits, '.', '_' and '-', with a letter or digit at both ends"
        )
    return ProjectName(_RUNS.sub("-", raw).lower())


def file_name(raw: str) -> str:
    """`raw` if it is fit to be an archive's name, on disk, in a URL and in a header; else `InvalidName`."""
    if len(raw) > MAX_FILENAME:
        raise InvalidName("file name", raw, f"it is longer than {MAX_FILENAME} characters")
    if not _FILENAME.fullmatch(raw):
        raise InvalidName("file name", raw, "only ASCII letters, digits and '._+!-', beginning with a letter or digit")
    return raw


def file_path(raw: str) -> str:
    """`raw` if it is a safe relative path to an archive (`ab/cd/…/name`, already decoded); else `InvalidName`."""
    *folders, last = raw.split("/")
    file_name(last)
    if len(raw) > 1024:
        raise InvalidName("file path", raw, "it is longer than 1024 characters")
    if not all(_SEGMENT.fullmatch(f) and f.strip(".") for f in folders):
        raise InvalidName("file path", raw, "a folder in it is empty, all dots, or holds a forbidden character")
    return raw


def source_name(raw: str) -> str:
    """`raw` if it is fit to name an upstream in URLs and keys; else `InvalidName`."""
    if not _SOURCE.fullmatch(raw):
        raise InvalidName("upstream name", raw, "only lower-case letters, digits and '-', at most 40 characters")
    return raw


def candidate_projects(filename: str) -> list[ProjectName]:
    """The projects that may own `filename`, likeliest first, at most four.

    A wheel's name ends at its first `-` (PEP 427). A source archive's may hold dashes itself (PEP 625 is
    younger than most archives), so every dash before which a name and after which a version can stand is a
    candidate; the one whose rest begins with a digit and is shortest comes first.
    """
    if filename.endswith(".whl"):
        head, dash, _ = filename.partition("-")
        splits = [(head, "")] if dash else []
    else:
        cuts = [i for i, c in enumerate(filename) if c == "-"]
        splits = [(filename[:i], filename[i + 1 :]) for i in reversed(cuts)]
        splits.sort(key=lambda s: not s[1][:1].isdigit())
    found: list[ProjectName] = []
    for head, _ in splits:
        if _PROJECT.fullmatch(head) and len(head) <= MAX_PROJECT_NAME:
            name = project_name(head)
            if name not in found:
                found.append(name)
    return found[:4]


def may_belong(filename: str, project: ProjectName) -> bool:
    """Whether an index page of `project` may list `filename`: the installers' own rule.

    A wheel's first component must be the project's name (PEP 427). Of any other archive some beginning that
    ends at a `-` must be; so legacy names (eggs, installers, rpms, sdists with dashes) count too, and
    `candidate_projects` may miss, among its four, a project for which this says yes.
    """
    return project_name_length(filename, project) is not None


def project_name_length(filename: str, project: ProjectName) -> int | None:
    """How many characters of `filename` spell `project`, before the dash; None where `may_belong` says no."""
    match = _owned_by(project, filename.endswith(".whl")).match(filename)
    return None if match is None else match.end() - 1


@lru_cache(maxsize=512)
def _owned_by(project: ProjectName, wheel: bool) -> re.Pattern[str]:
    separator = "[_.]+" if wheel else "[-_.]+"
    return re.compile(separator.join(project.split("-")) + "-", re.ASCII | re.IGNORECASE)


def shard(project: ProjectName) -> str:
    """`ab/cd`: the first four hex digits of xxh3_64 of the project's name.

    By project, not by file, so that a project stays in one folder; why, with figures:
    `docs/decisions/0003-keys.md`. xxhash spreads keys; it never stands for identity or integrity.
    """
    digest = xxhash.xxh3_64_hexdigest(project.encode())
    return f"{digest[:2]}/{digest[2:4]}"


def archive_key(source: str, project: ProjectName, filename: str, suffix: str = "") -> str:
    """Key of an archive, or with `suffix` (`.metadata`, `.provenance`) of its sidecar."""
    return f"files/{source}/{shard(project)}/{project}/{filename}{suffix}"


def page_key(source: str, project: ProjectName, kind: str = "") -> str:
    """Key of a project's page document, or of another document of that project (`kind`, for example `.legacy`).

    A normalised name holds no dot, so `kind` cannot collide with another project.
    """
    return f"meta/{source}/{shard(project)}/{project}{kind}.json"


def origin_key(source: str) -> str:
    """Key of the record of where an upstream is."""
    return f"meta/{source}/upstream.json"


def project_list_key(source: str) -> str:
    """Key of the list of all projects of an upstream."""
    return f"meta/{source}/projects.txt"
