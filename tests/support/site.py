"""A scripted index as a function from request to answer, without network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.support.packages import Archive, Project, normal
from tests.support.pages import HTML, JSON, TEXT, Style, legacy_json, project_list, project_page

_REASONS = {200: "OK", 206: "Partial Content", 301: "Moved Permanently", 302: "Found", 304: "Not Modified"}
_REASONS |= {307: "Temporary Redirect", 308: "Permanent Redirect", 401: "Unauthorized", 404: "Not Found"}
_REASONS |= {405: "Method Not Allowed", 416: "Range Not Satisfiable", 429: "Too Many Requests"}
_REASONS |= {403: "Forbidden", 410: "Gone", 500: "Internal Server Error", 502: "Bad Gateway"}
_REASONS |= {503: "Service Unavailable", 504: "Gateway Timeout"}


@dataclass(frozen=True)
class Request:
    """A request as the index saw it; header names in lower case."""

    method: str
    target: str
    """As sent, not decoded."""
    headers: dict[str, str] = field(default_factory=dict)
    version: str = "HTTP/1.1"

    @property
    def path(self) -> str:
        """Decoded, without query."""
        return unquote(self.target.partition("?")[0])


@dataclass
class Answer:
    """A whole answer before it is framed: no Content-Length yet."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def reason(self) -> str:
        return _REASONS.get(self.status, "Answer")


