"""What the checkpoints of networks and of tokenizers share: the optimizer's state, and what to do with damage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn, optim

from purrception.storage.files import remove
from purrception.utils import distributed
from purrception.utils.errors import InputError
from purrception.utils.progress import note

DAMAGED_PREFIX = "damaged-"


def optimizer_state(optimizer: optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """An optimizer's moments and step counts under ``parameter/key``, such as ``blocks.0.weight/exp_avg``."""
    return {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(
    optimizer: optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    """Load what :func:`optimizer_state` returned.

    Args:
        optimizer: whose state is replaced.
        parameters: all of its parameters by name, in its own order.
        state: tensors by ``parameter/key``.
    """
    numbers = {name: number for number, name in enumerate(parameters)}
    by_number: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        parameter, _, key = name.rpartition("/")
        by_number.setdefault(numbers[parameter], {})[key] = value
    optimizer.load_state_dict({"state": by_number, "param_groups": optimizer.state_dict()["param_groups"]})


def set_aside(checkpoint: Path, reason: str) -> None:
    """Rename a damaged checkpoint, so that it is neither used nor counted again; every process takes part."""
    aside = checkpoint.with_name(f"{DAMAGED_PREFIX}{checkpoint.name}")
    note(f"warning: {reason}. It is kept as {aside}, and training goes on from the checkpoint before it")
    if distributed.rank() == 0:
        if aside.exists():
            remove(aside)
        os.rename(checkpoint, aside)


def refuse_to_start_over(folder: Path, reason: str = "") -> None:
    """Refuse to train from the beginning where there are checkpoints, none of which can be used.

    Args:
        folder: where the checkpoints are.
        reason: what is wrong with one of them.

    Raises:
        InputError: there are checkpoints.
    """
    left = sorted(path.name for path in folder.glob("*step-*") if path.name[0] != ".")
    if left:
        raise InputError(
            f"none of the checkpoints in {folder} can be used ({', '.join(left)}{reason and f': {reason}'}): "
            "bring back one that is whole, or remove that folder to train from the beginning"
        )
