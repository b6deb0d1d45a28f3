"""Admit the entries of an upstream page one by one, and count those that are left off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from string import ascii_letters, digits
from typing import Any, Final, NoReturn

from mirror.errors import UpstreamMisbehaved
from mirror.model import File, Learned, PageDocument, ProjectStatus
from mirror.names import MAX_FILENAME, ProjectName, may_belong, project_name_length
from mirror.simple.columns import consist_of
from mirror.simple.links import Links, Located, SourcePaths
from mirror.simple.terms import SIDECARS

_FILENAME: Final = (ascii_letters + digits + "._+!-").encode()
_SPELLINGS: Final = 8
"""Of a project's name, in the file names of a page that is admitted at once."""


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

    def admit_all(self, links: Sequence[str], filenames: Sequence[str]) -> tuple[Sequence[str], Sequence[str]] | None:
        """The URLs and public paths of a page's entries if `admit` would admit all of them under these file names.

        None where that takes a look at each of them, which costs many times as much.
        """
        if max(map(len, filenames)) > MAX_FILENAME or not consist_of(filenames, _FILENAME):
            return None
        if len(set(filenames)) != len(filenames) or any(map(str.endswith, filenames, repeat(SIDECARS))):
            return None
        if not all(map(str.endswith, links, ["/" + filename for filename in filenames])):
            return None
        return self.links.locate_all(links) if self._may_all_belong(filenames) else None

    def _may_all_belong(self, filenames: Sequence[str]) -> bool:
        # Over the years a project's name is spelt in very few ways: one file that may belong tells of many.
        left = filenames
        for _ in range(_SPELLINGS):
            length = project_name_length(left[0], self.project)
            if length is None:
                return False
            spelt = left[0][: length + 1]
            if "-" in spelt[:-1]:  # which it cannot be in a wheel's name
                left = [filename for filename in left if not filename.startswith(spelt) or filename.endswith(".whl")]
            else:
                left = [filename for filename in left if not filename.startswith(spelt)]
            if not left:
                return True
        return False

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
