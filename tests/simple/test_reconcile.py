from __future__ import annotations

from typing import Any

import pytest

import mirror.simple.reconcile as reconcile_module
from mirror.simple.reconcile import reconcile
from tests.simple.samples import HOST, WHEEL, digest, entry, parse_files, path_of

OTHER = "click-1.0.tar.gz"


def sha(letter: str, **more: str) -> dict[str, str]:
    return {"sha256": letter * 64, **more}


def test_nothing_changed() -> None:
    old, new = parse_files(entry()), parse_files(entry())
    result = reconcile(old, new)
    assert result.page is new
    assert (result.changed, result.withdrawn) == (0, {})


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile_module, "MAX_REMEMBERED", 3)
    pinned = reconcile(parse_files(entry()), parse_files(entry(hashes=sha("b"))))
    page, remembered = pinned.page, pinned.withdrawn
    for n in range(6):
        later = parse_files(entry(hashes=sha("b")), entry(f"click-{n}.0.tar.gz"))
        result = reconcile(page, later, remembered)
        page, remembered = result.page, result.withdrawn
    names = [path.rpartition("/")[2] for path in remembered]
    assert names == [WHEEL, "click-3.0.tar.gz", "click-4.0.tar.gz"], "those that contradict the page stay"


def test_what_is_no_identity_may_change() -> None:
    new = parse_files(entry(yanked="bad", size=5), entry(OTHER))
    result = reconcile(parse_files(entry()), new)
    assert result.page is new
    assert result.changed == 0


def test_u19_u20_first_digest_stays() -> None:
    old, new = parse_files(entry()), parse_files(entry(hashes=sha("b"), size=1, yanked="x"), entry(OTHER))
    result = reconcile(old, new)
    kept, other = result.page.files
    assert kept.hashes == {"sha256": digest(WHEEL)}
    assert (kept.size, kept.url, kept.yanked) == (97941, old.files[0].url, "x")
    assert other.filename == OTHER
    assert result.changed == 1
    assert result.page.revision not in (old.revision, new.revision)
    assert reconcile(old, new).page.revision == result.page.revision
    assert result.withdrawn == {path_of(WHEEL): {"sha256": digest(WHEEL)}}


def test_no4_dropping_strong_hashes_keeps_the_old_entry() -> None:
    old = parse_files(entry())
    md5 = reconcile(old, parse_files(entry(hashes={"md5": "a" * 32})))
    assert md5.page.files == old.files
    assert md5.changed == 1
    none = reconcile(md5.page, parse_files(entry(hashes={})), md5.withdrawn)
    assert none.page.files[0].hashes == {"sha256": digest(WHEEL)}
    assert none.changed == 1


def test_no4_a_strong_hash_that_is_left_out_is_kept_beside_the_new_one() -> None:
    old = parse_files(entry(hashes=sha("a")))
    result = reconcile(old, parse_files(entry(hashes={"sha512": "c" * 128})))
    assert result.page.files[0].hashes == {"sha256": "a" * 64, "sha512": "c" * 128}
    assert result.changed == 0
    assert result.withdrawn == {path_of(WHEEL): {"sha256": "a" * 64, "sha512": "c" * 128}}


def test_a_weak_first_digest_binds_nobody() -> None:
    new = parse_files(entry(hashes=sha("b")))
    result = reconcile(parse_files(entry(hashes={"md5": "a" * 32})), new)
    assert result.page is new
    assert result.changed == 0


def test_withdrawn_files_are_remembered_for_lock_files() -> None:
    old = parse_files(entry(), entry(OTHER, hashes={}))
    first = reconcile(old, parse_files(entry()))
    assert first.withdrawn == {path_of(OTHER): {}}
    second = reconcile(first.page, parse_files(), first.withdrawn)
    assert second.withdrawn == {path_of(OTHER): {}, path_of(WHEEL): {"sha256": digest(WHEEL)}}
    third = reconcile(second.page, old, second.withdrawn)
    assert third.withdrawn == {}
    assert third.page is old


def test_a_file_that_moved_keeps_its_old_path_in_memory() -> None:
    moved = parse_files(entry(url=f"{HOST}/packages/new/{WHEEL}"))
    result = reconcile(parse_files(entry()), moved)
    assert result.page is moved
    assert result.withdrawn == {path_of(WHEEL): {"sha256": digest(WHEEL)}}
    assert reconcile(result.page, moved, result.withdrawn).withdrawn == result.withdrawn


def test_u20_a_withdrawn_file_cannot_return_with_other_bytes() -> None:
    gone = reconcile(parse_files(entry()), parse_files())
    back: Any = parse_files(entry(hashes=sha("b"), url=f"{HOST}/packages/evil/{WHEEL}"))
    result = reconcile(gone.page, back, gone.withdrawn)
    (file,) = result.page.files
    assert file.hashes == {"sha256": digest(WHEEL)}
    assert file.path == path_of(WHEEL)
    assert (file.size, file.core_metadata) == (None, False)
    assert result.changed == 1


def test_u20_the_memory_survives_a_restart() -> None:
    new = parse_files(entry(hashes=sha("b")))
    before = reconcile(parse_files(entry()), new)
    after = reconcile(new, new, before.withdrawn)
    assert after.page.files[0].hashes == {"sha256": digest(WHEEL)}
    assert after.changed == 1
    assert after.withdrawn == before.withdrawn
    healed = reconcile(after.page, parse_files(entry()), after.withdrawn)
    assert healed.changed == 0
    assert healed.withdrawn == {}
