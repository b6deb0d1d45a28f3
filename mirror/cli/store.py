"""`mirror store`: care for the store, from outside of any running mirror."""

from __future__ import annotations

import click

from mirror.cli import store_copy, store_gc, store_init, store_measure, store_verify


@click.group(name="store")
def command() -> None:
    """Verify, clear, measure, copy and create the store.

    The commands work on the store that the settings name (flags, MIRROR_… variables, the TOML file), while mirrors are
    using it. Set them as for `mirror serve`.

    \b
      mirror store init                                make the store, or the bucket, ready
      mirror store verify                              is every byte what it should be?
      mirror store gc --unused-for 90d --dry-run       what has nobody used for 90 days?
      mirror store copy store directory:/mnt/backup    back up
    """


for _each in (
    store_copy.command,
    store_gc.command,
    store_init.command,
    store_measure.du,
    store_measure.stats,
    store_verify.command,
):
    command.add_command(_each)
