"""How fast a machine is: a GPU's peak by its name, or a large matrix product and training steps, measured."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from purrception.bench.data import write_random_tokens
from purrception.bench.peaks import known_peak
from purrception.data import ReadableImages, open_images
from purrception.experiment.config import RunConfig
from purrception.flow import Objective
from purrception.models import PurrceptionTransformer
from purrception.tokenizers.training import build_trainer
from purrception.tokens import TokenDataset
from purrception.training import RunDirectory, Trainer, TrainingConfig
from purrception.utils.devices import resolve_device
from purrception.utils.errors import InputError

ASSUMED_GPU = "H100"
LONGEST_STEP, LOWEST_UTILISATION = 4.0, 0.1
"""Training steps are measured if one takes at most so many seconds at this share of the peak speed."""
LARGEST_STEP_ON_CPU = 4 * 2**30
"""Bytes that a measured step may need on a CPU."""
SECONDS = 1.0
"""Duration of a measurement, which has at least three rounds."""
LARGEST_PRODUCT, LONG_ENOUGH = 8192, 0.05
"""Side of the largest matrices; seconds that a product must take to count as large."""


@dataclass(frozen=True)
class Speed:
    """The duration of a training step, and where it comes from."""

    device: str
    """Kind of device."""
    tflops: float
    """Peak speed of one device, TFLOP/s."""
    source: str
    """How the peak is known."""
    utilisation: float
    """Share of the peak that training reaches."""
    steps_taken: int
    """Training steps in which the utilisation was measured; 0 if it is given or assumed."""
    seconds_per_step: float


def find_peak(device: str, tflops: float | None, gpu: str, dtype: torch.dtype) -> tuple[float, str, bool]:
    """The peak that is given, known by the GPU's name, or measured on this machine; else that of an H100.

    Returns:
        TFLOP/s, how they are known, and whether they were measured here.

    Raises:
        InputError: the peak is known by name, which is only so in bfloat16, and ``dtype`` is another.
    """
    if tflops is not None:
        return tflops, "given", False
    if not gpu and (device != "cuda" or torch.cuda.is_available()):
        measured, side = measured_peak(resolve_device(device), dtype)
        count = torch.get_num_threads()
        threads = f", {count} thread{'s' if count > 1 else ''}" if device == "cpu" else ""
        kind = str(dtype).removeprefix("torch.")
        return measured, f"measured here: a {kind} product of {side}×{side} matrices on {device}{threads}", True
    if dtype is not torch.bfloat16:
        raise InputError(
            "peaks are known by name for bfloat16 only; for training.precision float32 give --tflops X"
        )
    name = gpu or ASSUMED_GPU
    known = known_peak(name)
    assert known is not None
    assumed = "" if gpu else "; this machine has no GPU, and --gpu names none"
    return known, f"an {name}'s dense bfloat16 peak{assumed}", False


def is_small_step(device: str, tflops: float, flops: float, memory: int) -> bool:
    """Whether a training step of so many operations and bytes is small enough to be measured on this machine."""
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else LARGEST_STEP_ON_CPU
    return flops <= LONGEST_STEP * LOWEST_UTILISATION * 1e12 * tflops and memory < free


def measured_peak(device: torch.device, dtype: torch.dtype) -> tuple[float, int]:
    """The best speed of a product of square matrices within about a second: (TFLOP/s, side of the matrices).

    The side is doubled until a product takes long enough to be large for this machine.
    """
    side, best, rounds, began = 256, 0.0, 0, time.perf_counter()
    matrix = _random_matrix(side, device, dtype)
    while rounds < 3 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a number waits for the product, on any device
        taken = time.perf_counter() - start
        if taken < LONG_ENOUGH and side < LARGEST_PRODUCT:
            side *= 2
            matrix = _random_matrix(side, device, dtype)
            best, rounds = 0.0, 0
        else:
            best, rounds = max(best, 2e-12 * side**3 / taken), rounds + 1
    return best, side


def _random_matrix(side: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Noise, because a GPU draws less power on equal numbers and is faster."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(side, side, generator=generator, device=device).to(dtype)


def measured_step(
    config: TrainingConfig, objective: Objective, network: PurrceptionTransformer
) -> tuple[float, int]:
    """Take optimiser steps on random codes, as training does: (median seconds of a step, number of steps).

    Args:
        config: the training of one process, with its batch size and device.
        objective: defines the loss.
        network: trained in place; its codebook is replaced by noise.
    """
    network.set_codebook(torch.randn_like(network.codebook))
    with tempfile.TemporaryDirectory() as temporary:
        size, dim = network.codebook.shape
        folder = Path(temporary) / "tokens"
        write_random_tokens(folder, config.batch_size, network.grid, size, dim, network.num_classes)
        run = RunDirectory.create(Path(temporary) / "run", "")
        trainer = Trainer(replace(config, parallel="ddp"), objective, network, TokenDataset(folder), None, run)
        return _timed(trainer.try_step)


def measured_tokenizer_step(config: RunConfig) -> tuple[float, int]:
    """Take optimiser steps of a run's tokenizer on its images: (median seconds of a step, number of steps)."""
    own, device = config.tokenizer, config.training.resolve_device()
    train, held_out = (ReadableImages(open_images(config.data, split)) for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as temporary, torch.random.fork_rng(devices=[]):
        trainer = build_trainer(own.model, own.training, train, held_out, Path(temporary), device=device)
        return _timed(trainer.try_step)


def _timed(step: Callable[[], object]) -> tuple[float, int]:
    for _ in range(2):  # the first steps allocate, and may compile
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < SECONDS:
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), len(seconds)
