"""The metrics of a run: ``metrics.jsonl`` and TensorBoard.

TensorBoard's events are written by the thread that trains, so that it notices when the disk is full.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import RecordWriter
from torch.utils.tensorboard.summary import image, scalar

from purrception.storage import append, append_line, drop_lines_after
from purrception.utils import distributed

PREFIX = "events.out.tfevents."


class MetricsLog:
    """Writes metrics by step, as one JSON object per line and as TensorBoard events.

    Only the first of several processes writes. Both files are complete after every call.

    Args:
        file: the run's ``metrics.jsonl``; TensorBoard events are written next to it.
        step: the step that the run is at; later steps, which a run logged between its last checkpoint and a kill,
            are dropped.

    Raises:
        InputError: here and in every method: the disk is full; earlier lines are kept.
    """

    def __init__(self, file: Path, step: int = 0) -> None:
        self._file, self._first_step = file, step + 1
        self._writes = distributed.rank() == 0
        if self._writes:
            drop_lines_after(file, step)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Record metrics of one step; numbers also go to TensorBoard."""
        if not self._writes:
            return
        append_line(self._file, json.dumps({"step": step, **metrics}))
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        if numbers:
            events = [Event(step=step, summary=scalar(name, value)) for name, value in numbers.items()]
            _append_events(self._events, *events)

    def image(self, step: int, name: str, array: np.ndarray) -> None:
        """Record an image, uint8 ``[H, W, C]``."""
        if self._writes:
            _append_events(self._events, Event(step=step, summary=image(name, array, dataformats="HWC")))

    @cached_property
    def _events(self) -> Path:
        """TensorBoard's file, created with the first metric, so that a dry run writes none.

        TensorBoard drops the first step in this file, and later ones, of earlier files.
        """
        folder, first_step = self._file.parent, self._first_step
        others = (re.match(rf"{re.escape(PREFIX)}(\d+)", path.name) for path in folder.glob(f"{PREFIX}*"))
        # TensorBoard reads files in the order of their names: this one must be the last, whatever the clock says.
        second = max([int(time.time()), *(int(other[1]) + 1 for other in others if other)])
        file = folder / f"{PREFIX}{second:010}.{socket.gethostname()}.{os.getpid()}"
        start = SessionLog(status=SessionLog.START)
        version = Event(step=first_step, file_version="brain.Event:2")
        _append_events(file, version, Event(step=first_step, session_log=start))
        return file


def _append_events(file: Path, *events: Any) -> None:
    content = io.BytesIO()
    for event in events:
        event.wall_time = time.time()
        RecordWriter(content).write(event.SerializeToString())
    append(file, content.getvalue())
