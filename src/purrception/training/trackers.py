"""Where metrics go besides ``metrics.jsonl``: TensorBoard and trackio, each imported when it is asked for."""

from __future__ import annotations

import io
import os
import re
import socket
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from purrception.storage import append
from purrception.training.config import TrackerName
from purrception.utils.errors import InputError
from purrception.utils.packages import require
from purrception.utils.progress import note

PREFIX = "events.out.tfevents."
PROJECT = "purrception"


class Tracker(Protocol):
    """Records numbers and images of a run by step."""

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Record numbers by name."""

    def image(self, step: int, name: str, array: np.ndarray) -> None:
        """Record an image, uint8 ``[H, W, C]``."""

    def close(self) -> None:
        """Finish; nothing follows."""


class TensorBoard:
    """Events in the folder of the run, written by the thread that trains: it notices when the disk is full.

    Args:
        folder: the folder of the run.
        first_step: TensorBoard drops this step, and later ones, of earlier files.

    Raises:
        InputError: the package is missing; or, in every method, the disk is full.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._folder, self._first_step = folder, first_step
        self._protocol: Any = require("tensorboard.compat.proto.event_pb2", "writing TensorBoard's events")
        self._summary: Any = require("torch.utils.tensorboard.summary", "writing TensorBoard's events")

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Record numbers by name."""
        self._write(*((step, {"summary": self._summary.scalar(name, value)}) for name, value in values.items()))

    def image(self, step: int, name: str, array: np.ndarray) -> None:
        """Record an image, uint8 ``[H, W, C]``."""
        self._write((step, {"summary": self._summary.image(name, array, dataformats="HWC")}))

    def close(self) -> None:
        """Nothing to do: the file is complete after every call."""

    def _write(self, *events: tuple[int, dict[str, Any]]) -> None:
        self._append(self._file, *events)

    @cached_property
    def _file(self) -> Path:
        """The file, created with the first metric, so that a dry run writes none."""
        others = (re.match(rf"{re.escape(PREFIX)}(\d+)", path.name) for path in self._folder.glob(f"{PREFIX}*"))
        # TensorBoard reads files in the order of their names: this one must be the last, whatever the clock says.
        second = max([int(time.time()), *(int(other[1]) + 1 for other in others if other)])
        file = self._folder / f"{PREFIX}{second:010}.{socket.gethostname()}.{os.getpid()}"
        start = self._protocol.SessionLog(status=self._protocol.SessionLog.START)
        first = self._first_step
        self._append(file, (first, {"file_version": "brain.Event:2"}), (first, {"session_log": start}))
        return file

    def _append(self, file: Path, *events: tuple[int, dict[str, Any]]) -> None:
        from torch.utils.tensorboard import RecordWriter

        content = io.BytesIO()
        for step, fields in events:
            event = self._protocol.Event(step=step, wall_time=time.time(), **fields)
            RecordWriter(content).write(event.SerializeToString())
        append(file, content.getvalue())


class Trackio:
    """A run of the project ``purrception`` in trackio's own folder on this machine (``TRACKIO_DIR``).

    A resumed run goes on under its name; steps that are done again after a kill stand there twice.

    Args:
        folder: the folder of the run, whose name it takes.

    Raises:
        InputError: the package is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._trackio: Any = require("trackio", "training.trackers trackio")
        self._run = self._trackio.init(project=PROJECT, name=folder.resolve().name, resume="allow")

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Record numbers by name."""
        self._run.log(values, step=step)

    def image(self, step: int, name: str, array: np.ndarray) -> None:
        """Record an image, uint8 ``[H, W, C]``."""
        self._run.log({name: self._trackio.Image(array)}, step=step)

    def close(self) -> None:
        """Write what is pending."""
        self._run.finish()


def open_trackers(names: tuple[TrackerName, ...], folder: Path, first_step: int) -> list[Tracker]:
    """The trackers of these names; without TensorBoard's package, which is the default, training goes on.

    Raises:
        InputError: the package of another tracker is missing.
    """
    opened: list[Tracker] = []
    for name in dict.fromkeys(names):
        if name == "trackio":
            opened.append(Trackio(folder))
            continue
        try:
            opened.append(TensorBoard(folder, first_step))
        except InputError as error:
            note(f"no TensorBoard events are written: {error}")
    return opened
