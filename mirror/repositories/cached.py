"""One upstream as a repository: everything it says is kept, so that it is asked as rarely as possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mirror.counters import Counters
from mirror.fill.fills import Fills
from mirror.flight import Tasks
from mirror.freshness import Lifetime
from mirror.model import WHOLE, Content, FileFacts, FileRef, PageAnswer, Redirect, Span
from mirror.names import ProjectName
from mirror.ports import Clock, Leases, Presigner, ProjectListAnswer, Sink, Store, Upstream
from mirror.repositories.archives import Archives
from mirror.repositories.arrivals import Arrivals
from mirror.repositories.files import Files
from mirror.repositories.legacy import LegacyJson
from mirror.repositories.metadata import Metadata
from mirror.repositories.pages import Pages
from mirror.repositories.project_list import ProjectLists
from mirror.repositories.provenance import Provenance
from mirror.repositories.redirects import Redirects
from mirror.simple.links import SourcePaths
from mirror.spool import Spools


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a `CachedRepository` behaves; each field is the setting of the same name."""

    pages: Lifetime
    lists: Lifetime
    missing_ttl: float = 60
    offline: bool = False
    page_memory: int = 64 * 1024 * 1024
    keep_unverified: bool = False
    finish_abandoned: int = 64 * 1024 * 1024
    derive_metadata: bool = True
    pass_through: int = 24
    """Ranges that may go straight from upstream to their client at one time; from `upstream_max_connections`."""


class CachedRepository:
    """Answers for one upstream: memory, then the store, then upstream."""

    def __init__(
        self,
        upstream: Upstream,
        store: Store,
        spools: Spools,
        clock: Clock,
        tasks: Tasks,
        counters: Counters,
        rules: Rules,
        *,
        default: bool = True,
        presigner: Presigner | None = None,
        sink: Sink | None = None,
        leases: Leases | None = None,
    ) -> None:
        """`sink`: takes archives for which `spools` have no room. `leases`: with the replicas that share the store."""
        paths = SourcePaths(upstream.name, default)
        offline = rules.offline
        self._fills = Fills(upstream, spools, tasks, counters, finish_abandoned=rules.finish_abandoned)
        self._pages = Pages(
            upstream,
            store,
            clock,
            tasks,
            counters,
            rules.pages,
            paths,
            offline=offline,
            missing_ttl=rules.missing_ttl,
            memory=rules.page_memory,
        )
        archives = Archives(upstream.name, store, tasks, counters, keep_unverified=rules.keep_unverified)
        self._metadata = Metadata(
            upstream, self._pages, archives, tasks, counters, derive=rules.derive_metadata, offline=offline
        )
        self._provenance = Provenance(upstream, archives, tasks, offline=offline)
        arrivals = Arrivals(
            store, archives, self._pages, self._metadata, self._fills, counters, leases=leases, sink=sink
        )
        self._files = Files(
            upstream,
            self._pages,
            archives,
            self._metadata,
            arrivals,
            counters,
            offline=offline,
            pass_through=rules.pass_through,
        )
        self._redirects = Redirects(self._files, archives, presigner, clock, counters)
        self._lists = ProjectLists(upstream, store, spools, clock, tasks, counters, rules.lists, offline=offline)
        self._legacy = LegacyJson(
            upstream, self._pages, self._metadata, store, clock, tasks, counters, rules.pages, offline=offline
        )

    async def project_list(self) -> ProjectListAnswer:
        return await self._lists.answer()

    async def project_page(self, project: ProjectName, *, newest: bool = False) -> PageAnswer:
        return await self._pages.answer(project, newest=newest)

    async def open_file(self, ref: FileRef, span: Span = WHOLE) -> Content:
        return await self._files.open(ref, span)

    async def redirect(self, ref: FileRef) -> Redirect | None:
        return await self._redirects.answer(ref)

    async def file_facts(self, ref: FileRef) -> FileFacts:
        return await self._files.facts(ref)

    async def open_sidecar(self, ref: FileRef, kind: str) -> bytes:
        project, file, _ = await self._files.find(ref)
        match kind:
            case "metadata":
                return await self._metadata.core_metadata(project, file)
            case "provenance":
                return await self._provenance.document(project, file)
            case _:
                raise ValueError(f"no such kind of sidecar: {kind}")

    async def legacy_json(self, project: ProjectName, version: str | None = None) -> dict[str, Any]:
        return await self._legacy.answer(project, version)

    def close(self) -> None:
        """Lets go of the threads; to be called when no download runs any more."""
        self._fills.close()
        self._lists.close()
