"""Read a project page in JSON (PEP 691 and its successors)."""

from __future__ import annotations

from typing import Any

from mirror.errors import InvalidName
from mirror.model import File, ProjectStatus
from mirror.names import project_name
from mirror.simple.entries import Draft, Gate
from mirror.simple.fields import (
    clean_hashes,
    clean_provenance,
    clean_size,
    clean_upload_time,
    is_api_1,
    metadata_from_json,
)
from mirror.simple.plain_json import read_plain
from mirror.simple.strict_json import BadJson, decode, is_shallow
from mirror.simple.terms import FILE_KEYS, META_KEYS, PAGE_KEYS


def parse_json(gate: Gate, body: bytes) -> Draft:
    """The page in `body`. Raises `UpstreamMisbehaved` if it is no JSON, or no page of API version 1."""
    plain = read_plain(gate, body)
    return parse_any_json(gate, body) if plain is None else _draft(gate, *plain, dropped=0)


def parse_any_json(gate: Gate, body: bytes) -> Draft:
    """The same, entry by entry: it suits every page, costs several times as much, and says what `read_plain` has to
    come to."""
    try:
        page = decode(body)
    except BadJson as error:
        gate.refuse(f"is no proper JSON: {error}")
    if type(page) is not dict:
        gate.refuse("is JSON, but no object")
    _check_page(gate, page)
    entries = page.get("files")
    if type(entries) is not list:
        gate.refuse("has no list of files")
    files = [file for entry in entries if (file := _file(gate, entry)) is not None]
    return _draft(gate, page, files, dropped=len(entries) - len(files))


def _draft(gate: Gate, page: dict[str, Any], files: list[File], *, dropped: int) -> Draft:
    meta = _check_page(gate, page)
    _check_name(gate, page.get("name"))
    serial = meta.get("_last-serial")
    return Draft(
        files=files,
        dropped=dropped,
        declared_versions=_versions(gate, page.get("versions")),
        status=_status(gate, page.get("project-status", meta.get("project-status"))),
        serial=serial if type(serial) is int and serial >= 0 else None,
        extra=_unknown(page, PAGE_KEYS),
        meta_extra=_unknown(meta, META_KEYS),
    )


def _check_page(gate: Gate, page: dict[str, Any]) -> dict[str, Any]:
    """The page's `meta`."""
    meta = page.get("meta")
    if type(meta) is not dict:
        gate.refuse("has no 'meta' object")
    check_api_version(gate, meta.get("api-version"))
    return meta


def check_api_version(gate: Gate, version: object) -> None:
    """Refuses a page whose API version is not 1.x (PEP 629)."""
    if type(version) is not str:
        gate.refuse("does not say its API version")
    if not is_api_1(version):
        gate.refuse(f"has API version {version[:20]!a}, where 1.x is understood")


def _file(gate: Gate, entry: Any) -> File | None:
    """One entry, or None if it is unusable.

    A key of the wrong type is ignored where an installer only loses comfort by that; where it would lose a
    safeguard (hashes, yanked, requires-python) the entry goes.
    """
    if type(entry) is not dict:
        return None
    get = entry.get
    filename, link = get("filename"), get("url")
    hashes, yanked, requires_python = get("hashes"), get("yanked"), get("requires-python")
    if type(filename) is not str or type(link) is not str:
        return None
    if type(hashes) is not dict and hashes is not None:
        return None
    if type(yanked) is not bool and type(yanked) is not str and yanked is not None:
        return None
    if type(requires_python) is not str and requires_python is not None:
        return None
    located = gate.admit(link)
    if located is None or located[2] != filename:
        return None
    url, path, _ = located
    gate.took(filename)
    metadata = get("core-metadata")
    if metadata is None:
        metadata = get("dist-info-metadata", get("data-dist-info-metadata"))
    signed, provenance, size = get("gpg-sig"), get("provenance"), get("size")
    return File(
        filename,
        url,
        path,
        clean_hashes(hashes) if hashes else {},
        clean_size(size),
        clean_upload_time(get("upload-time")),
        requires_python or None,
        metadata_from_json(metadata),
        True if yanked == "" else yanked or False,
        signed if type(signed) is bool else None,
        None if provenance is None else clean_provenance(provenance),
        None if entry.keys() <= FILE_KEYS else _unknown(entry, FILE_KEYS) or None,
    )


def _unknown(given: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """Keys for whoever understands them; those that begin with an underscore are private to upstream."""
    return {
        key: value for key, value in given.items() if key not in known and not key.startswith("_") and is_shallow(value)
    }


def _check_name(gate: Gate, name: object) -> None:
    if name is None:
        return
    if type(name) is not str:
        gate.refuse("has a name that is no text")
    try:
        same = project_name(name) == gate.project
    except InvalidName:
        same = False
    if not same:
        gate.refuse("names another project")


def _versions(gate: Gate, versions: object) -> list[str]:
    if versions is None:
        return []
    if not isinstance(versions, list):
        gate.refuse("has 'versions' that are no list")
    return [version for version in versions if type(version) is str]


def _status(gate: Gate, status: object) -> ProjectStatus | None:
    if status is None:
        return None
    if not isinstance(status, dict) or type(word := status.get("status")) is not str:
        gate.refuse("has a 'project-status' that is none")
    reason = status.get("reason")
    return ProjectStatus(word, reason if type(reason) is str else None)
