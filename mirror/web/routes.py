"""Turns a raw request target into a route: decoded once, strictly, and before anything is done with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote

from mirror.errors import BadRequest, InvalidName, NotFound
from mirror.names import ProjectName, file_name, file_path, project_name, source_name
from mirror.simple.terms import SIDECARS

MAX_TARGET: Final = 4096
"""Longest request target, in characters; the longest legal file path is 1024, tripled by percent-encoding."""

_VISIBLE = re.compile(r"[!-~]+", re.ASCII)
_ESCAPE = re.compile(r"%(.{0,2})", re.ASCII)
_PATH = re.compile(r"/(?:[A-Za-z0-9._+!~@=,-]+/)*(?:[A-Za-z0-9._+!~@=,-]+)?", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HomeRoute:
    """The page for people at `/`."""


@dataclass(frozen=True, slots=True)
class ProjectListRoute:
    """The list of all projects; `override` is the `format` parameter of the query (PEP 691)."""

    override: str | None = None


@dataclass(frozen=True, slots=True)
class ProjectPageRoute:
    """One project's page, by its normalised name."""

    project: ProjectName
    override: str | None = None


@dataclass(frozen=True, slots=True)
class FileRoute:
    """An archive by its public path, as in `File.path`; or, with a `sidecar`'s kind (its suffix without the dot), what stands beside it."""

    path: str
    sidecar: str | None = None


@dataclass(frozen=True, slots=True)
class LegacyJsonRoute:
    """The legacy JSON document of a project, or of one version of it; `mount` is where it stands below our root."""

    project: ProjectName
    version: str | None = None
    mount: str = ""


@dataclass(frozen=True, slots=True)
class ProvenanceRoute:
    """A file's attestations by project and version (PEP 740's integrity API)."""

    project: ProjectName
    version: str
    filename: str


@dataclass(frozen=True, slots=True)
class HealthRoute:
    """A probe."""

    probe: Literal["livez", "readyz"]


@dataclass(frozen=True, slots=True)
class MetricsRoute:
    """The counters."""


@dataclass(frozen=True, slots=True)
class RedirectRoute:
    """Another spelling of a URL; `location` is relative and made of validated parts, so it never leaves this host."""

    location: str


Route = (
    HomeRoute
    | ProjectListRoute
    | ProjectPageRoute
    | FileRoute
    | LegacyJsonRoute
    | ProvenanceRoute
    | HealthRoute
    | MetricsRoute
    | RedirectRoute
)


def parse_target(target: str) -> Route:
    """The route that a request target, as it stood in the request line, names.

    Raises `BadRequest` for anything but the origin form (RFC 9112 §3.2.1), so that this server is no proxy, and
    `NotFound` for every path that names nothing here, invalid names and forbidden escapes included.
    """
    if not target.startswith("/") or target.startswith("//") or "#" in target:
        raise BadRequest("The request target must be an absolute path of this server.")
    if len(target) > MAX_TARGET or not _VISIBLE.fullmatch(target):
        raise NotFound("This path is too long or holds characters that no path of this server has.")
    raw_path, _, query = target.partition("?")
    path = _decode(raw_path)
    try:
        return _route(path[1:].split("/"), query)
    except InvalidName as error:
        # In a URL a name that cannot exist is a resource that does not exist; nobody needs to be asked.
        raise NotFound(str(error)) from error


def _decode(raw: str) -> str:
    """`raw` without percent-encoding.

    Only characters that may stand in a segment may be encoded: never a separator, `%` itself (so nothing can be
    decoded twice), a control character or half of a UTF-8 sequence. A `+` stays a plus sign.
    """
    path = _ESCAPE.sub(_character, raw)
    if not _PATH.fullmatch(path) or any(segment and not segment.strip(".") for segment in path.split("/")):
        raise NotFound("No path of this server looks like this.")
    return path


def _character(escape: re.Match[str]) -> str:
    digits = escape[1]
    if not re.fullmatch(r"[0-9A-Fa-f]{2}", digits, re.ASCII):
        raise NotFound("This path holds a '%' that begins no escape.")
    # A '/' or '%' here would pass the check of the whole path, so they are refused where they appear.
    if (character := chr(int(digits, 16))) in "/%":
        raise NotFound(f"This path holds the escape %{digits}, which is not admitted.")
    return character


def _route(segments: list[str], query: str) -> Route:
    match segments:
        case [""]:
            return HomeRoute()
        case ["livez"]:
            return HealthRoute("livez")
        case ["readyz"]:
            return HealthRoute("readyz")
        case ["metrics"]:
            return MetricsRoute()
        case ["pypi", *rest] if route := _below(rest, query, "pypi/"):
            return route
    if route := _below(segments, query, ""):
        return route
    raise NotFound("Nothing is served under this path.")


def _below(segments: list[str], query: str, mount: str) -> Route | None:
    """The route below `mount`, one of the two, which answer alike."""
    match segments:
        case ["simple"]:
            return _redirect("simple/", query)
        case ["simple", ""]:
            return ProjectListRoute(_override(query))
        case ["simple", raw]:
            return _redirect(f"{project_name(raw)}/", query)
        case ["simple", raw, ""]:
            name = project_name(raw)
            return ProjectPageRoute(name, _override(query)) if raw == name else _redirect(f"../{name}/", query)
        case ["packages", _, *_]:
            return _file(segments)
        case ["files", source, _, *_] if segments[2:] not in (["json"], ["json", ""]):
            source_name(source)
            return _file(segments)
        case [raw, "json"] | [raw, "json", ""]:
            return LegacyJsonRoute(project_name(raw), mount=mount)
        case [raw, version, "json"] | [raw, version, "json", ""]:
            return LegacyJsonRoute(project_name(raw), _version(version), mount)
        case ["integrity", raw, version, filename, "provenance"]:
            return ProvenanceRoute(project_name(raw), _version(version), file_name(filename))
    return None


def _file(segments: list[str]) -> FileRoute:
    path = "/".join(segments)
    for suffix in SIDECARS:
        if path.endswith(suffix):
            return FileRoute(file_path(path.removesuffix(suffix)), suffix[1:])
    return FileRoute(file_path(path))


def _version(raw: str) -> str:
    if not _VERSION.fullmatch(raw):
        raise InvalidName("version", raw, "only ASCII letters, digits and '._+!-', at most 128 characters")
    return raw


def _redirect(location: str, query: str) -> RedirectRoute:
    return RedirectRoute(f"{location}?{query}" if query else location)


def _override(query: str) -> str | None:
    """The first `format` of a query; a `+` that arrives as a space, or escaped, is a plus sign."""
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key == "format":
            return unquote(value).replace(" ", "+")
    return None
