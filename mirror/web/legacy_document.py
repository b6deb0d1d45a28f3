"""Builds the legacy JSON document of a project out of its project page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from packaging.utils import canonicalize_version
from packaging.version import InvalidVersion, Version

from mirror.errors import NotFound
from mirror.model import File, ProjectPage
from mirror.simple.versions import file_version

_PACKAGE_TYPES: Final = {
    "whl": "bdist_wheel",
    "egg": "bdist_egg",
    "exe": "bdist_wininst",
    "msi": "bdist_msi",
    "rpm": "bdist_rpm",
    "dmg": "bdist_dmg",
    "deb": "bdist_dumb",
}
_EGG_PYTHON = re.compile(r"-py(\d+\.\d+)", re.ASCII)


class NoSuchVersion(NotFound):
    """The project exists and has no such version."""

    def __init__(self, project: str, version: str) -> None:
        self.project, self.version = project, version
        super().__init__(f"The project {project} has no version {version}.")


def legacy_document(
    page: ProjectPage, parts: Mapping[str, Any], version: str | None, url_of: Callable[[File], str]
) -> dict[str, Any]:
    """The document of a project, or of one `version` of it; `parts` is what `Repository.legacy_json` gives.

    Files, their digests and times come from the page, so that both say the same of a file; `url_of` gives its
    absolute URL. Raises `NoSuchVersion`.
    """
    releases = _releases(page, url_of)
    info = dict(parts.get("info") or {})
    chosen = version if version is not None else _current(info, releases)
    spelled = None if chosen is None else next((known for known in releases if same_version(known, chosen)), None)
    if version is not None and spelled is None:
        raise NoSuchVersion(page.name, version)
    info.setdefault("name", page.name)
    info.setdefault("version", spelled)
    document: dict[str, Any] = {
        "info": info,
        "last_serial": parts.get("last_serial", page.serial),
        "urls": releases[spelled] if spelled is not None else [],
        "vulnerabilities": parts.get("vulnerabilities", []),
    }
    if version is None:
        document["releases"] = releases
    return document


def same_version(one: str | None, other: str | None) -> bool:
    """Whether two spellings mean one version (PEP 440); what is no version equals only itself."""
    if one is None or other is None:
        return False
    return canonicalize_version(one) == canonicalize_version(other)


def _releases(page: ProjectPage, url_of: Callable[[File], str]) -> dict[str, list[dict[str, Any]]]:
    """Entries by version, as the page spells them; a file whose name tells no version is left out, as nobody could
    ask for it here."""
    releases: dict[str, list[dict[str, Any]]] = {version: [] for version in page.versions}
    spellings = {canonicalize_version(version): version for version in releases}
    for file in page.offered:
        version = file_version(file.filename, page.name)
        if version is not None:
            releases.setdefault(spellings.setdefault(canonicalize_version(version), version), []).append(
                _entry(file, url_of(file))
            )
    return releases


def _current(info: Mapping[str, Any], releases: Mapping[str, list[dict[str, Any]]]) -> str | None:
    """The version that a project's own document is about: what `info` says, else the newest that is not yanked."""
    named = info.get("version")
    if isinstance(named, str) and any(same_version(known, named) for known in releases):
        return named
    ranked = []
    for text, entries in releases.items():
        try:
            version = Version(text)
        except InvalidVersion:
            continue
        usable = any(not entry["yanked"] for entry in entries)
        ranked.append((usable, not version.is_prerelease, version, text))
    return max(ranked)[3] if ranked else None


def _entry(file: File, url: str) -> dict[str, Any]:
    stem, _, suffix = file.filename.rpartition(".")
    package_type = _PACKAGE_TYPES.get(suffix.lower(), "sdist")
    return {
        "comment_text": None,
        "core-metadata": file.core_metadata,
        "digests": file.hashes,
        "downloads": -1,
        "filename": file.filename,
        "has_sig": bool(file.gpg_sig),
        "md5_digest": file.hashes.get("md5"),
        "packagetype": package_type,
        "python_version": _python_version(stem, package_type),
        "requires_python": file.requires_python,
        "size": file.size,
        # The older field has neither fraction nor zone.
        "upload_time": file.upload_time and file.upload_time.rstrip("Z").partition(".")[0],
        "upload_time_iso_8601": file.upload_time,
        "url": url,
        "yanked": bool(file.yanked),
        "yanked_reason": file.yanked if isinstance(file.yanked, str) else None,
    }


def _python_version(stem: str, package_type: str) -> str:
    match package_type:
        case "sdist":
            return "source"
        case "bdist_wheel":
            # name-version(-build)?-python-abi-platform (PEP 427)
            parts = stem.split("-")
            return parts[-3] if len(parts) >= 5 else "any"
        case _:
            found = _EGG_PYTHON.search(stem)
            return found[1] if found else "any"
