"""The `mirror` command: one module per family of commands."""
