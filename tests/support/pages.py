"""What a scripted index answers, as bytes: project pages, the project list and the legacy JSON API."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any, Final, Literal

from packaging.version import InvalidVersion, Version

from tests.support.packages import Listing, Project

JSON: Final = "application/vnd.pypi.simple.v1+json"
HTML: Final = "application/vnd.pypi.simple.v1+html"
TEXT: Final = "text/html"


@dataclass(frozen=True)
class Style:
    """How an index behaves in general; the defaults are PyPI's."""

    json: bool = True
    metadata: bool | Literal["flag"] = True
    """Whether core metadata are served and announced; "flag": announced without a digest."""
    upload_time: bool = True
    sizes: bool = True
    hashes: Literal["sha256", "md5"] | None = "sha256"
    ranges: bool = True
    head: bool = True
    gzip: bool = True
    etag: bool = True
    max_age: int | None = 600
    serial: bool = True
    status: bool = True
    """Whether pages carry the status of the project (PEP 792)."""
    canonical: bool = True
    """Whether names that are not normalised are redirected rather than answered."""
    slash: int = 301
    """Status of the redirect to the page's URL with its slash at the end."""
    error_body: bool = True
    links: Literal["same", "other", "relative"] = "same"
    """File URLs: absolute on the index's own origin, absolute on another port, or relative."""
    query: str = ""
    """What every file URL ends in, for example `?token=abc`."""
    credentials: tuple[str, str] | None = None
    """User and password without which every answer is 401."""


MINIMAL: Final = Style(
    json=False,
    metadata=False,
    sizes=False,
    gzip=False,
    etag=False,
    max_age=None,
    serial=False,
    status=False,
    canonical=False,
    slash=308,
    error_body=False,
)
"""As little as an index may do: HTML whatever Accept says, and nothing that helps a cache."""


def _compact(value: object) -> bytes:
    """JSON without blanks, as the large indexes send it."""
    return json.dumps(value, separators=(",", ":")).encode()


def project_page(project: Project, style: Style, media_type: str, origin: str) -> bytes:
    """The page of a project; `origin` is put before the path of every file."""
    return _project_json(project, style, origin) if media_type == JSON else _project_html(project, style, origin)


def project_list(projects: Iterable[Project], style: Style, media_type: str) -> bytes:
    """The list of all projects."""
    known = sorted(projects, key=lambda project: project.normal)
    if media_type == JSON:
        names = [{"name": p.name, "_last-serial": p.serial} if style.serial else {"name": p.name} for p in known]
        return _compact({"meta": _meta(style, max((p.serial for p in known), default=0)), "projects": names})
    lines = [f'    <a href="/simple/{p.normal}/">{escape(p.name)}</a><br/>' for p in known]
    return _html("Simple index", lines)


def legacy_json(project: Project, version: str | None, origin: str) -> bytes | None:
    """The legacy JSON document of a project or, with `version`, of a release; None if there is no such release."""
    releases: dict[str, list[dict[str, Any]]] = {}
    for file in project.files:
        releases.setdefault(file.version, []).append(_legacy_file(file, origin))
    chosen = version or _latest(project)
    if chosen not in releases:
        return None
    first = next(file for file in project.files if file.version == chosen)
    reason = first.yanked if isinstance(first.yanked, str) else None
    info = {
        "name": project.name,
        "version": chosen,
        "summary": f"{project.name} for tests",
        "requires_dist": list(first.requires) or None,
        "requires_python": first.requires_python,
        "yanked": first.yanked is not False,
        "yanked_reason": reason,
    }
    document = {"info": info, "last_serial": project.serial, "urls": releases[chosen], "vulnerabilities": []}
    return _compact(document if version else document | {"releases": releases})


