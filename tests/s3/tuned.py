"""`mirror serve` with options of its store that no setting reaches: shorter pauses, smaller uploads in parts."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, make_dataclass
from typing import Any

from mirror.assembly import serve
from mirror.cli.logs import configure_logging
from mirror.cli.serve import announce
from mirror.config import Config, load


def tuned(**options: Any) -> list[str]:
    """What to put before the command of a mirror (`prefix`) so that its store has these fields of `S3Options`."""
    return [sys.executable, "-m", __name__, json.dumps(options)]


def main(args: Sequence[str]) -> int:
    """`args`: the options, then the command `… serve --listen ADDRESS`."""
    options: dict[str, Any] = json.loads(args[0])
    assert args[-3:-1] == ["serve", "--listen"], args
    config = load({"listen": (args[-1],)}, os.environ).config
    more = [(f"s3_{name}", type(value)) for name, value in options.items()]
    kind = make_dataclass("TunedConfig", more, bases=(Config,), frozen=True, kw_only=True)
    made: Config = kind(
        **{each.name: getattr(config, each.name) for each in fields(config)},
        **{f"s3_{name}": value for name, value in options.items()},
    )
    configure_logging(made.log_format, made.log_level)
    return serve(made, functools.partial(announce, made))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
