"""Checkpoints that a kill cannot damage: safetensors and JSON, written aside and renamed."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, optim

from purrception.errors import InputError

NETWORK_FILE, EMA_FILE, OPTIMIZER_FILE = "network.safetensors", "ema.safetensors", "optimizer.safetensors"
STATE_FILE = "state.json"
PARTIAL_PREFIX = ".partial-"


@dataclass
class TrainingState:
    """Where a run stands. Random numbers are keyed by position, so that this is the whole of their state."""

    step: int = 0
    """Optimiser steps attempted."""
    samples: int = 0
    """Position in the stream of training samples: the data cursor and the state of every generator."""
    updates: int = 0
    """Steps that changed the weights."""
    skipped: int = 0
    """Steps skipped for a loss or gradient that was not finite."""
    skipped_in_a_row: int = 0
    """The latest of them without a good step between."""
    seed: int = 0
    """Of the run."""
    tokenizer_hash: str = ""
    """Of the tokenizer whose codes were learned."""
    validation_loss: float | None = None
    """Held-out loss of the EMA weights at this step."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    folder: Path
    state: TrainingState

    def load_network(self, network: nn.Module, *, ema: bool = False) -> None:
        """Load weights into ``network``, strictly.

        Raises:
            InputError: the file is damaged, or holds another network.
        """
        tensors = self._read(EMA_FILE if ema else NETWORK_FILE)
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"the checkpoint {self.folder} holds another network: {reason}") from error

    def load_optimizer(self, optimizer: optim.Optimizer, network: nn.Module) -> None:
        """Load the optimizer's moments, by the names of the network's parameters."""
        tensors = self._read(OPTIMIZER_FILE)
        state: dict[int, dict[str, Tensor]] = {}
        for index, (name, _) in enumerate(network.named_parameters()):
            slots = {key: tensors[f"{name}/{key}"] for key in _slots(tensors, name)}
            if slots:
                state[index] = slots
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _read(self, file: str) -> dict[str, Tensor]:
        path = self.folder / file
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"the checkpoint file {path} is missing or damaged ({error}); remove {self.folder} to go on "
                "from the checkpoint before it"
            ) from error


def _slots(tensors: dict[str, Tensor], name: str) -> list[str]:
    """The optimizer's entries for one parameter; AdamW has these three."""
    return [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{key}" in tensors]


class CheckpointStore:
    """The checkpoints of a run: the latest ``keep`` and the best by held-out loss stay.

    Args:
        folder: the run's ``checkpoints/``.
        keep: how many of the latest stay.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(
        self, state: TrainingState, network: nn.Module, ema: nn.Module, optimizer: optim.Optimizer
    ) -> Checkpoint:
        """Write one checkpoint; it appears under its name only when every byte is on the disk."""
        self._clear_partial()
        final = self.folder / f"step-{state.step:08d}"
        partial = self.folder / f"{PARTIAL_PREFIX}{final.name}"
        partial.mkdir(parents=True)
        moments = {
            f"{name}/{key}": value
            for name, parameter in network.named_parameters()
            for key, value in optimizer.state.get(parameter, {}).items()
        }
        try:
            save_file(_contiguous(network.state_dict()), partial / NETWORK_FILE)
            save_file(_contiguous(ema.state_dict()), partial / EMA_FILE)
            save_file(_contiguous(moments), partial / OPTIMIZER_FILE)
            (partial / STATE_FILE).write_text(json.dumps(asdict(state), indent=2))
            for path in (*partial.iterdir(), partial):
                _flush(path)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"cannot write the checkpoint {final} ({error}); the checkpoints before it are whole: free "
                "some disk and --resume the run"
            ) from error
        if final.exists():  # the same step again, after a resume
            self._remove(final)
        os.rename(partial, final)
        _flush(self.folder)
        self._prune()
        return Checkpoint(final, state)

    def all(self) -> list[Checkpoint]:
        """Every whole checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        folders = sorted(path for path in self.folder.iterdir() if re.fullmatch(r"step-\d+", path.name))
        return [Checkpoint(path, _read_state(path)) for path in folders]

    def latest(self) -> Checkpoint | None:
        """The checkpoint of the highest step, if there is any."""
        checkpoints = self.all()
        return checkpoints[-1] if checkpoints else None

    def best(self) -> Checkpoint | None:
        """The checkpoint of the lowest held-out loss, if any was measured."""
        losses = [(item.state.validation_loss, item) for item in self.all()]
        measured = [(loss, item) for loss, item in losses if loss is not None and math.isfinite(loss)]
        return min(measured, key=lambda pair: pair[0])[1] if measured else None

    def _prune(self) -> None:
        checkpoints = self.all()
        best = self.best()
        for checkpoint in checkpoints[: -self.keep]:
            if best is None or checkpoint.folder != best.folder:
                self._remove(checkpoint.folder)

    def _remove(self, folder: Path) -> None:
        """Delete a checkpoint; renamed first, so that a kill leaves no half of it under its name."""
        doomed = self.folder / f"{PARTIAL_PREFIX}removed-{folder.name}"
        os.rename(folder, doomed)
        shutil.rmtree(doomed)

    def _clear_partial(self) -> None:
        for leftover in self.folder.glob(f"{PARTIAL_PREFIX}*"):
            shutil.rmtree(leftover)


def _contiguous(tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _flush(path: Path) -> None:
    """fsync a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_state(folder: Path) -> TrainingState:
    try:
        return TrainingState(**json.loads((folder / STATE_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"the checkpoint {folder} has no readable {STATE_FILE} ({error}); remove the folder to go on "
            "from the checkpoint before it"
        ) from error
