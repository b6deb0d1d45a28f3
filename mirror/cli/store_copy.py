"""`mirror store copy`: move, back up and restore a store."""

from __future__ import annotations

from contextlib import AsyncExitStack

import click

from mirror.cli.options import Given, with_settings_named
from mirror.cli.store_places import named, opened, spools_for
from mirror.cli.store_session import EXIT_FINDINGS, SETTINGS, Document, Progress, Session, human, run
from mirror.errors import ConfigError
from mirror.maintenance.copying import Copying


@click.command(name="copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--checksum", is_flag=True, help="Compare bytes, not sizes, and read back what was written.")
@click.option("--from-endpoint-url", metavar="URL", help="The address of the service of FROM, if it is a bucket.")
@click.option("--from-region", metavar="TEXT", help="Its region.")
@click.option("--to-endpoint-url", metavar="URL", help="The address of the service of TO, if it is a bucket.")
@click.option("--to-region", metavar="TEXT", help="Its region.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: `failures`, and counts.")
@with_settings_named(SETTINGS)
def command(
    given: Given,
    *,
    source: str,
    target: str,
    checksum: bool,
    from_endpoint_url: str | None,
    from_region: str | None,
    to_endpoint_url: str | None,
    to_region: str | None,
    as_json: bool,
) -> int:
    """Copy the store FROM into the store TO, whatever kinds they are.

    FROM and TO are `store` (the one of the settings), `directory:PATH`, or `s3://BUCKET[/PREFIX]`, whose other facts are
    as the settings have them. Both may be in use.

    Nothing is deleted in TO. Archives that it has in the same size are left alone, of pages the newer one stays, other
    records become as they are in FROM; so a copy that was cut short goes on where it was when it is run again,
    and a backup is brought up to date by the same command. On their way archives are held against the digests of
    their pages; what is damaged in FROM is not copied but reported, and the exit code is 1.

    Leases, the quarantine and records of use that TO has already are not copied.

    \b
    Examples:
      mirror store copy store directory:/mnt/backup               back up
      mirror store copy directory:/mnt/backup store               restore
      mirror store copy directory:/var/lib/mirror s3://packages   move to a bucket
      mirror store copy s3://old/mirror/ s3://new/ --to-endpoint-url https://s3.example.com/
    """

    async def work(session: Session) -> int:
        document = Document("failures", as_json=as_json)
        ours = named(source, session.config, from_endpoint_url, from_region)
        theirs = named(target, session.config, to_endpoint_url, to_region)
        if ours.is_same_as(theirs):
            raise ConfigError(f"{source} and {target} are the same store; give two")
        async with AsyncExitStack() as stack:
            from_store = await stack.enter_async_context(opened(ours, session.counters, session.clock))
            to_store = await stack.enter_async_context(opened(theirs, session.counters, session.clock, create=True))
            copying = Copying(
                from_store,
                to_store,
                await stack.enter_async_context(spools_for(theirs)),
                session.tasks,
                checksum=checksum,
                failed=lambda key, why: document.item({"key": key, "why": why}, f"not copied: {key}: {why}"),
                progress=Progress(
                    lambda state: f"{state.copied} copied ({human(state.copied_bytes)}), {state.skipped} there already"
                ),
            )
            result = await copying.run()
        document.end(
            {
                "from": str(ours),
                "to": str(theirs),
                "copied": {"objects": result.copied, "bytes": result.copied_bytes},
                "skipped": {"objects": result.skipped},
                "failed": {"objects": result.failed},
                "verified": {"objects": result.verified},
            },
            [
                f"Copied {result.copied} objects ({human(result.copied_bytes)}); {result.skipped} were there already.",
                f"Held against a digest on their way: {result.verified}. Failed: {result.failed}.",
            ],
        )
        return EXIT_FINDINGS if result.failed else 0

    return run(given, work)
