"""Options that several commands share, and the names of the options that a dataclass defines."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import get_type_hints

LARGEST_RATE = 1e6
"""Learning rate beyond which a few steps of AdamW make of any weight what float32 cannot hold."""
TIMEOUT_MINUTES = 30.0


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where a command runs."""

    device: str = "auto"
    """Device to run on: cpu, cuda, cuda:1, …; auto takes a GPU if any (one per process under torchrun)."""


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(DeviceOptions):
    """Where a command runs that ``torchrun`` can start in several processes."""

    timeout_minutes: float = TIMEOUT_MINUTES
    """Under torchrun, how many minutes processes wait for one that shows no progress."""


def option_names(kind: type, prefix: str = "", of: type | None = None) -> list[str]:
    """Every field of a dataclass and of those within it in dotted form, such as ``training.batch_size``.

    Args:
        kind: the dataclass.
        prefix: put before each name.
        of: only fields of this type.
    """
    hints = get_type_hints(kind)
    names: list[str] = []
    for item in dataclasses.fields(kind):
        inner = hints[item.name]
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            names += option_names(inner, f"{prefix}{item.name}.", of)
        elif of in (None, inner):
            names.append(prefix + item.name)
    return names
