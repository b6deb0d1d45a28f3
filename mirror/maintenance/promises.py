"""What the stored page of a project says of the bytes of its files, for whoever checks them without a mirror."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from mirror.errors import IntegrityError, UpstreamMisbehaved
from mirror.model import File, Learned, PageDocument
from mirror.names import ProjectName
from mirror.ports import Store
from mirror.repositories.entries import parsed
from mirror.repositories.envelope import MAX_BODY, DamagedDocument, unpack
from mirror.simple.links import SourcePaths
from mirror.verify import Check


@dataclass(frozen=True, slots=True)
class Promises:
    """The files that a page names, those that only earlier ones named, and what the mirror found out itself."""

    files: dict[str, File]
    withdrawn: dict[str, list[File]]
    """By file name; an index that moves its files may have withdrawn several of one name."""
    learned: dict[str, Learned]

    def of(self, name: str) -> list[File]:
        """The entries of which one has to be true of the archive `name`; empty if no page ever named it."""
        named = self.files.get(name)
        return [named] if named is not None else self.withdrawn.get(name, [])


async def read_promises(store: Store, key: str, source: str, project: ProjectName) -> Promises | None:
    """The promises of the page at `key`, None if it is not there. Raises `DamagedDocument`, `StoreFailure`."""
    blob = await store.read(key, MAX_BODY)
    if blob is None:
        return None
    return await promises(await asyncio.to_thread(unpack, blob), source, project)


async def promises(document: PageDocument, source: str, project: ProjectName) -> Promises:
    """The promises of a page. Raises `DamagedDocument` if it is none."""
    # Whether this source is the default one is not known here. It decides about public paths alone, and files are
    # told apart by their names.
    try:
        entry, _ = await parsed(document, project, SourcePaths(source, default=True), None)
    except UpstreamMisbehaved as error:
        raise DamagedDocument(f"The stored page is no index page: {error.why}.") from error
    withdrawn: dict[str, list[File]] = {}
    for path, hashes in entry.files.withdrawn.items():
        name = path.rpartition("/")[2]
        withdrawn.setdefault(name, []).append(File(filename=name, url="", path=path, hashes=hashes))
    return Promises(entry.page.by_filename, withdrawn, document.learned)


class Proof:
    """Holds one archive against all entries that speak of it; one that is true of it is enough."""

    def __init__(self, files: list[File]) -> None:
        self._files = files
        self._checks = [Check(file, "store") for file in files]

    @property
    def proves(self) -> bool:
        """Whether any entry has a digest to check by."""
        return any(check.proves for check in self._checks)

    def update(self, piece: bytes) -> None:
        for check in self._checks:
            check.update(piece)

    def finish(self) -> None:
        """Raises `IntegrityError` if none of the entries is true of the bytes."""
        failure: IntegrityError | None = None
        for check, file in zip(self._checks, self._files, strict=True):
            try:
                check.finish(file.size)
            except IntegrityError as error:
                failure = failure or error
            else:
                return
        if failure is not None:
            raise failure


def metadata_digest(file: File) -> tuple[str, str] | None:
    """Algorithm and digest that the page gives of an archive's core metadata; None where it gives none."""
    if not isinstance(file.core_metadata, dict):
        return None
    for algorithm in ("sha256", *file.core_metadata):
        if algorithm in file.core_metadata and algorithm in hashlib.algorithms_guaranteed - {"shake_128", "shake_256"}:
            return algorithm, file.core_metadata[algorithm]
    return None
