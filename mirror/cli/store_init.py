"""`mirror store init`: make the store ready to be used."""

from __future__ import annotations

import json
from typing import Any

import click

from mirror.cli.options import Given, with_settings_named
from mirror.cli.store_places import configured, opened
from mirror.cli.store_session import SETTINGS, Session, run
from mirror.storages import s3_module, s3_options


@click.command(name="init")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@with_settings_named(SETTINGS)
def command(given: Given, *, as_json: bool) -> int:
    """Create the store of the settings if it is not there; done again, it changes nothing.

    For a directory: the folder and its layout.json. For a bucket: the bucket, a lifecycle rule that has the
    service remove uploads that were broken off more than a day ago (where it knows such rules), and layout.json.

    \b
    Examples:
      mirror store init --data-dir /var/lib/mirror
      mirror store init --storage s3 --s3-bucket packages --s3-endpoint-url https://s3.example.com/
    """

    async def work(session: Session) -> int:
        place = configured(session.config)
        facts: dict[str, Any] = {"store": str(place)}
        lines = []
        if place.folder is None:
            prepared = await s3_module("init").prepare_bucket(s3_options(place.config))
            facts |= {"bucket_created": prepared.created, "lifecycle": prepared.lifecycle}
            lines.append("The bucket was created." if prepared.created else "The bucket is there.")
            lines.append(f"The rule for broken uploads: {prepared.lifecycle}.")
        async with opened(place, session.counters, session.clock, create=True) as store:
            await store.check()
        lines.append(f"{place} is ready.")
        click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(lines))
        return 0

    return run(given, work)
