"""The reference page of all settings, in Markdown, made from their definition."""

from __future__ import annotations

import itertools
from typing import Final

from mirror.config import SETTINGS
from mirror.settings.definition import Setting

_INTRODUCTION: Final = """\
<!-- Made by `mirror config --markdown`; do not edit. -->
# Settings

A setting has one name, from which the others follow: `page-ttl` in the TOML file is `MIRROR_PAGE_TTL` in the
environment and `--page-ttl` on the command line (only `upstream-url` has a shorter flag). Later wins: defaults, the TOML
file (`--config FILE` or `MIRROR_CONFIG`), the environment, flags. `mirror config` shows every value and where it came from.

* **Durations** are seconds (`600`, `2.5`) or carry a unit: `500ms`, `10s`, `10m`, `1h`, `7d`.
* **Sizes** are bytes or carry a unit: `512KiB`, `512MiB`, `1GiB`, or `kB`, `MB`, `GB` in powers of ten.
* **Switches** are `on` or `off` (also `true`, `false`, `1`, `0`); as flags they are `--offline` and `--no-offline`.
* **Lists** are separated by commas in a variable; a flag is repeated; the TOML file has an array.
* **Paths** may begin with `~`; a relative one starts at the working directory.
* A variable that is empty counts as not set. In the TOML file and on the command line an empty text takes the value of
  an optional setting away.
* A **secret** has no flag, for other users of the machine see command lines; a variable whose name ends in `_FILE` names
  a file that holds it. Secrets are never shown.
* Unknown keys and unknown variables that begin with `MIRROR_` are refused by name. Those that Kubernetes sets for a
  service named `mirror` are ignored.
"""


def reference_page() -> str:
    """The page as it is kept in `docs/reference/settings.md`."""
    parts = [_INTRODUCTION]
    for group, settings in itertools.groupby(SETTINGS.values(), key=lambda setting: setting.group):
        parts.append(f"\n## {group}\n")
        parts += [_entry(setting) for setting in settings]
    return "".join(parts)


def _entry(setting: Setting) -> str:
    flag = f"`{setting.flag}`" if setting.flag else "none"
    variables = f"`{setting.variable}`" + (f" or `{setting.file_variable}`" if setting.file_variable else "")
    default = setting.default_label or f"`{setting.default_text}`" if setting.default is not None else "none"
    facts = [f"Flag: {flag}", f"variable: {variables}", f"default: {default}"]
    if setting.kind.unit:
        facts.append(f"unit: {setting.kind.unit}")
    if setting.example:
        facts.append(f"example: `{setting.example}`")
    return f"\n### `{setting.key}`\n\n{setting.meaning}\nGive {setting.kind.right}.\n\n{'; '.join(facts)}.\n"
