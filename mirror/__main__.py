"""`python -m mirror` is the command `mirror`."""

from __future__ import annotations

import sys

from mirror.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
