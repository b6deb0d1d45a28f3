"""Every object of a store looked at, from the store alone; what is damaged can be taken out of service."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from mirror.errors import StoreFailure
from mirror.flight import Tasks
from mirror.maintenance.findings import Account, Finding, Kind
from mirror.maintenance.other_checks import OtherChecks
from mirror.maintenance.project_check import ProjectCheck
from mirror.maintenance.walk import Holding, walk
from mirror.maintenance.work import each
from mirror.ports import Store, StoredKey

PROJECTS_AT_ONCE: Final = 8
READS_AT_ONCE: Final = 16

log = structlog.get_logger()


class Verification:
    """One run. A running mirror may use the store meanwhile: nothing is reported that a second look does not confirm."""

    def __init__(
        self,
        store: Store,
        tasks: Tasks,
        *,
        repair: bool = False,
        sample: float = 1.0,
        found: Callable[[Finding], None] = lambda _: None,
        progress: Callable[[Account], None] = lambda _: None,
    ) -> None:
        """`sample`: the part of archives and sidecars whose bytes are read, chosen at random. `repair`: quarantine
        what is damaged, hosted objects apart. `found` is told of each finding, `progress` often."""
        self.account = Account()
        self._store, self._tasks, self._repair = store, tasks, repair
        self._found, self._progress = found, progress
        chance = random.Random()  # noqa: S311 - it chooses what to look at

        def sampled() -> bool:
            return sample >= 1 or chance.random() < sample

        turn = asyncio.Semaphore(READS_AT_ONCE)
        self._projects = ProjectCheck(store, tasks, self.account, turn, sampled)
        self._others = OtherChecks(store, self.account, sampled)

    async def run(self) -> Account:
        """Looks at everything. Raises `StoreFailure` if the store cannot be listed."""
        await each(self._tasks, walk(self._store), self._one, at_once=PROJECTS_AT_ONCE)
        async for finding in self._others.hosted():
            self._report(finding)  # never touched: nobody could fetch them again
        async for finding in self._others.bookkeeping():
            await self._settle(finding)
        return self.account

    async def _one(self, item: Holding | StoredKey) -> None:
        if isinstance(item, Holding):
            self.account.projects += 1
            self.account.objects += len(item.records) + len(item.files)
            suspects = {finding.key for finding in await self._projects.look(item)}
            if suspects:
                for finding in await self._projects.look_again(item, suspects):
                    await self._settle(finding)
        else:
            self.account.objects += 1
            wrong = await self._others.of_source(item.key)
            if wrong is not None:
                await self._settle(wrong)
        self._progress(self.account)

    async def _settle(self, finding: Finding) -> None:
        if self._repair and finding.kind is Kind.DAMAGED and may_be_quarantined(finding.key):
            try:
                await self._store.quarantine(finding.key)
            except StoreFailure as error:
                log.error("damaged object not quarantined", key=finding.key, reason=str(error))
            else:
                self.account.quarantined += 1
                finding = replace(finding, quarantined=True)
        self._report(finding)

    def _report(self, finding: Finding) -> None:
        self.account.findings[finding.kind] += 1
        self._found(finding)


def may_be_quarantined(key: str) -> bool:
    """Whether the mirror makes or fetches the object anew once it is gone; so never what people put or decided."""
    return not key.startswith(("local/", "local-projects/", "pins/")) and not key.endswith("/upstream.json")
