"""Write a project page in JSON (API 1.4) and in HTML (frozen at 1.4)."""

from __future__ import annotations

from html import escape
from operator import attrgetter
from string import ascii_letters, digits
from typing import Any, Final
from urllib.parse import quote

import msgspec

from mirror.model import File, ProjectPage, ProjectStatus
from mirror.simple.columns import consist_of
from mirror.simple.negotiate import Format
from mirror.simple.terms import API_VERSION, FILE_KEYS, META_KEYS, OLDEST_API_VERSION, PAGE_KEYS

_PLAIN_PATH: Final = (ascii_letters + digits + "._~!+@=,/-").encode()


class _FileEntry(msgspec.Struct, rename="kebab", gc=False, omit_defaults=True):
    """One file as JSON says it; what has its default stays out (PEP 700: a key is absent, never null or empty)."""

    filename: str
    url: str
    hashes: dict[str, str]
    yanked: bool | str
    size: int | None = None
    upload_time: str | None = None
    requires_python: str | None = None
    core_metadata: bool | dict[str, str] = False
    gpg_sig: bool | None = None
    provenance: str | None = None


def render_page(page: ProjectPage, form: Format, root: str) -> bytes:
    """The page in `form`; `root` is the relative way from the page to our root, for example `../../`.

    HTML and TEXT are the same bytes. A quarantined project shows no files (PEP 792). Takes milliseconds for
    thousands of files: call it in a thread.
    """
    return _json(page, page.offered, root) if form is Format.JSON else _html(page, page.offered, root)


def _urls(files: tuple[File, ...], root: str) -> list[str]:
    paths = [file.path for file in files]
    if consist_of(paths, _PLAIN_PATH):
        return [root + path for path in paths]
    return [root + quote(path, safe="/~!+@=,") for path in paths]


def _provenance(given: str | None) -> str | None:
    return given if given is not None and given.startswith("https://") else None


# --- JSON ----------------------------------------------------------------------------------------------


def _json(page: ProjectPage, files: tuple[File, ...], root: str) -> bytes:
    sized = None not in map(attrgetter("size"), files)
    meta: dict[str, Any] = {key: value for key, value in page.meta_extra.items() if key not in META_KEYS}
    meta["api-version"] = API_VERSION if sized else OLDEST_API_VERSION
    if page.serial is not None:
        meta["_last-serial"] = page.serial
    whole: dict[str, Any] = {"meta": meta, "name": page.name}
    if page.status is not None:
        whole["project-status"] = _status(page.status)
    whole["versions"] = page.versions
    whole["files"] = _entries(files, root)
    whole |= {key: value for key, value in page.extra.items() if key not in PAGE_KEYS}
    try:
        return msgspec.json.encode(whole)
    except UnicodeEncodeError:  # a lone surrogate in a text that came by another way than an index page
        return msgspec.json.encode(_encodable(msgspec.to_builtins(whole)))


def _entries(files: tuple[File, ...], root: str) -> list[_FileEntry | dict[str, Any]]:
    # Column by column: a page of thousands of files is rendered while somebody waits.
    entries: list[_FileEntry | dict[str, Any]] = list(
        map(
            _FileEntry,
            [file.filename for file in files],
            _urls(files, root),
            [file.hashes for file in files],
            # An empty reason would read as "not yanked" in every language with falsy strings (PEP 592, 691).
            [True if file.yanked == "" else file.yanked for file in files],
            [file.size for file in files],
            [file.upload_time or None for file in files],
            [file.requires_python or None for file in files],
            [file.core_metadata or False for file in files],
            [file.gpg_sig for file in files],
            [_provenance(file.provenance) if file.provenance else None for file in files],
        )
    )
    for i, file in enumerate(files):
        if file.extra:
            known: dict[str, Any] = msgspec.to_builtins(entries[i])
            entries[i] = known | {key: value for key, value in file.extra.items() if key not in FILE_KEYS}
    return entries


def _status(status: ProjectStatus) -> dict[str, str]:
    return {"status": status.status} | ({} if status.reason is None else {"reason": status.reason})


def _encodable(value: Any) -> Any:
    """`value` with every lone surrogate replaced, in keys too."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {_encodable(key): _encodable(item) for key, item in value.items()}
        case list() | tuple():
            return [_encodable(item) for item in value]
        case _:
            return value


# --- HTML ----------------------------------------------------------------------------------------------


def _html(page: ProjectPage, files: tuple[File, ...], root: str) -> bytes:
    name = _text(page.name)
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta name="pypi:repository-version" content="{API_VERSION}">',
    ]
    if page.status is not None:
        lines.append(f'<meta name="pypi:project-status" content="{_text(page.status.status)}">')
        if page.status.reason:
            lines.append(f'<meta name="pypi:project-status-reason" content="{_text(page.status.reason)}">')
    lines += [f"<title>Links for {name}</title>", "</head>", "<body>", f"<h1>Links for {name}</h1>"]
    lines += map(_anchor, files, _urls(files, root))
    lines += ["</body>", "</html>"]
    if page.serial is not None:
        lines.append(f"<!--SERIAL {page.serial}-->")
    return "\n".join([*lines, ""]).encode("utf-8", "replace")


def _anchor(file: File, href: str) -> str:
    if digest := file.digest:
        href += f"#{digest.algorithm}={digest.hex}"
    elif file.hashes:
        algorithm, value = next(iter(file.hashes.items()))
        href += f"#{algorithm}={value}"
    attributes = f'href="{escape(href)}"'
    if file.requires_python:
        attributes += f' data-requires-python="{_text(file.requires_python)}"'
    if file.upload_time:
        attributes += f' data-upload-time="{_text(file.upload_time)}"'
    if metadata := file.core_metadata:
        sha256 = metadata.get("sha256") if isinstance(metadata, dict) else None
        value = f"sha256={_text(sha256)}" if sha256 else "true"
        # pip 23.0 knows only the misnomer; PEP 714 wants both in HTML.
        attributes += f' data-core-metadata="{value}" data-dist-info-metadata="{value}"'
    if file.yanked is not False:
        attributes += f' data-yanked="{"" if file.yanked is True else _text(file.yanked)}"'
    if file.gpg_sig is not None:
        attributes += f' data-gpg-sig="{"true" if file.gpg_sig else "false"}"'
    if provenance := _provenance(file.provenance):
        attributes += f' data-provenance="{_text(provenance)}"'
    return f"<a {attributes}>{_text(file.filename)}</a><br>"


def _text(text: str) -> str:
    """`text` fit for an attribute or an element. A bare CR would come out of the parser as a line feed."""
    return escape(text).replace("\r", "&#13;")
