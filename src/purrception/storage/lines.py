"""Files of JSON objects, one in a line, that grow with a training's steps."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from purrception.storage.files import append_line, sync, write_file
from purrception.storage.readers import read_limited
from purrception.utils.progress import note

LARGEST_LOG = 2**30
"""Bytes; a million lines have a quarter of that."""


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON objects, each with a whole number ``step``, none if it is missing.

    A line that a kill has cut, or that is damaged, is left out, and a note says how many.

    Raises:
        InputError: it cannot be read, or is larger than such a file gets.
    """
    if not file.exists():
        return []
    lines, left = [], 0
    for text in read_limited(file, LARGEST_LOG, "a file of figures").decode(errors="replace").split("\n"):
        values: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            values = json.loads(text)
        if isinstance(values, dict) and type(values.get("step")) is int:
            lines.append(values)
        elif text:
            left += 1
    if left:
        note(f"{left} of the lines of {file} are cut or damaged: they are left out")
    return lines


def append_json_line(file: Path, values: dict[str, Any]) -> None:
    """Add one line, and have it on the disk; see :func:`append_line`."""
    append_line(file, json.dumps(values))
    sync(file)


def drop_lines_after(file: Path, step: int) -> None:
    """Leave out the lines of later steps, which a killed training wrote after its last checkpoint.

    Raises:
        InputError: see :func:`read_json_lines`; or the disk is full.
    """
    if file.exists():
        kept = [line for line in read_json_lines(file) if line["step"] <= step]
        write_file(file, "".join(json.dumps(line) + "\n" for line in kept))
