"""Clients of chosen networks are sent to the store for what it holds."""

from __future__ import annotations

from ipaddress import ip_network

from mirror.model import Redirect
from tests.web.conftest import SDIST, WHEEL
from tests.web.memory import MemoryRepository, serving

PATH = f"packages/ab/cd/{WHEEL}"
ELSEWHERE = "https://s3.example.com/packages/x?X-Amz-Signature=abc"
LOOPBACK = (ip_network("127.0.0.0/8"),)


async def test_k20_a_client_of_the_network_is_redirected_and_nobody_keeps_it(repository: MemoryRepository) -> None:
    repository.redirects[PATH] = Redirect(ELSEWHERE)
    async with serving(repository, redirect_networks=LOOPBACK) as served:
        answer = await served.get(f"/{PATH}")
        assert (answer.status, answer.headers["location"], answer.complete) == (302, ELSEWHERE, True)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-cache"] == "HIT store"
        assert "etag" not in answer.headers
        assert "open_file" not in {name for name, *_ in repository.asked}


async def test_k20_what_the_store_does_not_hold_is_served_from_here(repository: MemoryRepository) -> None:
    async with serving(repository, redirect_networks=LOOPBACK) as served:
        for name in (WHEEL, SDIST):
            answer = await served.get(f"/packages/ab/cd/{name}")
            assert (answer.status, answer.body) == (200, repository.blobs[f"packages/ab/cd/{name}"].content)


async def test_k20_clients_of_other_networks_are_served_from_here(repository: MemoryRepository) -> None:
    repository.redirects[PATH] = Redirect(ELSEWHERE)
    for networks in ((), (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))):
        async with serving(repository, redirect_networks=networks) as served:
            answer = await served.get(f"/{PATH}")
            assert (answer.status, answer.body) == (200, repository.blobs[PATH].content)
    assert "redirect" not in {name for name, *_ in repository.asked}


async def test_head_and_conditions_are_answered_from_here(repository: MemoryRepository) -> None:
    repository.redirects[PATH] = Redirect(ELSEWHERE)
    async with serving(repository, redirect_networks=LOOPBACK) as served:
        head = await served.get(f"/{PATH}", method="HEAD")
        assert head.status == 200
        again = await served.get(f"/{PATH}", {"If-None-Match": head.headers["etag"]})
        assert again.status == 304


async def test_sidecars_are_never_redirected(repository: MemoryRepository) -> None:
    repository.redirects[PATH] = repository.redirects[f"{PATH}.metadata"] = Redirect(ELSEWHERE)
    async with serving(repository, redirect_networks=LOOPBACK) as served:
        answer = await served.get(f"/{PATH}.metadata")
        assert (answer.status, answer.body) == (200, repository.sidecars[PATH, "metadata"])
