"""The metrics of a run: ``metrics.jsonl``, and the trackers that the user wants beside it."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from purrception.storage import append_line, drop_lines_after
from purrception.training.config import TrackerName
from purrception.training.trackers import Tracker, open_trackers
from purrception.utils import distributed


class MetricsLog:
    """Writes metrics by step, as one JSON object per line and to trackers.

    Only the first of several processes writes. The file is complete after every call.

    Args:
        file: the run's ``metrics.jsonl``; TensorBoard events are written next to it.
        step: the step that the run is at; later steps, which a run logged between its last checkpoint and a kill,
            are dropped.
        trackers: names of the trackers, which are opened with the first metric.

    Raises:
        InputError: here and in every method: the disk is full; earlier lines are kept. A tracker's package is
            missing.
    """

    def __init__(self, file: Path, step: int = 0, trackers: tuple[TrackerName, ...] = ("tensorboard",)) -> None:
        self._file, self._first_step, self._names = file, step + 1, trackers
        self._writes = distributed.rank() == 0
        if self._writes:
            drop_lines_after(file, step)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Record metrics of one step; numbers also go to the trackers."""
        if not self._writes:
            return
        append_line(self._file, json.dumps({"step": step, **metrics}))
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        if numbers:
            for tracker in self._trackers:
                tracker.numbers(step, numbers)

    def image(self, step: int, name: str, array: np.ndarray) -> None:
        """Record an image, uint8 ``[H, W, C]``."""
        if self._writes:
            for tracker in self._trackers:
                tracker.image(step, name, array)

    def close(self) -> None:
        """Finish the trackers that were opened."""
        for tracker in vars(self).get("_trackers", ()):
            tracker.close()

    @cached_property
    def _trackers(self) -> list[Tracker]:
        return open_trackers(self._names, self._file.parent, self._first_step)