def _project_json(project: Project, style: Style, origin: str) -> bytes:
    files = []
    for file in project.files:
        entry: dict[str, Any] = {
            "filename": file.filename,
            "url": f"{origin}{file.path}{style.query}",
            "hashes": _hashes(file, style),
            "requires-python": file.requires_python,
            "yanked": file.yanked,
            "provenance": None,
        }
        if style.metadata:
            entry["core-metadata"] = entry["data-dist-info-metadata"] = _metadata(file, style)
        if style.sizes:
            entry["size"] = file.size
        if style.upload_time:
            entry["upload-time"] = file.upload_time
        files.append(entry)
    page: dict[str, Any] = {
        "meta": _meta(style, project.serial),
        "name": project.normal,
        "files": files,
        "versions": list(dict.fromkeys(file.version for file in project.files)),
    }
    if style.status:
        page["project-status"] = {"status": project.status}
        if project.status_reason:
            page["project-status"]["reason"] = project.status_reason
    return _compact(page)


def _project_html(project: Project, style: Style, origin: str) -> bytes:
    lines = [f'    <meta name="pypi:project-status" content="{escape(project.status)}">'] if style.status else []
    for file in project.files:
        hashes = "".join(f"#{algorithm}={value}" for algorithm, value in _hashes(file, style).items())
        attributes = {"href": f"{origin}{file.path}{style.query}{hashes}"}
        if file.requires_python:
            attributes["data-requires-python"] = file.requires_python
        if metadata := style.metadata and _metadata(file, style):
            value = f"sha256={metadata['sha256']}" if isinstance(metadata, dict) else "true"
            attributes["data-dist-info-metadata"] = attributes["data-core-metadata"] = value
        if file.yanked is not False:
            attributes["data-yanked"] = file.yanked if isinstance(file.yanked, str) else ""
        if style.upload_time and not style.json:
            attributes["data-upload-time"] = file.upload_time
        text = " ".join(f'{name}="{escape(value)}"' for name, value in attributes.items())
        lines.append(f"    <a {text}>{escape(file.filename)}</a><br />")
    return _html(f"Links for {escape(project.name)}", lines)


def _html(title: str, lines: list[str]) -> bytes:
    head = '<!DOCTYPE html>\n<html>\n  <head>\n    <meta name="pypi:repository-version" content="1.4">\n'
    body = "\n".join(lines)
    return f"{head}    <title>{title}</title>\n  </head>\n  <body>\n    <h1>{title}</h1>\n{body}\n  </body>\n</html>\n".encode()


def _meta(style: Style, serial: int) -> dict[str, Any]:
    return {"api-version": "1.4"} | ({"_last-serial": serial} if style.serial else {})


def _hashes(file: Listing, style: Style) -> dict[str, str]:
    match style.hashes:
        case "sha256":
            return {"sha256": file.sha256}
        case "md5":
            return {"md5": file.md5}
        case None:
            return {}


def _metadata(file: Listing, style: Style) -> bool | dict[str, str]:
    if file.metadata_sha256 is None:
        return False
    return True if style.metadata == "flag" else {"sha256": file.metadata_sha256}


def _legacy_file(file: Listing, origin: str) -> dict[str, Any]:
    return {
        "filename": file.filename,
        "url": f"{origin}{file.path}",
        "packagetype": "bdist_wheel" if file.filename.endswith(".whl") else "sdist",
        "digests": {"blake2b_256": file.blake2b, "md5": file.md5, "sha256": file.sha256},
        "size": file.size,
        "upload_time_iso_8601": file.upload_time,
        "upload_time": file.upload_time[:19],
        "requires_python": file.requires_python,
        "yanked": file.yanked is not False,
        "yanked_reason": file.yanked if isinstance(file.yanked, str) else None,
    }


def _latest(project: Project) -> str | None:
    def rank(file: Listing) -> tuple[bool, bool, Version]:
        try:
            version = Version(file.version)
        except InvalidVersion:
            version = Version("0")
        return file.yanked is False, not version.is_prerelease, version

    return max(project.files, key=rank).version if project.files else None
