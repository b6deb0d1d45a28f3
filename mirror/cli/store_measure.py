"""`mirror store stats` and `mirror store du`: what the store holds, and what takes the room."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from mirror.adapters.caches.archive_room import OWED
from mirror.cli.options import Given, with_settings_named
from mirror.cli.store_places import Place, configured, opened
from mirror.cli.store_session import SETTINGS, Document, Progress, Session, human, progress_line, run
from mirror.config import Config
from mirror.maintenance.statistics import Amount, Statistics, statistics
from mirror.maintenance.usage import usage

CACHES: Final = ("metadata_cache_dir", "dist_cache_dir")


@click.command(name="stats")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@with_settings_named((*SETTINGS, *CACHES))
def stats(given: Given, *, as_json: bool) -> int:
    """Count what the store holds: objects and bytes by class and source, projects, days with records of use.

    \b
    Examples:
      mirror store stats
      mirror store stats --json | jq .total.bytes
    """

    async def work(session: Session) -> int:
        place = configured(session.config)
        async with opened(place, session.counters, session.clock) as store:
            progress = Progress(lambda state: f"{state.total.objects} objects, {human(state.total.bytes)}")
            found = await statistics(store, progress)
        folders = await asyncio.to_thread(_folders, place, session.config)
        progress_line("")
        facts = {"store": str(place), **_facts(found), **folders}
        click.echo(json.dumps(facts, indent=2) if as_json else _table(found, folders))
        return 0

    return run(given, work)


@click.command(name="du")
@click.argument("prefix", default="", metavar="[PREFIX]")
@click.option(
    "--limit", type=click.IntRange(0), default=50, show_default=True, help="How many of the largest; 0 for all."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: `shares`, and sums.")
@with_settings_named(SETTINGS)
def du(given: Given, *, prefix: str, limit: int, as_json: bool) -> int:
    """Show what takes the room, largest first: projects, or with a PREFIX of keys the projects or objects below it.

    \b
    Examples:
      mirror store du
      mirror store du --limit 10 files/pypi/
      mirror store du files/pypi/ac/f3/requests/
    """

    async def work(session: Session) -> int:
        document = Document("shares", as_json=as_json)
        async with opened(configured(session.config), session.counters, session.clock) as store:
            progress = Progress(lambda state: f"{state.objects} objects, {human(state.bytes)}")
            found = await usage(store, prefix, largest=limit or None, progress=progress)
        for share in found.largest:
            document.item(
                {"name": share.name, "bytes": share.bytes, "objects": share.objects},
                f"{human(share.bytes):>12}  {share.objects:>8}  {share.name}",
            )
        document.end(
            {"prefix": prefix, "bytes": found.bytes, "objects": found.objects, "count": found.shares},
            [f"{human(found.bytes):>12}  {found.objects:>8}  total of {found.shares}"],
        )
        return 0

    return run(given, work)


def _facts(found: Statistics) -> dict[str, Any]:
    return {
        "total": _amount(found.total),
        "classes": [
            {"class": kind, "source": source or None, **_amount(amount)}
            for (kind, source), amount in sorted(found.classes.items())
        ],
        "projects": found.projects,
        "hosted_projects": found.hosted_projects,
        "access_days": {
            "count": len(found.access_days),
            "first": found.access_days[0] if found.access_days else None,
            "last": found.access_days[-1] if found.access_days else None,
        },
    }


def _amount(amount: Amount) -> dict[str, Any]:
    return {
        "objects": amount.objects,
        "bytes": amount.bytes,
        "oldest": _time(amount.oldest),
        "newest": _time(amount.newest),
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M:%SZ}"


def _folders(place: Place, config: Config) -> dict[str, Any]:
    """What no listing of keys shows: the quarantine of a store in a folder, and the caches of this machine."""
    found: dict[str, Any] = {"quarantine": None if place.folder is None else _disk_use(place.folder / "quarantine")}
    caches: dict[str, Any] = {}
    for name in CACHES:
        folder = getattr(config, name)
        if folder is not None:
            caches[name.removesuffix("_dir")] = {"path": str(folder), **_disk_use(folder)}
    if config.dist_cache_dir is not None:
        caches["dist_cache"]["owed"] = _disk_use(config.dist_cache_dir / OWED)
    found["caches"] = caches
    return found


def _disk_use(folder: Path) -> dict[str, int]:
    """Files, each counted once however many names it has."""
    objects = size = 0
    linked: set[tuple[int, int]] = set()
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                facts = os.lstat(os.path.join(path, name))
            except FileNotFoundError:  # evicted meanwhile
                continue
            if facts.st_nlink > 1:
                if (facts.st_dev, facts.st_ino) in linked:
                    continue
                linked.add((facts.st_dev, facts.st_ino))
            objects += 1
            size += facts.st_size
    return {"objects": objects, "bytes": size}


def _table(found: Statistics, folders: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("class", "source", "objects", "size", "oldest", "newest")]
    amounts = [*sorted(found.classes.items()), (("total", ""), found.total)]
    for (kind, source), amount in amounts:
        times = [(_time(each) or "-")[:10] for each in (amount.oldest, amount.newest)]
        rows.append((kind, source or "-", str(amount.objects), human(amount.bytes), *times))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    projects = ", ".join(f"{count} of {source}" for source, count in sorted(found.projects.items())) or "none"
    lines += ["", f"Projects: {projects}; {found.hosted_projects} hosted."]
    days = found.access_days
    lines.append(f"Days with records of use: {len(days)}{f' ({days[0]} to {days[-1]})' if days else ''}.")
    if (quarantine := folders["quarantine"]) is not None:
        lines.append(f"Quarantine: {quarantine['objects']} objects, {human(quarantine['bytes'])}.")
    for name, cache in folders["caches"].items():
        owed = f"; the store lacks {cache['owed']['objects']} of them still" if "owed" in cache else ""
        what = name.replace("_", " ").capitalize()
        lines.append(f"{what}: {cache['objects']} files, {human(cache['bytes'])}{owed}.")
    return "\n".join(lines)
