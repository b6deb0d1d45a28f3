"""Answers for archives and what stands beside them: whole, in part, not modified, or only the head."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from aiohttp import web

from mirror.errors import NoSuchSidecar, StoreFailure
from mirror.model import WHOLE, Digest, FileRef, Origin, Redirect, Span
from mirror.ports import Repository
from mirror.web.conditions import none_match, parse_range, range_holds
from mirror.web.headers import header, single_header
from mirror.web.pages import cache_status
from mirror.web.routes import FileRoute
from mirror.web.sending import Sender, WrongLength

Network = IPv4Network | IPv6Network

FOR_EVER: Final = "max-age=365000000, immutable, public"
"""For bytes that a digest fixes (RFC 8246)."""

PROVENANCE_TYPE: Final = "application/vnd.pypi.integrity.v1+json"

_SIDECAR_TYPES: Final = {"metadata": "text/plain; charset=utf-8", "provenance": PROVENANCE_TYPE}


class Files:
    """Answers requests for the archives of `repository`, and for their sidecars."""

    def __init__(self, repository: Repository, sender: Sender, redirect_networks: tuple[Network, ...] = ()) -> None:
        """Clients in `redirect_networks` are sent to the store for what it holds."""
        self._repository, self._sender, self._networks = repository, sender, redirect_networks

    async def answer(self, request: web.Request, route: FileRoute) -> web.StreamResponse:
        """Raises what `Repository.open_file` raises; once the head is sent, `Unfinished`."""
        ref = FileRef(route.path)
        match route.sidecar:
            case "metadata" | "provenance":
                return await self.answer_sidecar(request, ref, route.sidecar)
            case "asc":
                raise NoSuchSidecar(ref.filename, "signature")
        if request.method == "HEAD":
            return await self._head(request, ref)
        span = parse_range(single_header(request, "Range"))
        wanted, if_range = header(request, "If-None-Match"), header(request, "If-Range")
        if wanted is not None or (span is not None and if_range is not None):
            # The digest decides, and is known without opening anything.
            facts = await self._repository.file_facts(ref)
            headers = _headers(ref.filename, facts.digest, facts.origin)
            if none_match(wanted, headers.get("ETag")):
                return _not_modified(headers)
            if not range_holds(if_range, headers.get("ETag")):
                span = None
        return await self._get(request, ref, span)

    async def _head(self, request: web.Request, ref: FileRef) -> web.Response:
        facts = await self._repository.file_facts(ref)
        headers = _headers(ref.filename, facts.digest, facts.origin)
        if none_match(header(request, "If-None-Match"), headers.get("ETag")):
            return _not_modified(headers)
        return web.Response(headers={**headers, "Content-Length": str(facts.size)})

    async def _get(self, request: web.Request, ref: FileRef, span: Span | None) -> web.StreamResponse:
        if self._networks and _is_in(request.remote, self._networks):
            redirect = await self._repository.redirect(ref)
            if redirect is not None:
                return _sent_elsewhere(redirect)
        content = await self._repository.open_file(ref, span or WHOLE)
        headers = _headers(ref.filename, content.digest, content.origin)
        status = HTTPStatus.OK
        if span is not None and content.start < content.stop:
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {content.start}-{content.stop - 1}/{content.size}"
        try:
            return await self._sender.send_content(request, status, headers, content)
        except (OSError, WrongLength) as error:
            # Before the head: the file is open, but its bytes cannot be had.
            raise StoreFailure("read", ref.filename, "its bytes could not be read") from error

    async def answer_sidecar(self, request: web.Request, ref: FileRef, kind: str) -> web.Response:
        """Raises what `Repository.open_sidecar` raises."""
        body = await self._repository.open_sidecar(ref, kind)
        etag = Digest("sha256", hashlib.sha256(body).hexdigest()).etag
        headers = {
            "ETag": etag,
            # Attestations can be added to a file that has been published; its metadata cannot change.
            "Cache-Control": FOR_EVER if kind == "metadata" else "max-age=600, public",
            "Accept-Ranges": "bytes",
        }
        if none_match(header(request, "If-None-Match"), etag):
            return _not_modified(headers)
        headers["Content-Type"] = _SIDECAR_TYPES[kind]
        span = parse_range(single_header(request, "Range"))
        if span is None or request.method == "HEAD" or not range_holds(header(request, "If-Range"), etag):
            return web.Response(body=body, headers=headers)
        start, stop = span.resolve(len(body))
        if start == stop:
            return web.Response(body=body, headers=headers)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
        return web.Response(status=HTTPStatus.PARTIAL_CONTENT, body=body[start:stop], headers=headers)


def _headers(filename: str, digest: Digest | None, origin: Origin) -> dict[str, str]:
    """Headers that an archive has on 200, 206 and 304 alike; `filename` is one that `names.file_name` admits."""
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-cache" if digest is None else FOR_EVER,
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f'attachment; filename="{filename}"',
        "X-Cache": cache_status(origin),
    }
    if digest is not None:
        headers["ETag"] = digest.etag
    return headers


def _is_in(address: str | None, networks: tuple[Network, ...]) -> bool:
    try:
        client = ip_address(address or "")
    except ValueError:  # a client on a Unix socket has no address
        return False
    if isinstance(client, IPv6Address) and client.ipv4_mapped is not None:
        client = client.ipv4_mapped
    return any(client in network for network in networks)


def _sent_elsewhere(redirect: Redirect) -> web.Response:
    """A 302 that nobody keeps: its URL expires (RFC 9110 §15.4.3)."""
    return web.Response(
        status=HTTPStatus.FOUND,
        headers={"Location": redirect.url, "Cache-Control": "no-store", "X-Cache": cache_status(Origin.STORE)},
    )


def _not_modified(headers: dict[str, str]) -> web.Response:
    kept = {name: value for name, value in headers.items() if not name.startswith("Content-")}
    return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=kept)
