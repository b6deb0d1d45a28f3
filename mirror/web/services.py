"""What the web layer needs of the rest, in one object."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from mirror.counters import Counters
from mirror.flight import Tasks
from mirror.ports import Clock, Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The collaborators and settings of the web layer."""

    repository: Repository
    counters: Counters
    clock: Clock
    tasks: Tasks
    instance: str
    """This process's own name in `Via`; a request that carries it has come round in a circle."""
    check_store: Callable[[], Awaitable[None]]
    """Raises `StoreFailure` if the store is unusable."""
    upstream_states: Callable[[], Mapping[str, str]] = dict
    """By name of upstream, one word on what was last seen of it."""
    store_facts: Callable[[], Mapping[str, Any]] = dict
    """What the store was seen to be capable of, for readiness."""
    draining: Callable[[], bool] = lambda: False
    """True once the process has been told to end."""
    public_url: str | None = None
    """Absolute URL of our root as clients see it; None: as each client addresses us."""
    page_memory: int = 64 << 20
    """Bytes of finished page bodies that are kept."""
    stall_timeout: float = 60.0
    """Seconds after which a client that takes nothing is cut off."""
    redirect_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Clients in these are sent to the store for archives that it holds."""
    access_log: bool = True
