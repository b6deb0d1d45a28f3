"""Turn an upstream's page document into a `ProjectPage`."""

from __future__ import annotations

import msgspec
import xxhash

from mirror.model import File, PageDocument, ProjectPage
from mirror.names import ProjectName
from mirror.simple.entries import Draft, Gate
from mirror.simple.links import SourcePaths
from mirror.simple.parse_html import parse_html
from mirror.simple.parse_json import parse_json
from mirror.simple.terms import HTML_TYPE, JSON_TYPE, TEXT_TYPE
from mirror.simple.versions import all_versions

_JSON_TYPES = (JSON_TYPE, "application/json")
_HTML_TYPES = (HTML_TYPE, TEXT_TYPE, "application/xhtml+xml")
_BOM = b"\xef\xbb\xbf"


def parse_page(document: PageDocument, project: ProjectName, source: SourcePaths) -> ProjectPage:
    """The page that upstream `source` sent for `project`, with what this mirror learned of its files.

    Entries that are hostile or unusable are left off and counted. Raises `UpstreamMisbehaved` if the document
    as a whole is no index page of API version 1. Takes milliseconds for thousands of files: call it in a
    thread.
    """
    gate = Gate(document, project, source)
    draft = _read(gate, document)
    files = [_with_learned(gate, file) for file in draft.files] if document.learned else draft.files
    serial = document.serial if draft.serial is None else draft.serial
    return ProjectPage(
        name=project,
        files=tuple(files),
        versions=all_versions(draft.declared_versions, [file.filename for file in files], project),
        status=draft.status,
        serial=serial,
        extra=draft.extra,
        meta_extra=draft.meta_extra,
        revision=_revision(document, project, source, serial),
        dropped=draft.dropped,
    )


def _read(gate: Gate, document: PageDocument) -> Draft:
    body = document.body.removeprefix(_BOM)
    start = body[:1024].lstrip()
    if not start:
        gate.refuse("is empty")
    # Some indexes label their JSON as text or as nothing at all; HTML never begins with a brace.
    if document.content_type in _JSON_TYPES or start.startswith(b"{"):
        return parse_json(gate, body)
    if document.content_type not in _HTML_TYPES and not start.startswith(b"<"):
        gate.refuse("is neither JSON nor HTML")
    return parse_html(gate, body)


def _with_learned(gate: Gate, file: File) -> File:
    learned = gate.learned(file.filename)
    if file.size is None and learned.size is not None:
        file = msgspec.structs.replace(file, size=learned.size)
    if learned.metadata_refused:
        file = msgspec.structs.replace(file, core_metadata=False)
    if learned.metadata_sha256 is not None and not isinstance(file.core_metadata, dict):
        file = msgspec.structs.replace(file, core_metadata={"sha256": learned.metadata_sha256})
    return file


def _revision(document: PageDocument, project: ProjectName, source: SourcePaths, serial: int | None) -> str:
    """A hash over everything that `parse_page` reads, so that equal documents have the same on every replica.

    It tells versions of a page apart and vouches for nothing, so speed counts.
    """
    facts = (project, source.name, source.default, document.url, document.content_type, serial)
    learned = sorted(document.learned.items(), key=lambda item: item[0])
    hashed = xxhash.xxh3_128(msgspec.json.encode([facts, learned]))
    hashed.update(document.body)
    return hashed.hexdigest()
