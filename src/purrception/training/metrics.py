"""The metrics of a run: ``metrics.jsonl`` and TensorBoard."""

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
    """Writes metrics by step, as one JSON object per line and as TensorBoard events.

    Only the first of several processes writes.

    Args:
        file: the run's ``metrics.jsonl``; TensorBoard events are written next to it.
        step: the step that the run is at; later steps, which a run logged between its last checkpoint and a kill,
            are dropped.

    Raises:
        InputError: here and in every method: the disk is full; earlier lines are kept.
    """

    def __init__(self, file: Path, step: int = 0) -> None:
        self._writes = distributed.rank() == 0
        if not self._writes:
            return
        drop_lines_after(file, step)
        self._file, self._first_step = file, step + 1

    @cached_property
    def _events(self) -> EventFile:
        """Created with the first metric, so that a dry run writes no file."""
        return EventFile(self._file.parent, self._first_step)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Record metrics of one step; numbers also go to TensorBoard."""
        if not self._writes:
            return
        append_line(self._file, json.dumps({"step": step, **metrics}))
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        if numbers:
            self._events.add_scalars(step, numbers)

    def image(self, step: int, name: str, array: np.ndarray) -> None:
        """Record an image, uint8 ``[H, W, C]``."""
        if self._writes:
            self._events.add_image(step, name, array)
