"""The configuration of training; reading it needs no PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from purrception.flow.timesteps import TimeSampling
from purrception.models.settings import Kernel
from purrception.utils.errors import InputError
from purrception.utils.settings import ProcessOptions, check_at_least, check_numbers, check_positive

if TYPE_CHECKING:
    import torch

Parallel = Literal["ddp", "fsdp", "hybrid"]

TrackerName = Literal["tensorboard", "trackio"]
"""Where metrics go besides metrics.jsonl."""


@dataclass(frozen=True)
class TrainingConfig(ProcessOptions):
    """Optimisation, logging and saving. The optimiser's defaults are the paper's."""

    steps: int = 1000
    """Number of optimiser steps of the whole run."""
    batch_size: int = 64
    """Images per optimiser step, over all microbatches."""
    accumulation: int = 1
    """Microbatches per optimiser step; batch_size must be a multiple of it."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises linearly from 0."""
    decay: Literal["constant", "cosine"] = "constant"
    """Shape of the learning rate after the warm-up."""
    gradient_clip: float = 1.0
    """Norm to which the gradient is clipped."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the weights; after n steps it is at most (1 + n)/(10 + n)."""
    label_dropout: float = 0.1
    """Share of training images whose label is replaced by the null class, which guidance needs."""
    time_range: tuple[float, float] = (0.0, 1.0)
    """Range of the uniform training times; held-out losses always cover all of [0, 1)."""
    time_precision: Literal["float32", "bfloat16"] = "float32"
    """Precision in which times are drawn; bfloat16, as in the paper's code, has about 1250 values, none above
    0.9961."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the network; auto is bfloat16 autocast on GPUs and float32 elsewhere."""
    recompute: bool = False
    """Recompute each block in the backward pass instead of keeping its activations: a quarter more operations, a
    fraction of the memory."""
    compile: bool = False
    """Compile the backbone's blocks and the operations on chunks of logits (torch.compile): the start takes
    seconds to minutes longer, and steps are faster, mostly on GPUs."""
    head_kernel: Kernel = "auto"
    """Implementation of the categorical head's loss: torch (chunk by chunk), triton (kernels, on CUDA devices
    only) or auto, which is triton if available."""
    parallel: Parallel = "ddp"
    """Under torchrun: ddp (a copy of the network in each process), fsdp (weights, averages and optimizer state
    sharded over all processes) or hybrid (sharded within a group of processes, copied between groups)."""
    shards: int = 0
    """Under hybrid, number of processes that share one copy; 0: all processes of a machine."""
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where metrics go besides metrics.jsonl: tensorboard (events in the run), trackio (a folder of its own on
    this machine), or both."""
    log_every: int = 10
    """Steps between two entries of the metrics."""
    validate_every: int = 250
    """Steps between two measurements of the held-out loss."""
    sample_every: int = 250
    """Steps between two grids of samples; 0: none."""
    checkpoint_every: int = 250
    """Steps between two checkpoints; one is also written at the end."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints to keep, besides the best by held-out loss."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot run."""
        check_numbers(self, "training.", steps=10**12, batch_size=2**24, accumulation=2**24)
        check_at_least(self, "training.", steps=1, batch_size=1, accumulation=1, log_every=1, validate_every=1)
        check_positive(self, "training.", "learning_rate", "gradient_clip")
        check_at_least(self, "training.", checkpoint_every=1, keep_checkpoints=1, shards=0, weight_decay=0)
        if self.batch_size % self.accumulation:
            raise InputError(
                f"training.batch_size must be a multiple of training.accumulation; given {self.batch_size} and "
                f"{self.accumulation}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"training.betas must lie in [0, 1); given {list(self.betas)}")
        for name in ("label_dropout", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"training.{name} must lie in [0, 1); given {getattr(self, name)}")
        self.times()

    def times(self) -> TimeSampling:
        """The map from uniform numbers to training times."""
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
        from purrception.utils.devices import resolve_device

        return resolve_device(self.device)

    def autocast(self, device: torch.device) -> torch.autocast:
        """A context in which the network runs in the configured precision."""
        from purrception.utils.devices import autocast

        return autocast(self.precision, device)

    def takes_bfloat16(self, device: str) -> bool:
        """Whether the network runs in bfloat16 on that kind of device."""
        from purrception.utils.devices import takes_bfloat16

        return takes_bfloat16(self.precision, device)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of optimiser step ``step`` = 0, 1, …

        A function of the step, where schedulers of torch and diffusers have a state: a resumed or prolonged run
        has nothing to restore.
        """
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        if self.decay == "constant":
            return self.learning_rate * warm
        done = min(1.0, step / self.steps)
        return self.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
