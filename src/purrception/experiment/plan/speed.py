"""How fast a machine is: a GPU's peak by name, or a large matrix product and training steps timed here."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from purrception.bench.peaks import known_peak
from purrception.flow import Objective
from purrception.models import PurrceptionTransformer
from purrception.tokens import Manifest, Standardisation, TokenDataset
from purrception.tokens.manifest import Shard
from purrception.tokens.shards import shard_name, write_shard
from purrception.training import RunDirectory, Trainer, TrainingConfig
from purrception.utils.devices import resolve_device
from purrception.utils.errors import InputError

SUPPOSED_GPU = "H100"
SECONDS_AT_MOST, SLOWEST_STEP = 4.0, 0.1
"""A training step is taken where, at this share of the peak, it lasts no longer."""
BYTES_AT_MOST = 4 * 2**30
"""And where, on a processor, it holds no more."""
SECONDS = 1.0
"""That a measurement takes, and at least three rounds."""
LARGEST_PRODUCT, LONG_ENOUGH = 8192, 0.05
"""Side of the largest matrices tried; seconds from which on a product counts as large."""


@dataclass(frozen=True)
class Speed:
    """How long a step takes, and how that is known."""

    device: str
    """Kind of device."""
    tflops: float
    """Peak of one device, TFLOP/s."""
    source: str
    """Of the peak."""
    utilisation: float
    """Share of the peak that training reaches."""
    steps_taken: int
    """Training steps that were measured for it; 0: it was given or is supposed."""
    seconds_per_step: float


@dataclass(frozen=True)
class Peak:
    """The peak of one device."""

    tflops: float
    source: str
    """How it is known."""
    here: bool
    """Whether it was measured on this machine."""

    @classmethod
    def find(cls, device: str, given: float | None, gpu: str, dtype: torch.dtype) -> Peak:
        """Given, known by name, or measured if there is such a device here; else that of an H100.

        Raises:
            InputError: a name stands for bfloat16, and ``dtype`` is another.
        """
        if given is not None:
            return cls(given, "given", here=False)
        if not gpu and (device != "cuda" or torch.cuda.is_available()):
            tflops, side = measured_peak(resolve_device(device), dtype)
            count = torch.get_num_threads()
            threads = f", {count} thread{'s' if count > 1 else ''}" if device == "cpu" else ""
            kind = str(dtype).removeprefix("torch.")
            source = f"measured here: a {kind} product of {side}×{side} matrices on {device}{threads}"
            return cls(tflops, source, here=True)
        if dtype is not torch.bfloat16:
            raise InputError(
                "the peaks that are known by name are bfloat16's; for training.precision float32 give --tflops X"
            )
        name = gpu or SUPPOSED_GPU
        known = known_peak(name)
        assert known is not None
        supposed = "" if gpu else "; no GPU is here, and none is named with --gpu"
        return cls(known, f"an {name}'s dense bfloat16 peak{supposed}", here=False)

    def can_step(self, device: str, flops: float, memory: int) -> bool:
        """Whether a training step of so many operations and bytes may be taken here, to see how long it lasts."""
        if not self.here or flops > SECONDS_AT_MOST * SLOWEST_STEP * 1e12 * self.tflops:
            return False
        return memory < (torch.cuda.mem_get_info()[0] if device == "cuda" else BYTES_AT_MOST)


def measured_peak(device: torch.device, dtype: torch.dtype) -> tuple[float, int]:
    """The best speed of a product of square matrices in about a second: (TFLOP/s, side of the matrices).

    The side is doubled until a product takes long enough to be large for this machine.
    """
    side, best, rounds, began = 256, 0.0, 0, time.perf_counter()
    matrix = _random_matrix(side, device, dtype)
    while rounds < 3 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # a number is there when the product is, on every device
        taken = time.perf_counter() - start
        if taken < LONG_ENOUGH and side < LARGEST_PRODUCT:
            side *= 2
            matrix = _random_matrix(side, device, dtype)
            best, rounds = 0.0, 0
        else:
            best, rounds = max(best, 2e-12 * side**3 / taken), rounds + 1
    return best, side


def _random_matrix(side: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Of noise: a GPU draws less power on equal numbers, and is quicker."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(side, side, generator=generator, device=device).to(dtype)


def measured_step(
    config: TrainingConfig, objective: Objective, network: PurrceptionTransformer
) -> tuple[float, int]:
    """Take optimiser steps on made-up codes, as training takes them: (median seconds of a step, steps taken).

    Args:
        config: of one process: its batch, its device.
        objective: owns the loss.
        network: trained in place; its codebook is replaced by noise.
    """
    network.set_codebook(torch.randn_like(network.codebook))
    with tempfile.TemporaryDirectory() as temporary:
        tokens = _made_up_tokens(Path(temporary) / "tokens", network, config.batch_size)
        run = RunDirectory.create(Path(temporary) / "run", "")
        trainer = Trainer(replace(config, parallel="ddp"), objective, network, tokens, None, run)
        for _ in range(2):  # the first ones allocate, and may compile
            trainer.try_step()
        taken: list[float] = []
        while len(taken) < 3 or sum(taken) < SECONDS:
            start = time.perf_counter()
            trainer.try_step()
            taken.append(time.perf_counter() - start)
    return statistics.median(taken), len(taken)


def _made_up_tokens(folder: Path, network: PurrceptionTransformer, count: int) -> TokenDataset:
    """``count`` rows of random codes and labels, as the network takes them."""
    folder.mkdir()
    size, dim = network.codebook.shape
    rng = np.random.default_rng(0)
    indices = rng.integers(size, size=(count, *network.grid))
    labels = rng.integers(max(network.num_classes, 1), size=count)
    digest = write_shard(folder / shard_name(0), indices, labels, size)
    Manifest(
        codebook_size=size,
        codebook_dim=dim,
        grid=network.grid,
        class_names=tuple(map(str, range(network.num_classes))),
        standardisation=Standardisation((0.0,) * dim, 1.0),
        tokenizer_hash="",
        split="train",
        flips=False,
        shards=(Shard(shard_name(0), count, digest),),
    ).write(folder)
    return TokenDataset(folder)
