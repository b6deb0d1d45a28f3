"""Tell the version of an archive from its name, and list the versions of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import itemgetter

from packaging.version import Version

from mirror.names import ProjectName, project_name_length

_SUFFIX = re.compile(
    r"\.(?:tar\.gz|tar\.bz2|tar\.xz|tar\.Z|tar|tgz|tbz|zip|egg|exe|msi|rpm|deb|dmg|bz2)\Z", re.ASCII | re.IGNORECASE
)
# What follows the version in the names of built archives older than wheels.
_PLATFORM = re.compile(
    r"-py\d.*|[.-](?:linux|macosx|darwin|win32|win-|freebsd|cygwin|solaris|sunos|irix|aix).*"
    r"|-\d+\.(?:noarch|src|x86_64|i\d86|ppc\w*|aarch64)|_all",
    re.ASCII | re.IGNORECASE,
)


def file_version(filename: str, project: ProjectName) -> str | None:
    """The version that `filename` carries, normalised (PEP 440); None where none can be read from it."""
    spelling = _spelling(filename, project)
    return None if spelling is None else _normalised(spelling)


def _spelling(filename: str, project: ProjectName) -> str | None:
    """What stands in the version's place in `filename`, as it is written there; None if it is another project's."""
    start = project_name_length(filename, project)
    if start is None:
        return None
    rest = filename[start + 1 :]
    if filename.endswith(".whl"):
        return rest.partition("-")[0]
    rest = _SUFFIX.sub("", rest)
    if platform := _PLATFORM.search(rest):
        rest = rest[: platform.start()]
    return rest


def all_versions(declared: Iterable[str], filenames: Sequence[str], project: ProjectName) -> tuple[str, ...]:
    """Each version once, in order: those that the page declares, as it spells them, and those of its files,
    which must belong to it (`may_belong`).

    What is no version (PEP 440) is kept where it was declared, and comes first.
    """
    odd: set[str] = set()
    found: dict[Version, str] = {}
    for text in declared:
        if (version := _parsed(text)) is None:
            odd.add(text)
        else:
            found.setdefault(version, text)
    # Most files spell their version as the page does, and parsing thousands of versions takes long.
    for spelling in _spellings(filenames, project).difference(found.values()):
        if spelling is not None and (version := _parsed(spelling)) is not None and version not in found:
            found[version] = str(version)
    return (*sorted(odd), *(text for _, text in sorted(found.items(), key=itemgetter(0))))


def _spellings(filenames: Sequence[str], project: ProjectName) -> set[str | None]:
    found: set[str | None] = set()
    others: list[str] = []
    for filename in filenames:
        if filename.endswith(".whl"):
            found.add(filename.split("-", 2)[1])
        else:
            others.append(filename)
    ordinary = _ordinary_source(project)
    at_once = ordinary.findall("\n".join(others))
    if len(at_once) == len(others):
        return found.union(at_once)
    for filename in others:
        match = ordinary.fullmatch(filename)
        found.add(match[1] if match else _spelling(filename, project))
    return found


@lru_cache(maxsize=512)
def _ordinary_source(project: ProjectName) -> re.Pattern[str]:
    """A line that is a source archive's name, with a version in which no platform can be meant."""
    name = "[-_.]+".join(project.split("-"))
    return re.compile(
        rf"^{name}-([0-9]+(?:\.[0-9]+)*(?:(?:a|b|rc|\.post|\.dev)[0-9]+)*)\.(?:tar\.gz|zip)$",
        re.ASCII | re.IGNORECASE | re.MULTILINE,
    )


@lru_cache(maxsize=8192)
def _parsed(text: str) -> Version | None:
    try:
        return Version(text)
    except ValueError:  # `InvalidVersion`, or a number of thousands of digits
        return None


def _normalised(text: str) -> str | None:
    version = _parsed(text)
    return None if version is None else str(version)
