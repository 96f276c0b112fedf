"""TensorBoard events, written by the thread that trains, so that it notices when the disk is full."""

from __future__ import annotations

import io
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import RecordWriter
from torch.utils.tensorboard.summary import image, scalar

from purrception.storage import append

PREFIX = "events.out.tfevents."


class EventFile:
    """A file of TensorBoard events, complete after every call.

    Args:
        folder: where to write it.
        first_step: first step in this file; TensorBoard drops that step and later ones of earlier files.

    Raises:
        InputError: here and in every method: the disk is full.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        others = (re.match(rf"{re.escape(PREFIX)}(\d+)", path.name) for path in folder.glob(f"{PREFIX}*"))
        # TensorBoard reads files in the order of their names: this one must be the last, whatever the clock says.
        second = max([int(time.time()), *(int(other[1]) + 1 for other in others if other)])
        self.path = folder / f"{PREFIX}{second:010}.{socket.gethostname()}.{os.getpid()}"
        start = SessionLog(status=SessionLog.START)
        self._add(Event(step=first_step, file_version="brain.Event:2"), Event(step=first_step, session_log=start))

    def add_scalars(self, step: int, values: dict[str, float]) -> None:
        """Record numbers by name."""
        self._add(*(Event(step=step, summary=scalar(name, value)) for name, value in values.items()))

    def add_image(self, step: int, name: str, array: np.ndarray) -> None:
        """Record an image, uint8 ``[H, W, C]``."""
        self._add(Event(step=step, summary=image(name, array, dataformats="HWC")))

    def _add(self, *events: Any) -> None:
        content = io.BytesIO()
        for event in events:
            event.wall_time = time.time()
            RecordWriter(content).write(event.SerializeToString())
        append(self.path, content.getvalue())
