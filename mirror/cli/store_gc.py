"""`mirror store gc`: delete what nobody has used for long."""

from __future__ import annotations

from typing import Any, Final

import click

from mirror.cli.options import Given, with_settings_named
from mirror.cli.store_places import configured, opened
from mirror.cli.store_session import EXIT_FINDINGS, SETTINGS, Document, Progress, Session, human, judged_by, run
from mirror.maintenance.collection import Collected, Collection, Wishes
from mirror.ports import StoredKey
from mirror.settings.kinds import Duration, Size

_A_DAY: Final = 86400.0
_TIME: Final = Duration(minimum=_A_DAY)
_SIZE: Final = Size()


@click.command(name="gc")
@click.option(
    "--unused-for",
    callback=judged_by(_TIME),
    metavar=_TIME.metavar,
    required=True,
    help="Delete what was neither read nor written for so long, such as 90d. Whole days count.",
)
@click.option(
    "--max-size",
    callback=judged_by(_SIZE),
    metavar=_SIZE.metavar,
    help="Then delete what was used longest ago, day by day, until the store holds at most so much, such as 100GiB.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be deleted.")
@click.option("--force", is_flag=True, help="Go on although records of use are missing or damaged.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: `deleted_objects`, and counts.")
@with_settings_named(SETTINGS)
def command(given: Given, *, unused_for: float, max_size: int | None, dry_run: bool, force: bool, as_json: bool) -> int:
    """Delete what nobody has used for long, while mirrors go on serving.

    Mirrors record each day what is read (access/). An archive goes, with its sidecars, if it was neither read nor
    written within the time; a project's page goes when none of its archives is left and it was not used
    either. What is asked for later is fetched again.

    Never deleted: hosted packages (local/), keys listed in pins/NAME.json (a JSON array of keys), what was used today or
    yesterday, and whatever this mirror does not know.

    It refuses to run (exit code 1) while another one is under way, and where on some day within the time no use was
    recorded: what was used then would look unused. --force goes on without those records.

    A dry run lists exactly what a real one would delete. A real one also makes one record of those of each old day.

    \b
    Examples:
      mirror store gc --unused-for 90d --dry-run
      mirror store gc --unused-for 90d --max-size 500GiB
    """
    wishes = Wishes(unused_for=unused_for, max_size=max_size, dry_run=dry_run, force=force)

    async def work(session: Session) -> int:
        document = Document("deleted_objects", as_json=as_json)

        def deleted(stored: StoredKey) -> None:
            document.item(
                {"key": stored.key, "bytes": stored.size, "modified": stored.modified},
                f"{human(stored.size):>12}  {stored.key}",
            )

        async with opened(configured(session.config), session.counters, session.clock) as store:
            progress = Progress(lambda state: f"{state.kept} objects kept, {state.deleted} deleted")
            collection = Collection(store, session.tasks, session.clock, wishes, deleted=deleted, progress=progress)
            result = await collection.run()
        fits = max_size is None or result.bytes_left <= max_size
        document.end(_facts(result, wishes, fits=fits), _summary(result, wishes, fits=fits))
        return 0 if fits else EXIT_FINDINGS

    return run(given, work)


def _facts(result: Collected, wishes: Wishes, *, fits: bool) -> dict[str, Any]:
    return {
        "dry_run": wishes.dry_run,
        "fits": fits,
        "deleted": {"objects": result.deleted, "bytes": result.deleted_bytes},
        "kept": {"objects": result.kept, "bytes": result.kept_bytes},
        "pinned": {"objects": result.pinned},
        "hosted": {"objects": result.hosted, "bytes": result.hosted_bytes},
        "doubtful_days": result.doubtful_days,
        "folded_days": result.folded_days,
    }


def _summary(result: Collected, wishes: Wishes, *, fits: bool) -> list[str]:
    verb = "Would delete" if wishes.dry_run else "Deleted"
    left = f"{result.kept + result.hosted} ({human(result.bytes_left)}) stay, {result.pinned} of them because of pins"
    lines = [f"{verb} {result.deleted} objects ({human(result.deleted_bytes)}); {left}."]
    if result.doubtful_days:
        lines.append(
            f"Without records of use on {len(result.doubtful_days)} days: {', '.join(result.doubtful_days[:5])}…"
        )
    if not fits:
        lines.append(f"That is more than {human(wishes.max_size or 0)}: the rest is pinned, hosted or in use.")
    return lines
