"""Checkpoints of a tokenizer's training: one safetensors file each, complete or absent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from purrception.storage import (
    content_digest,
    reading,
    refuse_to_start_over,
    set_aside,
    skips_digests,
    whole_file,
)
from purrception.storage.finite import all_finite, require_finite
from purrception.utils import distributed
from purrception.utils.errors import InputError

KEPT = 2
"""How many of the latest checkpoints are kept."""


@dataclass(frozen=True)
class Progress:
    """How far the training of a tokenizer is."""

    step: int
    """Optimiser steps that are done."""
    setting: str
    """What is trained and how, as JSON; training resumes only with the same."""
    schedule: dict[str, Any]
    """The state of the learning-rate schedule, plain numbers."""
    learning_rate: float
    """The learning rate of the next step."""


@dataclass(frozen=True)
class TokenizerCheckpoint:
    """A checkpoint on disk."""

    file: Path
    progress: Progress
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix/``, without it."""
        start = f"{prefix}/"
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def save_checkpoint(folder: Path, progress: Progress, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write ``step-00000100.safetensors`` and remove all but the latest two checkpoints.

    Args:
        folder: where to; created if necessary.
        progress: stored in the file's metadata.
        parts: named tensors by the name of what they belong to.

    Raises:
        InputError: the file cannot be written; earlier checkpoints are intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}/{name}": tensor.detach().cpu().contiguous().clone()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    file = folder / f"step-{progress.step:08d}.safetensors"
    text = json.dumps(asdict(progress))
    metadata = {"progress": text, "sha256": content_digest(text, tensors)}
    try:
        with whole_file(file) as partial:
            save_file(tensors, partial, metadata=metadata)
    except InputError as error:
        raise InputError(f"{error}; the checkpoints before it are whole") from error
    for old in _files(folder)[:-KEPT]:
        old.unlink()


def latest_checkpoint(folder: Path) -> TokenizerCheckpoint | None:
    """The latest intact checkpoint, if there is any; every process takes part.

    A damaged one is renamed, a line says so, and the one before it is used.

    Raises:
        InputError: all checkpoints are damaged.
    """
    problem = ""
    for file in reversed(_files(folder)):
        checkpoint, problem = _read_or_reason(file)
        if not (problem := distributed.first_problem(problem)):
            return checkpoint
        set_aside(file, problem)
    refuse_to_start_over(folder, problem)
    return None


def refuse_not_finite(step: int, first_bad: int, networks: Iterable[nn.Module], folder: Path) -> None:
    """Stop a training in which a gradient or a weight is not finite, before anything is saved.

    Args:
        step: the current step.
        first_bad: the first step whose gradient was not finite; 0 for none.
        networks: the networks that are trained.
        folder: where the checkpoints are.

    Raises:
        InputError: a value is not finite; the message names the checkpoint from which training can resume.
    """
    reason = f"the gradient of step {first_bad} is" if first_bad else ""
    if not all_finite(tensor for of in networks for tensor in of.state_dict().values()):
        reason = reason or f"the weights after step {step} are"
    if reason:
        whole = (_read_or_reason(file)[0] for file in reversed(_files(folder)))
        left = next(
            (f"the checkpoint of step {one.progress.step} is whole" for one in whole if one), "none is saved"
        )
        raise InputError(f"{reason} not finite, so that training stopped: lower learning_rate; {left}")


def _read_or_reason(file: Path) -> tuple[TokenizerCheckpoint | None, str]:
    """A checkpoint, or why it cannot be used."""
    try:
        with reading("a tokenizer's checkpoint", file), safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            progress = TypeAdapter(Progress).validate_json(metadata["progress"], strict=True)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
        require_finite(tensors, "it")
        stored = "" if skips_digests() else metadata.get("sha256", "")
        if stored and stored != content_digest(metadata["progress"], tensors):
            raise InputError("its SHA-256 is not the one that was written with it")
    except InputError as error:
        return None, f"the checkpoint {file} is damaged ({error})"
    return TokenizerCheckpoint(file, progress, tensors), ""


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d+\.safetensors", path.name))


def generator_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the random number generators that training uses."""
    state = {"cpu": torch.random.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_generator(state: Mapping[str, Tensor], device: torch.device) -> None:
    """The reverse of :func:`generator_state`."""
    torch.random.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
