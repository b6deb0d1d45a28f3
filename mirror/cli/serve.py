"""`mirror serve`: answer clients until told to stop."""

from __future__ import annotations

import functools
import os
import sys

import click
import structlog

from mirror.assembly import serve
from mirror.cli.hints import base_url, client_lines
from mirror.cli.logs import configure_logging
from mirror.cli.options import Given, with_settings
from mirror.config import Config

_log = structlog.get_logger()


@click.command(name="serve")
@with_settings
def command(given: Given) -> int:
    """Answer clients until SIGTERM or Ctrl-C.

    Every setting is also a variable and a key of the TOML file; `mirror config` shows them all.
    """
    config = given.load().config
    configure_logging(config.log_format, config.log_level)
    return serve(config, functools.partial(announce, config))


def announce(config: Config, addresses: list[str]) -> None:
    """Tells people where the mirror listens and how clients find it; `addresses` as `str(Address)` has them."""
    lines = [f"Listening on {', '.join(addresses)}"]
    if url := base_url(addresses, config.public_url):
        lines.append(client_lines(url))
    try:
        click.echo("\n".join(lines))
    except OSError as error:
        # Nobody reads stdout any more: no reason for a server to stop, nor for its end to fail on what is buffered.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        _log.warning("standard output cannot be written", why=error.strerror)
