"""Figures of a run: ``metrics.jsonl`` and TensorBoard."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from purrception.storage import append_line, drop_lines_after
from purrception.training.events import EventFile
from purrception.utils import distributed


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
        self._writes = distributed.rank() == 0
        if not self._writes:
            return
        drop_lines_after(file, step)
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