class Site:
    """Projects and their files under URLs; `style` may be replaced at any time."""

    def __init__(self, projects: Iterable[Project], style: Style) -> None:
        self.style = style
        self.projects: dict[str, Project] = {}
        self.archives: dict[str, Archive] = {}
        self._rendered: dict[tuple[str, str, str, Style], tuple[Project, bytes]] = {}
        self._gzipped: dict[bytes, bytes] = {}
        for project in projects:
            self.publish(project)

    def publish(self, project: Project) -> None:
        """Adds a project, or replaces what pages say of it; files once published stay fetchable, as on PyPI."""
        self.projects = self.projects | {project.normal: project}
        self.archives = self.archives | {f"/{f.path}": f for f in project.files if isinstance(f, Archive)}

    def withdraw(self, name: str) -> None:
        """Removes a project and its files."""
        project = self.projects[normal(name)]
        self.projects = {key: known for key, known in self.projects.items() if key != project.normal}
        gone = {f"/{file.path}" for file in project.files}
        self.archives = {path: archive for path, archive in self.archives.items() if path not in gone}

    def answer(self, request: Request, file_origin: str) -> Answer:
        """What this index answers; `file_origin`, where its files lie, ends in a slash."""
        if self.style.credentials and request.headers.get("authorization") != _basic(*self.style.credentials):
            return Answer(401, {"WWW-Authenticate": 'Basic realm="index"', "Content-Type": TEXT}, b"who are you?")
        if request.method not in ("GET", "HEAD") or (request.method == "HEAD" and not self.style.head):
            return Answer(405, {"Allow": "GET, HEAD" if self.style.head else "GET"})
        match request.path.split("/")[1:]:
            case ["simple", ""]:
                media_type = self._media_type(request)
                body = project_list(self.projects.values(), self.style, media_type)
                serial = max((project.serial for project in self.projects.values()), default=0)
                return self._page(request, body, media_type, self.style.max_age, serial)
            case ["simple", name]:
                return self._moved(f"/simple/{name}/", self.style.slash) if name else self._missing()
            case ["simple", name, ""]:
                return self._project(request, name, file_origin)
            case ["pypi", name, "json"]:
                return self._legacy(request, name, None, file_origin)
            case ["pypi", name, version, "json"]:
                return self._legacy(request, name, version, file_origin)
            case ["packages", *_]:
                return self._file(request)
        return self._missing()

    def _project(self, request: Request, name: str, file_origin: str) -> Answer:
        if name != normal(name) and self.style.canonical:
            return self._moved(f"/simple/{normal(name)}/", 301)
        if (project := self.projects.get(normal(name))) is None:
            return self._missing()
        media_type = self._media_type(request)
        links = "../../" if self.style.links == "relative" else file_origin
        key = (project.normal, media_type, links, self.style)
        known, body = self._rendered.get(key, (None, b""))
        if known is not project:
            body = project_page(project, self.style, media_type, links)
            self._rendered[key] = (project, body)
        return self._page(request, body, media_type, self.style.max_age, project.serial)

    def _legacy(self, request: Request, name: str, version: str | None, file_origin: str) -> Answer:
        project = self.projects.get(normal(name)) if self.style.json else None
        if project is None or (body := legacy_json(project, version, file_origin)) is None:
            return self._missing()
        return self._page(request, body, "application/json", 900, project.serial)

    def _page(self, request: Request, body: bytes, media_type: str, max_age: int | None, serial: int) -> Answer:
        charset = "; charset=utf-8" if media_type == TEXT else ""
        headers = {"Content-Type": media_type + charset}
        if self.style.json:
            headers["Vary"] = "Accept, Accept-Encoding"
        if max_age is not None and self.style.max_age is not None:
            headers["Cache-Control"] = f"max-age={max_age}, public"
        if self.style.serial:
            headers["X-PyPI-Last-Serial"] = str(serial)
        if self.style.etag:
            headers["ETag"] = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
            if request.headers.get("if-none-match") == headers["ETag"]:
                return Answer(304, headers)
        if self.style.gzip and "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = self._gzip(body)
        return Answer(200, headers, body)

    def _file(self, request: Request) -> Answer:
        path = request.path
        if path.endswith(".metadata"):
            archive = self.archives.get(path.removesuffix(".metadata"))
            if archive is None or not self.style.metadata or archive.metadata_sha256 is None:
                return self._missing()
            body, etag = archive.metadata, archive.metadata_sha256
        elif archive := self.archives.get(path):
            body, etag = archive.content, archive.md5
        else:
            return self._missing()
        headers = {"Content-Type": "application/octet-stream", "Last-Modified": "Tue, 02 Jan 2024 03:04:05 GMT"}
        if self.style.etag:
            headers["ETag"] = f'"{etag}"'
        if self.style.max_age is not None:
            headers["Cache-Control"] = "max-age=365000000, immutable, public"
        if self.style.ranges:
            headers["Accept-Ranges"] = "bytes"
            if request.headers.get("if-range", headers.get("ETag")) == headers.get("ETag"):
                return _ranged(request.headers.get("range", ""), headers, body)
        return Answer(200, headers, body)

    def _media_type(self, request: Request) -> str:
        """The best of our three types; text/html where nothing matches, as PyPI does."""
        if not self.style.json:
            return TEXT
        wishes: dict[str, float] = {}
        for part in request.headers.get("accept", "*/*").split(","):
            name, _, parameters = part.strip().partition(";")
            quality = re.search(r"q=([0-9.]+)", parameters)
            wishes[name.strip().lower()] = float(quality[1]) if quality else 1.0
        ours = {TEXT: wishes.get(TEXT, wishes.get("text/*", wishes.get("*/*", 0.0)))}
        ours |= {name: wishes.get(name, wishes.get("application/*", wishes.get("*/*", 0.0))) for name in (HTML, JSON)}
        return max(ours, key=ours.__getitem__)

    def _gzip(self, body: bytes) -> bytes:
        if body not in self._gzipped:
            self._gzipped[body] = gzip.compress(body, 6, mtime=0)
        return self._gzipped[body]

    def _moved(self, location: str, status: int) -> Answer:
        return Answer(status, {"Location": location})

    def _missing(self) -> Answer:
        return Answer(404, {"Content-Type": TEXT}, b"404 Not Found" if self.style.error_body else b"")


def _ranged(wanted: str, headers: dict[str, str], body: bytes) -> Answer:
    """A single range of `body` (RFC 9110 §14); several ranges, or nonsense, are answered whole."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return Answer(200, headers, body)
    first, last = match.groups()
    if first:
        start, stop = int(first), min(len(body), int(last) + 1 if last else len(body))
    else:
        start, stop = max(0, len(body) - int(last)), len(body)
    if start >= stop:
        return Answer(416, headers | {"Content-Range": f"bytes */{len(body)}"})
    return Answer(206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}, body[start:stop])


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
