"""Read a project page in HTML (PEP 503 and its successors)."""

from __future__ import annotations

import re
from urllib.parse import unquote

from selectolax.lexbor import LexborHTMLParser

from mirror.model import File, ProjectStatus
from mirror.names import may_belong
from mirror.simple.entries import Draft, Gate
from mirror.simple.fields import clean_hashes, clean_provenance, clean_upload_time, metadata_from_html
from mirror.simple.index_page import ARCHIVE_SUFFIXES, is_flat, metas, titled_as_index
from mirror.simple.links import Located
from mirror.simple.parse_json import check_api_version
from mirror.simple.terms import HTML_TYPE

_SHA256 = re.compile(r"sha256=([0-9a-f]{64})")
_SERIAL = re.compile(rb"<!--SERIAL (\d{1,18})-->")


def parse_html(gate: Gate, body: bytes) -> Draft:
    """The page in `body`. Raises `UpstreamMisbehaved` if it is no index page, or one of another API version.

    Captive portals and error pages come as 200 with HTML, and an index page without files would wipe out the
    copy held, so a page must give proof of what it is: its media type, its version in a `<meta>` (PEP 629), a
    link to an archive of this project (even one that is refused), or what its heading says.
    """
    if not is_flat(body):
        gate.refuse("is HTML of nested elements, which no index page is")
    parser = LexborHTMLParser(body)
    named = metas(parser)
    version = named.get("pypi:repository-version")
    if version is not None:
        check_api_version(gate, version)
    if base := next((href for node in parser.tags("base") if (href := node.attributes.get("href"))), None):
        gate.rebase(base.strip())
    draft = Draft(files=[], dropped=0)
    proven = version is not None or gate.document.content_type == HTML_TYPE
    for node in parser.tags("a"):
        attributes = node.attributes
        href = (attributes.get("href") or "").strip(" \t\n\r\f")
        target, _, fragment = href.partition("#")
        name = target.partition("?")[0].rpartition("/")[2]
        if not name:
            continue  # the parent folder, a column to sort by, a place on this page: no entry
        located = gate.admit(target)
        if located is None:
            draft.dropped += 1
            proven = proven or _is_archive_of(gate, name)
            continue
        filename = located[2]
        gate.took(filename)
        proven = proven or filename.endswith(ARCHIVE_SUFFIXES)
        draft.files.append(_file(located, fragment, attributes))
    if not (proven or titled_as_index(parser, gate.project)):
        gate.refuse("is HTML, but no index page")
    if status := named.get("pypi:project-status"):
        draft.status = ProjectStatus(status, named.get("pypi:project-status-reason") or None)
    if serial := _SERIAL.search(body, max(0, body.rfind(b"</a>"))):
        draft.serial = int(serial[1])
    return draft


def _is_archive_of(gate: Gate, name: str) -> bool:
    name = unquote(name, errors="replace")
    return name.endswith(ARCHIVE_SUFFIXES) and may_belong(name, gate.project)


def _file(located: Located, fragment: str, attributes: dict[str, str | None]) -> File:
    url, path, filename = located
    get = attributes.get
    metadata = get("data-core-metadata")
    if metadata is None:
        metadata = get("data-dist-info-metadata")
    return File(
        filename,
        url,
        path,
        _hashes(fragment),
        None,
        clean_upload_time(get("data-upload-time")),
        get("data-requires-python") or None,
        False if metadata is None else metadata_from_html(metadata),
        (get("data-yanked") or True) if "data-yanked" in attributes else False,
        {"true": True, "false": False}.get((get("data-gpg-sig") or "").lower()),
        clean_provenance(get("data-provenance")),
    )


def _hashes(fragment: str) -> dict[str, str]:
    """The digest in a link's fragment; `egg=…` and the like may stand beside it."""
    if match := _SHA256.fullmatch(fragment):
        return {"sha256": match[1]}
    if not fragment:
        return {}
    pairs = (part.partition("=") for part in fragment.split("&"))
    return clean_hashes({name: value for name, _, value in pairs})
