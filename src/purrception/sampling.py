"""Sampling without files: noise keyed by (seed, image) → codes, with uncertainty and the cost counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from purrception.errors import InputError
from purrception.flow import (
    Guidance,
    Objective,
    Posterior,
    check_temperature,
    get_solver,
    nearest_codes,
    uniform_grid,
)
from purrception.keyed_rng import Stream, keyed_rng
from purrception.models import PurrceptionTransformer


@dataclass(frozen=True)
class SamplingConfig:
    """How to integrate from noise to codes."""

    steps: int = 50
    """N intervals of the time grid."""
    solver: str = "euler"
    """euler, heun, midpoint, dpmpp_2m or dopri5."""
    temperature: float = 1.0
    """τ of the posterior; below 1 sharpens it."""
    guidance: float = 1.0
    """Strength of the class: 1 conditional, 0 unconditional, above 1 exaggerated."""

    def __post_init__(self) -> None:
        """Refuse what no solver can do."""
        uniform_grid(self.steps)
        get_solver(self.solver)
        check_temperature(self.temperature)
        if not abs(self.guidance) < float("inf"):
            raise InputError(f"guidance is a finite number; given {self.guidance}")


@dataclass(frozen=True)
class Generation:
    """Codes and what the model thought of them at its last evaluation."""

    indices: Tensor
    """long ``[B, h, w]``."""
    entropy: Tensor
    """Of the last posterior, nats, float32 ``[B, h, w]``."""
    nfe: int
    """Network evaluations per image; a guided step counts two."""


def initial_noise(seed: int, numbers: Sequence[int], dim: int, grid: tuple[int, int]) -> Tensor:
    """z_0 of the images ``numbers``, float32 ``[B, D, h, w]``; image i depends on (seed, i) alone."""
    draws = [
        keyed_rng(seed, Stream.SAMPLING, number).standard_normal((dim, *grid), dtype=np.float32)
        for number in numbers
    ]
    return torch.from_numpy(np.stack(draws))


@torch.no_grad()
def generate(
    network: PurrceptionTransformer,
    objective: Objective,
    labels: Tensor,
    noise: Tensor,
    config: SamplingConfig,
) -> Generation:
    """Integrate ``noise`` to t = 1 and snap each site to the nearest codeword.

    Args:
        network: in evaluation mode, on the device of ``noise``.
        objective: what the network was trained with.
        labels: long ``[B]``; ``network.num_classes`` is the null class.
        noise: z_0, float32 ``[B, D, h, w]``.
        config: solver, steps, temperature, guidance.

    Raises:
        InputError: guidance other than 1 for a network without classes.
    """
    guidance = Guidance(config.guidance)
    if network.num_classes == 0 and guidance.scale != 1:
        raise InputError(
            f"this model has no classes, so that there is nothing to guide by; given guidance "
            f"{guidance.scale}, accepted 1"
        )
    latest: list[Posterior] = []
    evaluations = 0

    def mean(z: Tensor, t: float) -> Tensor:
        nonlocal evaluations
        evaluations += guidance.passes_at(t)
        posterior = objective.predict(
            network, z, t, labels, temperature=config.temperature, guidance=guidance
        )
        latest[:] = [posterior]
        return posterior.mean

    z = get_solver(config.solver)(mean, noise, uniform_grid(config.steps))
    return Generation(nearest_codes(z, network.codebook), latest[0].entropy, evaluations)
