"""Figures of a run: ``metrics.jsonl`` and TensorBoard."""

from __future__ import annotations

import contextlib
import json
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from purrception import processes
from purrception.progress import note
from purrception.storage import read_limited, write_file

LARGEST_LOG = 2**30
"""Bytes; a million lines have a quarter of that."""


class MetricsLog:
    """Writes figures by step, one JSON object per line and as TensorBoard events.

    Args:
        file: the run's ``metrics.jsonl``; TensorBoard events go beside it. Of several processes the first writes.
        step: the step that the run stands at; lines of later steps, left by a run that was killed after its
            last checkpoint, are dropped.
    """

    def __init__(self, file: Path, step: int = 0) -> None:
        self._writes = processes.rank() == 0
        if not self._writes:
            return
        if file.exists():
            _drop_after(file, step)
        self._stream = file.open("a", encoding="utf-8")
        self._folder, self._begins = file.parent, step + 1

    @cached_property
    def _board(self) -> SummaryWriter:
        """Opened by the first figure: a file and a thread that steps of a rehearsal can do without."""
        return SummaryWriter(str(self._folder), purge_step=self._begins)

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """Record figures of one step; numbers also go to TensorBoard."""
        if not self._writes:
            return
        self._stream.write(json.dumps({"step": step, **figures}) + "\n")
        self._stream.flush()
        for name, value in figures.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, array: np.ndarray) -> None:
        """Record a picture, uint8 ``[H, W, C]``."""
        if self._writes:
            self._board.add_image(name, array, step, dataformats="HWC")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writes:
            self._stream.close()
            if "_board" in vars(self):
                self._board.close()


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
    """Add one line; a line that a kill has cut before it is ended first, so that only that one is lost."""
    whole = not file.exists() or file.read_bytes()[-1:] in (b"", b"\n")
    with file.open("a", encoding="utf-8") as stream:
        stream.write(("" if whole else "\n") + json.dumps(values) + "\n")


def _drop_after(file: Path, step: int) -> None:
    kept = [line for line in read_json_lines(file) if line["step"] <= step]
    write_file(file, "".join(json.dumps(line) + "\n" for line in kept))
