"""The options that a dataclass of settings gives a command, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeGuard, get_type_hints


def holds_settings(hint: Any) -> TypeGuard[type]:
    """Whether a type is a dataclass, whose fields are options."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def settings_in(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Any, str]]:
    """The fields of a dataclass that are options, with their types and their names on the command line."""
    hints = get_type_hints(kind)
    names = getattr(kind, "OPTIONS", {})
    for item in dataclasses.fields(kind):
        yield item, hints[item.name], names.get(item.name, item.name)


class Option(NamedTuple):
    """An option of a command."""

    name: str
    """Its name, such as ``--training.batch-size``."""
    kind: Any
    """The type of its value."""
    other_names: tuple[str, ...]
    """What it was called before, and what it is called in Python if not the same: accepted too."""


def options_of(kind: type, prefix: str = "--", left_out: tuple[str, ...] = ()) -> Iterator[Option]:
    """Every option that a dataclass gives a command, those of the settings within it included."""
    renamed = getattr(kind, "RENAMED", {})
    for item, hint, name in settings_in(kind):
        if item.name in left_out:
            continue
        if holds_settings(hint):
            within = prefix if item.metadata.get("flat") else f"{prefix}{name}."
            yield from options_of(hint, within, item.metadata.get("left_out", ()))
        else:
            others = {item.name, *(old for old, new in renamed.items() if new == item.name)} - {name}
            spelt = [f"{prefix}{each}".replace("_", "-") for each in (name, *sorted(others))]
            yield Option(spelt[0], hint, tuple(spelt[1:]))
