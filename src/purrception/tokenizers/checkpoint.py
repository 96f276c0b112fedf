"""Checkpoints of a tokenizer's training: one safetensors file each, whole or not there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, optim

from purrception.errors import InputError
from purrception.weights import require_finite

KEPT = 2
"""Latest checkpoints that stay."""


@dataclass(frozen=True)
class Progress:
    """Where a tokenizer's training stands."""

    step: int
    """Optimiser steps done."""
    setting: str
    """What was trained and how: a training goes on only under the same."""
    schedule: dict[str, Any]
    """State of the learning-rate schedule, plain numbers."""
    learning_rate: float
    """Of the next step."""


@dataclass(frozen=True)
class TokenizerCheckpoint:
    """A checkpoint on disk."""

    file: Path
    progress: Progress
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below ``prefix/``, without it."""
        start = f"{prefix}/"
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def save_checkpoint(folder: Path, progress: Progress, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write ``step-00000100.safetensors``; older files than the latest two go.

    Args:
        folder: made if need be.
        progress: kept as the file's metadata.
        parts: tensors by the name of what they belong to.

    Raises:
        InputError: it cannot be written; the checkpoints before it are whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}/{name}": tensor.detach().cpu().contiguous().clone()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    file = folder / f"step-{progress.step:08d}.safetensors"
    partial = folder / f".partial-{file.name}"
    try:
        save_file(tensors, partial, metadata={"progress": json.dumps(asdict(progress))})
        with partial.open("rb") as written:
            os.fsync(written.fileno())
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write the checkpoint {file} ({error}); those before it are whole") from error
    os.replace(partial, file)
    for old in _files(folder)[:-KEPT]:
        old.unlink()


def latest_checkpoint(folder: Path) -> TokenizerCheckpoint | None:
    """The checkpoint of the highest step, if there is any.

    Raises:
        InputError: its file is damaged.
    """
    files = _files(folder)
    if not files:
        return None
    try:
        with safe_open(files[-1], framework="pt") as opened:
            progress = Progress(**json.loads((opened.metadata() or {})["progress"]))
        tensors = load_file(files[-1])
        require_finite(tensors, "it")
        return TokenizerCheckpoint(files[-1], progress, tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the checkpoint {files[-1]} is damaged ({error}); remove it to go on from the one before it"
        ) from error


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d+\.safetensors", path.name))


def optimizer_tensors(optimizer: optim.Optimizer, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """An optimizer's moments by the names of its parameters."""
    return {
        f"{name}/{key}": value
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: optim.Optimizer, named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """The reverse of :func:`optimizer_tensors`; ``named`` lists the parameters in the optimizer's order."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter, key = name.rsplit("/", 1)
        state.setdefault(list(named).index(parameter), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def generator_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's generators that training draws from."""
    state = {"cpu": torch.random.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_generator(state: Mapping[str, Tensor], device: torch.device) -> None:
    """The reverse of :func:`generator_state`."""
    torch.random.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
