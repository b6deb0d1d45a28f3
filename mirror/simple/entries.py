"""Admit the entries of an upstream page one by one, and count those that are left off."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

from mirror.errors import UpstreamMisbehaved
from mirror.model import File, Learned, PageDocument, ProjectStatus
from mirror.names import ProjectName, may_belong
from mirror.simple.links import Links, Located, SourcePaths
from mirror.simple.terms import SIDECARS


@dataclass(slots=True)
class Draft:
    """What was read from a page's body, whichever its form."""

    files: list[File]
    dropped: int
    declared_versions: list[str] = field(default_factory=list)
    status: ProjectStatus | None = None
    serial: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    meta_extra: dict[str, Any] = field(default_factory=dict)


class Gate:
    """Decides which links of one page become entries: safe, of this project, each file name once."""

    def __init__(self, document: PageDocument, project: ProjectName, source: SourcePaths) -> None:
        self.document, self.project, self.source = document, project, source
        self.links = Links(source, document.url)
        self._seen: set[str] = set()

    def rebase(self, base: str) -> None:
        """From now on links are relative to `base` (`<base href>`)."""
        self.links = Links(self.source, self.document.url, base)

    def admit(self, link: str) -> Located | None:
        """Where `link` leads if it may become an entry; the first entry of a file name is the one that counts."""
        located = self.links.locate(link)
        if located is None:
            return None
        filename = located[2]
        if filename in self._seen or not may_belong(filename, self.project) or filename.endswith(SIDECARS):
            return None
        return located

    def took(self, filename: str) -> None:
        """The entry of `filename` was right in every respect."""
        self._seen.add(filename)

    def learned(self, filename: str) -> Learned:
        """What this mirror found out of a file by itself."""
        return self.document.learned.get(filename, _NOTHING)

    def refuse(self, why: str) -> NoReturn:
        """The whole page is unusable."""
        raise UpstreamMisbehaved(self.source.name, f"the page of {self.project} {why}")


_NOTHING = Learned()
