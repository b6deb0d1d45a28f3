"""Pages as indexes send them, for the tests of this folder."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mirror.model import Learned, PageDocument, ProjectPage
from mirror.names import project_name
from mirror.simple.links import SourcePaths
from mirror.simple.parse import parse_page
from mirror.simple.terms import JSON_TYPE

INDEX = "https://index.example.com/simple/click/"
HOST = "https://files.example.com"
DEFAULT = SourcePaths("pypi", True)
OTHER = SourcePaths("internal", False)
WHEEL = "click-8.1.7-py3-none-any.whl"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def url_of(filename: str) -> str:
    d = digest(filename)
    return f"{HOST}/packages/{d[:2]}/{d[2:4]}/{d[4:]}/{filename}"


def path_of(filename: str) -> str:
    return url_of(filename).removeprefix(HOST + "/")


def _kebab(key: str) -> str:
    return key[:1] + key[1:].replace("_", "-")


def entry(filename: str = WHEEL, **changes: Any) -> dict[str, Any]:
    """A file entry; `requires_python` and the like stand for the keys with a dash; `...` leaves a key out."""
    given: dict[str, Any] = {
        "core-metadata": {"sha256": digest(filename + ".metadata")},
        "data-dist-info-metadata": {"sha256": digest(filename + ".metadata")},
        "filename": filename,
        "hashes": {"sha256": digest(filename)},
        "provenance": None,
        "requires-python": ">=3.7",
        "size": 97941,
        "upload-time": "2023-08-17T17:29:10.123456Z",
        "url": url_of(filename),
        "yanked": False,
    } | {_kebab(key): value for key, value in changes.items()}
    return {key: value for key, value in given.items() if value is not ...}


def json_page(*files: Any, **changes: Any) -> dict[str, Any]:
    page: dict[str, Any] = {
        "meta": {"api-version": "1.4", "_last-serial": 24},
        "name": "click",
        "files": list(files),
        "versions": ["8.1.7"],
    } | {_kebab(key): value for key, value in changes.items()}
    return {key: value for key, value in page.items() if value is not ...}


def json_document(page: Any, content_type: str = JSON_TYPE, url: str = INDEX, **facts: Any) -> PageDocument:
    body = page if isinstance(page, bytes) else json.dumps(page).encode()
    return PageDocument(body, content_type, url, 0.0, **facts)


def html_document(body: str | bytes, content_type: str = "text/html", url: str = INDEX, **facts: Any) -> PageDocument:
    return PageDocument(body.encode() if isinstance(body, str) else body, content_type, url, 0.0, **facts)


def anchors(*lines: str) -> str:
    """A page in HTML as the big index sends it to clients that know no JSON."""
    return (
        "<!DOCTYPE html><html><head><title>Links for click</title></head><body><h1>Links for click</h1>"
        + "\n".join(lines)
        + "</body></html>"
    )


def anchor(filename: str = WHEEL, attributes: str = "") -> str:
    return f'<a href="{url_of(filename)}#sha256={digest(filename)}" {attributes}>{filename}</a><br/>'


def parse(document: PageDocument, source: SourcePaths = DEFAULT, project: str = "click") -> ProjectPage:
    return parse_page(document, project_name(project), source)


def parse_files(*files: Any, **facts: Any) -> ProjectPage:
    """The page whose JSON lists `files`."""
    return parse(json_document(json_page(*files), **facts))


def many(count: int) -> list[str]:
    return [f"click-1.{i // 20}.0-cp3{i % 20}-cp3{i % 20}-manylinux_2_17_x86_64.whl" for i in range(count)]


def learned(**facts: Any) -> dict[str, Learned]:
    return {WHEEL: Learned(**facts)}
