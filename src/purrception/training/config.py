"""How a network is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from purrception.flow import TimeSampling
from purrception.models import Kernel
from purrception.utils.devices import autocast, takes_bfloat16
from purrception.utils.errors import InputError, check_numbers
from purrception.utils.options import LARGEST_RATE, TIMEOUT_MINUTES

Parallel = Literal["ddp", "fsdp", "hybrid"]


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, logging and saving. The defaults of the optimiser are the paper's."""

    steps: int = 1000
    """Optimiser steps of the whole run."""
    batch_size: int = 64
    """Images per optimiser step, over all microbatches."""
    accumulation: int = 1
    """Microbatches per optimiser step; divides batch_size."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises linearly."""
    decay: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.9999
    """Decay of the weights' moving average; it starts lower, at (1 + n)/(10 + n) after n steps."""
    label_dropout: float = 0.1
    """Share of training images shown under the null class, which guidance needs."""
    time_range: tuple[float, float] = (0.0, 1.0)
    """Training times are uniform between these two; held-out losses are of all of [0, 1) in any case."""
    time_precision: Literal["float32", "bfloat16"] = "float32"
    """In which they are drawn; bfloat16, as the paper's code has it, knows some 1250 times, none above 0.9961."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the network; auto is bfloat16 autocast on GPUs and float32 elsewhere."""
    recompute: bool = False
    """Keep only the input of each block for the backward pass and compute the block again there: a quarter more
    operations, a fraction of the memory."""
    compile: bool = False
    """Compile the blocks of the backbone and what is done to a chunk of logits (torch.compile): a while at
    the start (seconds to minutes), faster steps, mostly on GPUs."""
    head_kernel: Kernel = "auto"
    """What makes losses of a categorical head's logits: torch (chunk by chunk), triton (kernels, on CUDA devices
    only) or auto, which is triton where it can be."""
    parallel: Parallel = "ddp"
    """Under torchrun: ddp (a copy of the network in each process), fsdp (its weights, averages and optimizer in
    shards over all of them) or hybrid (in shards within a group, the groups being copies)."""
    shards: int = 0
    """Processes that hold one copy together under hybrid; 0: those of a machine."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto takes a GPU when there is one, under torchrun each process its own."""
    timeout_minutes: float = TIMEOUT_MINUTES
    """Under torchrun, how long processes wait for one that shows no progress."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    validate_every: int = 250
    """Steps between two measurements of the held-out loss."""
    sample_every: int = 250
    """Steps between two sample grids; 0: none."""
    checkpoint_every: int = 250
    """Steps between two checkpoints; one is always written at the end."""
    keep_checkpoints: int = 2
    """Latest checkpoints kept, besides the best by held-out loss."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot run."""
        check_numbers(self, "training.", steps=10**12, batch_size=2**24, accumulation=2**24)
        at_least_one = (
            "steps",
            "batch_size",
            "accumulation",
            "log_every",
            "validate_every",
            "checkpoint_every",
            "keep_checkpoints",
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise InputError(f"training.{name} is at least 1; given {getattr(self, name)}")
        if self.batch_size % self.accumulation:
            raise InputError(
                f"training.accumulation divides training.batch_size; given {self.accumulation} "
                f"and {self.batch_size}"
            )
        if not 0 < self.learning_rate <= LARGEST_RATE or not 0 < self.gradient_clip < math.inf:
            raise InputError(
                "training.learning_rate and training.gradient_clip are positive, the first at most "
                f"{LARGEST_RATE:g}; given {self.learning_rate} and {self.gradient_clip}"
            )
        if not all(0 <= beta < 1 for beta in self.betas) or not 0 <= self.weight_decay < math.inf:
            raise InputError(
                "training.betas lie in [0, 1) and training.weight_decay is at least 0; given "
                f"{list(self.betas)} and {self.weight_decay}"
            )
        if self.shards < 0:
            raise InputError(f"training.shards is at least 0; given {self.shards}")
        for name in ("label_dropout", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"training.{name} lies in [0, 1); given {getattr(self, name)}")
        self.times()

    def times(self) -> TimeSampling:
        """Uniform numbers → the times of training."""
        return TimeSampling(*self.time_range, bfloat16=self.time_precision == "bfloat16")

    @property
    def microbatch(self) -> int:
        """Images per forward and backward pass, over all processes."""
        return self.batch_size // self.accumulation

    def resolve_device(self) -> torch.device:
        """The device to train on.

        Raises:
            InputError: it does not exist on this machine.
        """
        return resolve_device(self.device)

    def autocast(self, device: torch.device) -> torch.autocast:
        """A context in which the network runs at the configured precision."""
        return autocast(self.precision, device)

    def takes_bfloat16(self, device: str) -> bool:
        """Whether the network runs in bfloat16 on that kind of device."""
        return takes_bfloat16(self.precision, device)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of optimiser step ``step`` = 0, 1, …"""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        if self.decay == "constant":
            return self.learning_rate * warm
        done = min(1.0, step / self.steps)
        return self.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def resolve_device(name: str) -> torch.device:
    """``"auto"`` (a GPU when there is one) or a torch device name → a device that exists.

    Raises:
        InputError: it does not exist on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the device {name!r} cannot be used here: {reason}") from error
    return device
