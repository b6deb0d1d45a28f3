"""What people type, and what comes back: over a store in a folder."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mirror.maintenance.last_use import DAY, day_name, day_of, pack_record
from mirror.names import archive_key, page_key, project_name
from mirror.stores.keys import access_hash
from tests.cli.store_command import contents_of, stocked, store_command, store_json
from tests.maintenance.stocked import SOURCE, age, flip

COMMANDS = ["copy", "du", "gc", "init", "stats", "verify"]


def test_help_lists_every_command(tmp_path: Path) -> None:
    text = store_command(tmp_path, "--help").stdout
    assert re.findall(r"^  ([a-z]+)  ", text, re.MULTILINE) == COMMANDS
    top = subprocess.run(
        [sys.executable, "-m", "mirror", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert re.search(r"^  store ", top.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_the_settings_that_say_where(tmp_path: Path, command: str) -> None:
    text = re.sub(r"\s+", " ", store_command(tmp_path, command, "--help").stdout)
    assert f"Examples: mirror store {command}" in text
    for variable in ("MIRROR_STORAGE", "MIRROR_DATA_DIR", "MIRROR_S3_BUCKET", "MIRROR_CONFIG"):
        assert variable in text
    assert "MIRROR_LISTEN" not in text
    assert "--json" in text


def test_init_makes_a_store_and_changes_nothing_when_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "store"
    assert "is ready" in store_command(folder, "init").stdout
    layout = (folder / "layout.json").read_bytes()
    assert store_json(folder, "init") == {"store": f"directory:{folder}"}
    assert (folder / "layout.json").read_bytes() == layout


@pytest.mark.parametrize("args", [["verify"], ["stats"], ["du"], ["gc", "--unused-for", "90d"]])
def test_what_is_no_store_is_refused_and_not_made_one(tmp_path: Path, args: list[str]) -> None:
    result = store_command(tmp_path / "nothing", *args, code=1)
    assert "mirror store init" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "nothing").exists()


def test_a_store_in_memory_is_refused(tmp_path: Path) -> None:
    result = store_command(tmp_path, "verify", code=2, environ={"MIRROR_STORAGE": "memory"})
    assert "memory" in result.stderr


def test_verify_finds_repairs_and_says_so(tmp_path: Path) -> None:
    keys = stocked(tmp_path, "p", "q")
    assert store_command(tmp_path, "verify").stdout.startswith("Sound: 2 projects, ")
    sound = store_json(tmp_path, "verify")
    assert sound["sound"] is True
    assert sound["findings"] == []
    bad = next(key for key in keys if key.endswith(".tar.gz"))
    flip(tmp_path / bad, random.Random(1))
    text = store_command(tmp_path, "verify", code=1).stdout
    assert bad in text
    assert "Not sound: 1 damaged" in text
    assert (tmp_path / bad).exists()
    found = store_json(tmp_path, "verify", "--repair", code=1)
    assert [(each["kind"], each["key"], each["quarantined"]) for each in found["findings"]] == [("damaged", bad, True)]
    assert found["counts"] == {"damaged": 1, "unreadable": 0, "orphan": 0, "missing": 0, "stray": 0}
    assert found["quarantined"] == 1
    assert not (tmp_path / bad).exists()
    assert store_json(tmp_path, "verify", "--sample", "5%")["sound"] is True


@pytest.mark.parametrize("part", ["0", "0%", "101%", "2", "x", "-5%"])
def test_a_sample_is_a_part(tmp_path: Path, part: str) -> None:
    assert "such as 5%" in store_command(tmp_path, "verify", f"--sample={part}", code=2).stderr


def test_gc_lists_in_a_dry_run_what_it_then_deletes(tmp_path: Path) -> None:
    keys = stocked(tmp_path, "p", "q", "r")
    age(tmp_path, keys, 100 * DAY)
    refusal = store_command(tmp_path, "gc", "--unused-for", "90d", code=1)
    assert "--force" in refusal.stderr
    assert refusal.stdout == ""
    used = archive_key(SOURCE, project_name("q"), "q-0.1.tar.gz")
    page = page_key(SOURCE, project_name("q"))
    today = day_of(time.time())
    for day in range(today - 95, today + 1):
        record = tmp_path / "access" / day_name(day) / "replica.bin"
        record.parent.mkdir(parents=True)
        record.write_bytes(pack_record(map(access_hash, [used, page])) if day == today - 40 else b"")
    before = contents_of(tmp_path)
    dry = store_json(tmp_path, "gc", "--unused-for", "90d", "--dry-run")
    assert contents_of(tmp_path) == before
    lines = store_command(tmp_path, "gc", "--unused-for", "90d").stdout.splitlines()
    gone = {each["key"] for each in dry["deleted_objects"]}
    assert {line.split()[-1] for line in lines[:-1]} == gone
    assert lines[-1].startswith(f"Deleted {len(gone)} objects")
    left = {key for key in contents_of(tmp_path) if not key.startswith("access/")}
    assert left == {used, page, "meta/pypi/upstream.json"} == set(keys) - gone
    assert (dry["deleted"]["objects"], dry["dry_run"], dry["fits"]) == (len(gone), True, True)
    tight = store_json(tmp_path, "gc", "--unused-for", "90d", "--max-size", "1B", "--dry-run", code=1)
    assert tight["fits"] is False
    assert {each["key"] for each in tight["deleted_objects"]} == {used, page}


@pytest.mark.parametrize(
    "args", [[], ["--unused-for", "1h"], ["--unused-for", "soon"], ["--unused-for", "9d", "--max-size", "x"]]
)
def test_gc_wants_a_time_of_at_least_a_day(tmp_path: Path, args: list[str]) -> None:
    assert store_command(tmp_path, "gc", *args, code=2).stdout == ""


def test_stats_and_du_in_both_forms(tmp_path: Path) -> None:
    """P-41."""
    stocked(tmp_path, "p", "q")
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / "x").write_bytes(b"123")
    found = store_json(tmp_path, "stats")
    assert found.keys() == {
        "store",
        "total",
        "classes",
        "projects",
        "hosted_projects",
        "access_days",
        "quarantine",
        "caches",
    }
    assert found["projects"] == {"pypi": 2}
    assert found["quarantine"] == {"objects": 1, "bytes": 3}
    assert found["caches"] == {}
    assert {each["class"]: each["objects"] for each in found["classes"]} == {
        "archives": 4,
        "metadata": 2,
        "pages": 2,
        "lists": 1,
    }
    for each in [found["total"], *found["classes"]]:
        assert each.keys() >= {"objects", "bytes", "oldest", "newest"}
    table = store_command(tmp_path, "stats").stdout
    assert re.search(r"^archives +pypi +4 +", table, re.MULTILINE)
    assert "Quarantine: 1 objects, 3 B." in table
    shares = store_json(tmp_path, "du")
    assert {each["name"] for each in shares["shares"]} >= {"pypi/p", "pypi/q"}
    assert shares["bytes"] == found["total"]["bytes"]
    assert len(store_json(tmp_path, "du", "--limit", "1")["shares"]) == 1
    assert "total of 2" in store_command(tmp_path, "du", "files/").stdout


def test_copy_backs_up_and_restores(tmp_path: Path) -> None:
    """P-12."""
    stocked(tmp_path / "store", "p", "q")
    before = contents_of(tmp_path / "store")
    backup = f"directory:{tmp_path / 'backup'}"
    found = store_json(tmp_path / "store", "copy", "store", backup)
    assert (found["failed"]["objects"], found["failures"]) == (0, [])
    assert found["from"] == f"directory:{tmp_path / 'store'}"
    assert contents_of(tmp_path / "backup") == before
    text = store_command(tmp_path / "again", "copy", backup, "store").stdout
    assert re.match(r"Copied \d+ objects", text)
    assert contents_of(tmp_path / "again") == before
    key = next(key for key in before if key.endswith(".tar.gz"))
    flip(tmp_path / "store" / key, random.Random(2))
    failed = store_json(tmp_path / "store", "copy", "store", f"directory:{tmp_path / 'third'}", code=1)
    assert [each["key"] for each in failed["failures"]] == [key]
    store_command(tmp_path / "store", "verify", code=1)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["store", "store"], 2),
        (["store", "directory:"], 2),
        (["store", "ftp://x"], 2),
        (["s3:///prefix", "store"], 2),
        (["directory:nowhere", "store"], 1),
    ],
)
def test_places_that_make_no_sense_are_refused(tmp_path: Path, args: list[str], code: int) -> None:
    stocked(tmp_path, "p")
    result = store_command(tmp_path, "copy", *args, code=code)
    assert result.stderr.startswith("mirror: ")


def test_progress_is_for_terminals_alone(tmp_path: Path) -> None:
    stocked(tmp_path, *(f"p{n}" for n in range(5)))
    assert store_command(tmp_path, "verify").stderr == ""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "mirror", "store", "verify", "--data-dir", tmp_path, "--json"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")},
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            shown += piece
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["sound"] is True
        assert process.wait(60) == 0
    os.close(ours)
    assert b"projects" in shown
