"""Text for people: numbers in fitting units, tables, commands to paste, and streams that accept any character."""

from __future__ import annotations

import codecs
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

UNLIMITED = 10_000
"""Columns where the output goes to a file."""
Units = tuple[tuple[float, str], ...]
"""Pairs of size and name, smallest first."""
COUNTS: Units = ((1.0, ""), (1e3, " k"), (1e6, " M"), (1e9, " G"), (1e12, " T"))
FLOPS: Units = tuple((1e3**power, f" {prefix}FLOP") for power, prefix in enumerate(("", *"kMGTPEZ")))
BYTES: Units = tuple(
    (1024.0**power, f" {prefix}B") for power, prefix in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi"))
)
TIMES: Units = ((1.0, " seconds"), (60.0, " minutes"), (3600.0, " hours"), (86_400.0, " days"))


def in_units(value: float, units: Units) -> str:
    """``value`` to three digits in the largest unit that does not exceed it, such as ``1.5 GiB``."""
    size, name = next((unit for unit in reversed(units) if abs(value) >= unit[0]), units[0])
    number = value / size
    return f"{number:.0f}{name}" if abs(number) >= 999.5 else f"{number:.3g}{name}"


def roughly(seconds: float) -> str:
    """A duration that is only estimated, such as ``40 minutes`` or ``1.5 hours``."""
    size, name = next((unit for unit in reversed(TIMES) if seconds >= unit[0]), TIMES[0])
    number = seconds / size
    return f"{number:.0f}{name}" if number >= 3 else f"{max(number, 1):.2g}{name}"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; floats with three significant digits."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


ASCII_SPELLINGS = {
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
"""How the characters that messages contain most often are written in ASCII."""


def make_output_encodable() -> None:
    """Let the standard streams accept any text: characters that a terminal lacks are spelt out in ASCII."""
    codecs.register_error("purrception.ascii", _to_ascii)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="purrception.ascii")


def _to_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    return ASCII_SPELLINGS.get(letter) or letter.encode("ascii", "backslashreplace").decode(), error.start + 1


QUIET = "PURRCEPTION_QUIET"
"""The variable that says that only results are to be printed; processes that are started inherit it."""


def quiet() -> bool:
    """Whether progress and remarks are left out, as ``--quiet`` asks."""
    return os.environ.get(QUIET, "") not in ("", "0")


def command_line(words: Sequence[str], options: Mapping[str, Any] | None = None) -> str:
    """A ``purrception`` command quoted for a shell; a tuple becomes several values after its option, and an option
    that is None is left out."""
    command = ["purrception", *words]
    for name, value in (options or {}).items():
        if value is None:
            continue
        values = value if isinstance(value, tuple) else (value,)
        command += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(command)


def terminal_width() -> int:
    """Columns of the terminal, or those that ``COLUMNS`` gives."""
    return shutil.get_terminal_size((UNLIMITED, 0)).columns


def aligned(values: Mapping[str, str], indent: str = "") -> str:
    """Names and values in two columns; a long value goes on below its beginning."""
    column = len(indent) + max(map(len, values)) + 2
    return "\n".join(
        textwrap.fill(
            value,
            max(terminal_width(), column + 20),
            initial_indent=(indent + name).ljust(column),
            subsequent_indent=" " * column,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, value in values.items()
    )
