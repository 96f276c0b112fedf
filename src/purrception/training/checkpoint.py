"""Checkpoints: safetensors and JSON, written aside and renamed, so that a kill cannot damage them.

Each part has a folder, with a file for each process that holds shards of it. A checkpoint can be read by another
number of processes than wrote it.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn, optim

from purrception.storage import (
    DIGESTS_FILE,
    check_digests,
    digest_lines,
    load_optimizer_state,
    move_into_place,
    optimizer_state,
    read_json,
    refuse_to_start_over,
    sha256_of,
    sync,
)
from purrception.storage.finite import require_finite
from purrception.training.distributed import own
from purrception.training.parts import Part, write_part
from purrception.utils import distributed
from purrception.utils.errors import InputError, in_words
from purrception.utils.progress import note

NETWORK, EMA, OPTIMIZER = "network", "ema", "optimizer"
STATE_FILE = "state.json"
PARTIAL_PREFIX = ".partial-"


class DamagedCheckpointError(InputError):
    """A checkpoint's files are missing, altered or not finite; an earlier checkpoint may be whole.

    Args:
        folder: the folder of the checkpoint.
        reason: what is wrong with it.
    """

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{reason}; remove {folder} to go on from the checkpoint before it")
        self.reason = reason


@dataclass
class TrainingState:
    """The progress of a run. Random numbers are keyed by position, so that generators need no other state."""

    step: int = 0
    """Optimiser steps attempted."""
    samples: int = 0
    """Position in the stream of training samples."""
    updates: int = 0
    """Steps that changed the weights."""
    skipped: int = 0
    """Steps skipped because the loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    """Steps skipped since the last one that changed the weights."""
    seed: int = 0
    """The seed of the run."""
    tokenizer_hash: str = ""
    """Hash of the tokenizer whose codes are learned."""
    validation_loss: float | None = None
    """Held-out loss of the averaged weights at this step."""

    def __post_init__(self) -> None:
        """Refuse counts that contradict each other."""
        if not 0 <= self.skipped_in_a_row <= self.skipped <= self.step or self.samples < 0 or self.updates < 0:
            raise InputError(f"the counts of a training's steps and samples contradict each other: {self}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    folder: Path
    state: TrainingState

    def check(self, *, shared: bool = False) -> None:
        """Verify the SHA-256 of all files; checkpoints of earlier versions, which have none, pass.

        Args:
            shared: whether every process calls this, so that each can check its share.

        Raises:
            DamagedCheckpointError: a file is missing or altered.
        """
        turns = itertools.count()
        share = distributed.count() if shared else 1
        try:
            check_digests(self.folder, lambda name: next(turns) % share == distributed.rank() % share)
        except InputError as error:
            raise DamagedCheckpointError(self.folder, str(error)) from error

    def load_network(self, network: nn.Module, *, ema: bool = False) -> None:
        """Load the weights, strictly; of sharded weights, the shards of this process.

        Raises:
            DamagedCheckpointError: the files are damaged.
            InputError: the checkpoint holds another network.
        """
        self._read(EMA if ema else NETWORK, network.state_dict())

    def load_optimizer(self, optimizer: optim.Optimizer, network: nn.Module) -> None:
        """Load the optimizer's moments, by the names of the network's parameters."""
        parameters = dict(network.named_parameters())
        moments: dict[str, Tensor] = {}
        for name, size in self._part(OPTIMIZER).sizes.items():
            parameter = parameters.get(name.rpartition("/")[0])
            if parameter is None:
                raise InputError(f"the checkpoint {self.folder} holds another network: it optimised {name}")
            moments[name] = torch.zeros_like(parameter) if size else torch.zeros(())
        self._read(OPTIMIZER, moments)
        load_optimizer_state(optimizer, parameters, moments)

    def _part(self, part: str) -> Part:
        try:
            return Part(self.folder / part)
        except OSError as error:
            raise self._damaged(part, error) from error

    def _read(self, part: str, tensors: dict[str, Tensor]) -> None:
        """Fill ``tensors`` in place; their names and sizes must be those of the part."""
        stored = self._part(part)
        saved, expected = stored.sizes, {name: tensor.shape for name, tensor in tensors.items()}
        if saved != expected:
            differing = sorted(name for name in saved | expected if saved.get(name) != expected.get(name))
            raise InputError(
                f"the checkpoint {self.folder} holds another network: {len(differing)} tensors of its {part} are "
                f"missing, left over or of another shape, the first {differing[0]}"
            )
        try:
            stored.read(tensors)
            require_finite({name: own(tensor) for name, tensor in tensors.items()}, "it")
        except (OSError, InputError) as error:
            raise self._damaged(part, error) from error

    def _damaged(self, part: str, error: BaseException) -> DamagedCheckpointError:
        reason = f"the checkpoint's {self.folder / part} is missing or damaged ({error})"
        return DamagedCheckpointError(self.folder, reason)


class CheckpointStore:
    """The checkpoints of a run; it keeps the latest ones and the best by held-out loss.

    Args:
        folder: the run's ``checkpoints/``.
        keep: how many of the latest to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self._warned: set[Path] = set()

    def save(
        self, state: TrainingState, network: nn.Module, ema: nn.Module, optimizer: optim.Optimizer
    ) -> Checkpoint:
        """Write a checkpoint; it gets its name when every byte is on the disk. Every process must call this.

        Raises:
            InputError: it cannot be written; earlier checkpoints are whole.
        """
        first = distributed.rank() == 0
        final = self.folder / f"step-{state.step:08d}"
        partial = self.folder / f"{PARTIAL_PREFIX}{final.name}"
        if first:
            for leftover in self.folder.glob(f"{PARTIAL_PREFIX}*"):
                shutil.rmtree(leftover)
            partial.mkdir(parents=True)
        distributed.wait()
        parts = {
            NETWORK: network.state_dict(),
            EMA: ema.state_dict(),
            OPTIMIZER: optimizer_state(optimizer, dict(network.named_parameters())),
        }
        problem = ""
        try:
            digests = {
                f"{part}/{name}": digest
                for part, tensors in parts.items()
                for name, digest in write_part(partial / part, tensors).items()
            }
            if first:
                self._finish(partial, final, state, digests)
        except OSError as error:
            problem = in_words(error)
        if problem := distributed.first_problem(problem):
            if first:
                shutil.rmtree(partial, ignore_errors=True)
            raise InputError(
                f"cannot write the checkpoint {final} ({problem}); the checkpoints before it are whole: free some "
                "disk space and --resume the run"
            )
        return Checkpoint(final, state)

    def _finish(self, partial: Path, final: Path, state: TrainingState, digests: dict[str, str]) -> None:
        """Write the state and digests, wait until every byte is on the disk, and rename the folder."""
        (partial / STATE_FILE).write_text(json.dumps(asdict(state), indent=2), encoding="utf-8")
        digests = {**digests, STATE_FILE: sha256_of(partial / STATE_FILE)}
        (partial / DIGESTS_FILE).write_text(digest_lines(digests), encoding="utf-8")
        for path in partial.rglob("*"):
            sync(path)
        if final.exists():  # the same step again, after a resume
            self._remove(final)
        move_into_place(partial, final)
        self._prune()

    def all(self) -> list[Checkpoint]:
        """Every checkpoint whose state can be read, oldest first; a warning names the others, once."""
        found = []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            if re.fullmatch(r"step-\d+", path.name):
                try:
                    found.append(Checkpoint(path, _read_state(path)))
                except InputError as error:
                    if path not in self._warned:
                        note(f"warning: {error}")
                    self._warned.add(path)
        return found

    def latest(self) -> Checkpoint | None:
        """The checkpoint of the highest step, if there is any; its files are not verified."""
        return next(reversed(self.all()), None)

    def latest_whole(self) -> Checkpoint | None:
        """The checkpoint of the highest step whose files are whole, if there is any checkpoint.

        Raises:
            InputError: there are checkpoints, and all are damaged.
        """
        for checkpoint in reversed(self.all()):
            try:
                checkpoint.check()
            except DamagedCheckpointError as error:
                note(f"warning: {error}")
            else:
                return checkpoint
        refuse_to_start_over(self.folder)
        return None

    def best(self) -> Checkpoint | None:
        """The checkpoint with the lowest held-out loss, if any was measured."""
        losses = [(item.state.validation_loss, item) for item in self.all()]
        measured = [(loss, item) for loss, item in losses if loss is not None and math.isfinite(loss)]
        return min(measured, key=lambda pair: pair[0])[1] if measured else None

    def _prune(self) -> None:
        best = self.best()
        for checkpoint in self.all()[: -self.keep]:
            if best is None or checkpoint.folder != best.folder:
                self._remove(checkpoint.folder)

    def _remove(self, folder: Path) -> None:
        """Delete a checkpoint; it is renamed first, so that a kill leaves no half of it under its name."""
        doomed = self.folder / f"{PARTIAL_PREFIX}removed-{folder.name}"
        os.rename(folder, doomed)
        shutil.rmtree(doomed)


def _read_state(folder: Path) -> TrainingState:
    remedy = f"remove {folder} to go on from the checkpoint before it"
    state: TrainingState = read_json(folder / STATE_FILE, TrainingState, "a checkpoint's state", remedy)
    if state.step != int(folder.name.removeprefix("step-")):
        raise InputError(f"{folder / STATE_FILE} says step {state.step}: {remedy}")
    return state
