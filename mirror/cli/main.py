"""The command `mirror`: which commands there are, and how every failure ends."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Final

import click

from mirror import __version__
from mirror.errors import ConfigError, MirrorError, printable

COMMANDS: Final = {"config": "mirror.cli.config", "serve": "mirror.cli.serve", "store": "mirror.cli.store"}
"""Each command's module; its click command is the module's `command`."""

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""


class _Commands(click.Group):
    """A group that imports a command when it is asked for: `mirror config` shall not wait for a web framework."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mirror", message="%(prog)s %(version)s")
def commands() -> None:
    """A caching pull-through mirror for Python packages."""


def main(args: Sequence[str] | None = None, command: click.Command = commands) -> int:
    """Runs `command` and returns the exit code; every foreseen failure is one line on stderr.

    0 success, 1 a failure, 2 wrong usage or settings, 130 interrupted.
    """
    try:
        result: Any = command.main(args, prog_name="mirror", standalone_mode=False)
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
        return EXIT_USAGE
    except MirrorError as error:
        _complain(str(error))
        return EXIT_FAILURE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def _complain(message: str) -> None:
    click.echo(f"mirror: {printable(message, 4000)}", err=True)
