"""Files with one JSON object per line, which grow with the steps of a training."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from purrception.storage.files import append_line, sync, write_file
from purrception.storage.readers import read_limited
from purrception.utils.progress import note

LARGEST_LOG = 2**30
"""The largest file, in bytes; a million lines take a quarter of that."""


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, each with a whole number ``step``; none if the file is missing.

    Lines that are damaged, or were cut off when a process was killed, are skipped; a note says how many.

    Raises:
        InputError: the file cannot be read, or is too large.
    """
    if not file.exists():
        return []
    lines, damaged = [], 0
    for text in read_limited(file, LARGEST_LOG, "a file of figures").decode(errors="replace").split("\n"):
        values: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            values = json.loads(text)
        if isinstance(values, dict) and type(values.get("step")) is int:
            lines.append(values)
        elif text:
            damaged += 1
    if damaged:
        note(f"{damaged} of the lines of {file} are cut off or damaged and are skipped")
    return lines


def append_json_line(file: Path, values: dict[str, Any]) -> None:
    """Append a line and wait until it is on the disk; see :func:`append_line`."""
    append_line(file, json.dumps(values))
    sync(file)


def drop_lines_after(file: Path, step: int) -> None:
    """Remove the lines of later steps, which a killed training wrote after its last checkpoint.

    Raises:
        InputError: the file cannot be read, or the disk is full.
    """
    if file.exists():
        kept = [line for line in read_json_lines(file) if line["step"] <= step]
        write_file(file, "".join(json.dumps(line) + "\n" for line in kept))
