"""`mirror config`: every setting, its value and where that came from."""

from __future__ import annotations

import json

import click

from mirror.cli.options import Given, with_settings
from mirror.cli.reference import reference_page
from mirror.config import SETTINGS, Loaded


@click.command(name="config")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: by setting its value, source and origin.")
@click.option("--markdown", "as_markdown", is_flag=True, help="The reference page of all settings, values apart.")
@with_settings
def command(given: Given, *, as_json: bool, as_markdown: bool) -> int:
    """Print every setting with its value and where that came from.

    It takes the flags of `mirror serve`. Secrets are masked.
    """
    if as_json and as_markdown:
        raise click.UsageError("--json and --markdown exclude each other.")
    if as_markdown:
        click.echo(reference_page(), nl=False)
    else:
        click.echo((settings_json if as_json else settings_table)(given.load()))
    return 0


def settings_table(loaded: Loaded) -> str:
    """One aligned line for each setting: key, value, origin."""
    rows = [
        (setting.key, setting.show(getattr(loaded.config, name)), str(loaded.origins[name]))
        for name, setting in SETTINGS.items()
    ]
    rows.insert(0, ("setting", "value", "from"))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{key:{first}}  {value:{second}}  {origin}".rstrip() for key, value, origin in rows)


def settings_json(loaded: Loaded) -> str:
    """By TOML key: value (numbers in `unit`), unit, source and the name of the file, variable or flag."""
    return json.dumps(
        {
            setting.key: {
                "value": setting.plain(getattr(loaded.config, name)),
                "unit": setting.kind.unit or None,
                "source": loaded.origins[name].source,
                "origin": loaded.origins[name].name or None,
            }
            for name, setting in SETTINGS.items()
        },
        indent=2,
    )
