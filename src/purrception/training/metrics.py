"""Figures of a run: ``metrics.jsonl`` and TensorBoard."""

from __future__ import annotations

import contextlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from purrception import processes
from purrception.progress import note
from purrception.storage import append_line, read_limited, sync, write_file
from purrception.training.events import EventFile

LARGEST_LOG = 2**30
"""Bytes; a million lines have a quarter of that."""


class MetricsLog:
    """Writes figures by step, one JSON object per line and as TensorBoard events.

    Args:
        file: the run's ``metrics.jsonl``; TensorBoard events go beside it. Of several processes the first writes.
        step: the step that the run stands at; lines of later steps, left by a run that was killed after its
            last checkpoint, are dropped.

    Raises:
        InputError: here and in every method: the disk is full; what was written before is kept.
    """

    def __init__(self, file: Path, step: int = 0) -> None:
        self._writes = processes.rank() == 0
        if not self._writes:
            return
        if file.exists():
            _drop_after(file, step)
        self._file, self._begins = file, step + 1

    @cached_property
    def _board(self) -> EventFile:
        """Begun by the first figure: a file that steps of a rehearsal can do without."""
        return EventFile(self._file.parent, self._begins)

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """Record figures of one step; numbers also go to TensorBoard."""
        if not self._writes:
            return
        append_line(self._file, json.dumps({"step": step, **figures}))
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        if numbers:
            self._board.figures(step, numbers)

    def image(self, step: int, name: str, array: np.ndarray) -> None:
        """Record a picture, uint8 ``[H, W, C]``."""
        if self._writes:
            self._board.picture(step, name, array)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""


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


def _drop_after(file: Path, step: int) -> None:
    kept = [line for line in read_json_lines(file) if line["step"] <= step]
    write_file(file, "".join(json.dumps(line) + "\n" for line in kept))
