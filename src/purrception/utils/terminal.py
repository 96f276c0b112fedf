"""What people read on a terminal, and paste into it."""

from __future__ import annotations

import codecs
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

PLAIN = {
    "…": "...",
    "×": "x",
    "–": "-",
    "−": "-",
    "→": "->",
    "·": "*",
    "±": "+/-",
    "≤": "<=",
    "≥": ">=",
    "²": "^2",
    "√": "sqrt ",
    "τ": "tau",
    "λ": "lambda",
}
"""How ASCII writes what messages hold most often."""


def write_anything() -> None:
    """Let the standard streams take any text: what a terminal has no letters for is written with those it has."""
    codecs.register_error("purrception.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="purrception.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    return PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode(), error.start + 1


def command_line(words: Sequence[str], options: Mapping[str, Any] | None = None) -> str:
    """``purrception`` with words and options, as a shell takes it; several values of an option follow it."""
    spelt = ["purrception", *words]
    for name, value in (options or {}).items():
        values = value if isinstance(value, tuple) else (value,)
        spelt += [f"--{name.replace('_', '-')}", *[str(item) for item in values]]
    return shlex.join(spelt)
