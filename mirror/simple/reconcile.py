"""Hold an upstream to its word: a file keeps the first digest that its index gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import xxhash

from mirror.model import STRONG_DIGESTS, File, ProjectPage

MAX_REMEMBERED: Final = 20_000
"""Files that are remembered with a page that does not name them; beyond that those go that were withdrawn first. An
index that puts a token into its paths withdraws all its files whenever it is asked."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """A new page, with the promises of earlier ones kept."""

    page: ProjectPage
    changed: int
    """Entries for which upstream now names another digest, or no strong one; the first stays in force."""
    withdrawn: dict[str, dict[str, str]]
    """Hashes by public path that are to be remembered with the new page: of the files that it no longer names,
    and of those to which it gives other digests than they had. With them `reconcile(page, page, withdrawn)` comes to the
    same result again when the new document is read anew."""


def reconcile(
    old: ProjectPage, new: ProjectPage, withdrawn: Mapping[str, Mapping[str, str]] | None = None
) -> Reconciled:
    """`new` as it may be served to whoever has seen `old`.

    Files on an index never change, so a file name that is known with a strong digest keeps it: where the new
    page names another value of the same algorithm or gives no strong digest, the old entry stays (with the new
    page's `yanked`, which is advice and not identity); a strong digest that is merely left out is kept beside
    the new ones. `withdrawn` is what an earlier `Reconciled` remembered: a file that vanished cannot come back
    with other bytes either.
    """
    remembered = {path: dict(hashes) for path, hashes in (withdrawn or {}).items()}
    if not remembered and (old is new or old.files == new.files):
        return Reconciled(new, 0, {})
    by_filename = {path.rpartition("/")[2]: path for path in remembered}
    known = old.by_filename
    files: list[File] = []
    amended: list[File] = []
    changed = 0
    for file in new.files:
        kept = file
        if (path := by_filename.get(file.filename)) is not None:
            held = remembered[path]
            if _conflict(held, file.hashes):
                # Nothing but the digests is known of the first bytes, so nothing else is promised of them.
                kept = msgspec.structs.replace(file, path=path, hashes=held, size=None, core_metadata=False)
            else:
                kept = _with_hashes(file, held)
        if kept is file and (before := known.get(file.filename)) is not None and before.hashes != file.hashes:
            if _conflict(before.hashes, file.hashes):
                kept = msgspec.structs.replace(before, yanked=file.yanked)
            else:
                kept = _with_hashes(file, before.hashes)
        if kept.hashes is not file.hashes:
            amended.append(kept)
            remembered[kept.path] = dict(kept.hashes)
            changed += _conflict(kept.hashes, file.hashes)
        files.append(kept)
    named = {file.path for file in files}
    pinned = {file.path for file in amended}
    remembered |= {file.path: dict(file.hashes) for file in old.files if file.path not in named}
    remembered = {path: hashes for path, hashes in remembered.items() if path not in named or path in pinned}
    if (excess := len(remembered) - MAX_REMEMBERED) > 0:
        forgotten = set([path for path in remembered if path not in pinned][:excess])
        remembered = {path: hashes for path, hashes in remembered.items() if path not in forgotten}
    if amended:
        new = replace(new, files=tuple(files), revision=_revision(new.revision, amended))
    return Reconciled(new, changed, remembered)


def _strong(hashes: Mapping[str, str]) -> dict[str, str]:
    return {algorithm: hashes[algorithm] for algorithm in STRONG_DIGESTS if algorithm in hashes}


def _conflict(first: Mapping[str, str], later: Mapping[str, str]) -> bool:
    """Whether `later` contradicts the strong digests of `first`, or gives none of its own."""
    promised, given = _strong(first), _strong(later)
    return bool(promised) and (not given or any(promised[a] != given[a] for a in promised.keys() & given.keys()))


def _with_hashes(file: File, first: Mapping[str, str]) -> File:
    left_out = {a: value for a, value in _strong(first).items() if a not in file.hashes}
    return msgspec.structs.replace(file, hashes={**file.hashes, **left_out}) if left_out else file


def _revision(revision: str, amended: list[File]) -> str:
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode([revision, amended], order="deterministic"))
