"""Several processes that share one job: who am I, and what do we agree on. One process needs no set-up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from purrception.errors import InputError

PATIENCE = timedelta(days=30)
"""How long a process waits for the others: one may be done with its share days before the slowest."""


def rank() -> int:
    """Number of this process, 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if it did; yields this process's device.

    Gloo connects processors, NCCL GPUs; ``cuda`` becomes the GPU of this process's local number.

    Raises:
        InputError: ``torchrun`` is to restart processes, and would tell them the addresses of dead ones.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    # torch 2.13 keeps one store over all restarts: who comes first reads where the others were before they died.
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise InputError(
            f"torchrun --max-restarts {restarts} needs a fresh store at each restart, or processes look for each "
            "other where they died: export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun"
        )
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def restarted() -> bool:
    """Whether ``torchrun`` started this process again, after one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def share(jobs: int) -> range:
    """The part of jobs 0, …, ``jobs`` − 1 that is this process's; the parts of all, in order, are the whole."""
    return range(jobs * rank() // count(), jobs * (rank() + 1) // count())


def wait() -> None:
    """Return when every process has come here."""
    if count() > 1:
        dist.barrier()


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace float tensors by their mean over the processes, in one message; all give the same shapes."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= count()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(mean.view_as(tensor))


def gather(value: Any) -> list[Any]:
    """What every process gave, by rank; small things only."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values
