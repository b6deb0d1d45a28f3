"""What is known of a setting besides its value, written as metadata of a dataclass field."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, fields
from typing import Any, Final

from mirror.settings.kinds import Kind
from mirror.settings.places import MASK

PREFIX: Final = "MIRROR_"
"""What the names of all environment variables of the mirror begin with."""


@dataclass(frozen=True)
class Setting:
    """What is known of one setting besides its value. Its names follow from the field's by one rule."""

    name: str
    """The field of `Config`: `page_ttl`."""
    kind: Kind
    group: str
    meaning: str
    flag: str | None
    """`--page-ttl`; None where a flag would be of no use, or would show a secret to everybody on the machine."""
    default: Any
    default_label: str
    """What help texts say in place of a default that differs by machine, or that this project does not spell out."""
    example: str
    many: bool
    secret: bool

    @property
    def key(self) -> str:
        """The TOML key: `page-ttl`."""
        return self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable: `MIRROR_PAGE_TTL`."""
        return PREFIX + self.name.upper()

    @property
    def file_variable(self) -> str | None:
        """The variable that names a file which holds the value; secrets only."""
        return f"{self.variable}_FILE" if self.secret else None

    @property
    def default_text(self) -> str:
        """The default for people."""
        return self.default_label or self.show(self.default)

    @property
    def optional(self) -> bool:
        """Whether it may be left without a value."""
        return self.default is None

    def show(self, value: Any) -> str:
        """`value` as a source would write it; `none` if there is none, a mask if it is secret."""
        if value is None:
            return "none"
        if self.secret:
            return MASK
        return ",".join(map(self.kind.show, value)) if self.many else self.kind.show(value)

    def plain(self, value: Any) -> Any:
        """`value` as JSON has it: numbers in the setting's unit; a mask if it is secret."""
        if isinstance(value, tuple):
            return [self.plain(each) for each in value]
        if value is None or (isinstance(value, bool | int | float) and not self.secret):
            return value
        return MASK if self.secret else self.kind.show(value)


def setting(
    group: str,
    kind: Kind,
    default: Any,
    meaning: str,
    *,
    example: str,
    flag: str | bool = True,
    default_label: str = "",
    secret: bool = False,
) -> Any:
    """A field of `Config`. `flag` is False for none, or the flag where it differs from the rule."""
    facts = {"group": group, "kind": kind, "meaning": meaning, "example": example, "flag": flag, "secret": secret}
    facts |= {"default": default, "default_label": default_label}
    # A default that could be changed in place is made anew for each configuration.
    made: Any = {"default_factory": lambda: dict(default)} if isinstance(default, dict) else {"default": default}
    return field(**made, metadata=facts, repr=not secret)


def settings_of(config: type) -> dict[str, Setting]:
    """The settings that the dataclass `config` defines or inherits, by field name; its own come first.

    A setting whose default is a tuple takes many values.
    """
    found = {}
    own = inspect.get_annotations(config)
    for each in sorted(fields(config), key=lambda each: each.name not in own):
        facts = dict(each.metadata)
        given = facts.pop("flag")
        flag = given if isinstance(given, str) else "--" + each.name.replace("_", "-") if given else None
        found[each.name] = Setting(name=each.name, flag=flag, many=isinstance(facts["default"], tuple), **facts)
    return found
