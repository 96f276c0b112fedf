"""Timesteps: the N + 1 times from 0 to 1 between which a solver takes N steps, and the times of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from purrception.utils.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

Timesteps = tuple[float, ...]
"""Increasing times in [0, 1]."""


def uniform_timesteps(steps: int) -> Timesteps:
    """The points 0, 1/N, …, 1.

    Raises:
        InputError: fewer than one step.
    """
    return _warped(steps, lambda x: x)


def cosine_timesteps(steps: int) -> Timesteps:
    """t = (1 − cos πx)/2 over uniform x: short steps near noise and near data, long ones between.

    Raises:
        InputError: fewer than one step.
    """
    return _warped(steps, lambda x: math.sin(math.pi * x / 2) ** 2)


def shifted_timesteps(steps: int, shift: float = 3.0) -> Timesteps:
    """t = x/(shift − (shift − 1) x) over uniform x: log(t/(1 − t)) is lowered by log shift.

    Above 1 the shift moves points towards noise (t = 0), as for larger images; below 1 towards data. It is
    the shift of Stable Diffusion 3 (arXiv 2403.03206, equation 23, for the noise level 1 − t).

    Raises:
        InputError: fewer than one step, or a shift that is not positive.
    """
    if not 0 < shift < math.inf:
        raise InputError(f"the shift of timesteps is a positive number, 1 for none; given {shift}")
    return _warped(steps, lambda x: x / (shift - (shift - 1) * x))


def log_snr_timesteps(steps: int, low: float = -5.0, high: float = 5.0) -> Timesteps:
    """Points 1 to N − 1 uniform in λ = log(t/(1 − t)) from ``low`` to ``high``, and exact ends 0 and 1.

    A single inner point stands in the middle.

    Raises:
        InputError: fewer than one step, or ends that do not increase.
    """
    if not -math.inf < low < high < math.inf:
        raise InputError(f"log-SNR timesteps go from a lower to a higher end; given {low} to {high}")

    def time(x: float) -> float:
        place = (x * steps - 1) / (steps - 2) if steps > 2 else 0.5
        return 1 / (1 + math.exp(-(low + place * (high - low))))

    return _warped(steps, time)


def _warped(steps: int, warp: Callable[[float], float]) -> Timesteps:
    if steps < 1:
        raise InputError(f"sampling needs at least 1 step; given {steps}")
    timesteps = (0.0, *(warp(n / steps) for n in range(1, steps)), 1.0)
    if not all(t < s for t, s in pairwise(timesteps)):
        raise InputError(f"two of these {steps} timesteps coincide: use fewer steps or milder settings")
    return timesteps


SPACINGS: dict[str, Callable[[int], Timesteps]] = {
    "uniform": uniform_timesteps,
    "cosine": cosine_timesteps,
    "shifted": shifted_timesteps,
    "log_snr": log_snr_timesteps,
}


def get_timesteps(spacing: str, steps: int) -> Timesteps:
    """N + 1 increasing times from exactly 0 to exactly 1.

    Raises:
        InputError: no spacing has that name (the nearest known name is suggested), or fewer than one step.
    """
    if spacing not in SPACINGS:
        raise unknown_name("spacing of timesteps", spacing, SPACINGS)
    return SPACINGS[spacing](steps)


@dataclass(frozen=True)
class TimeSampling:
    """The times of training, made from uniform numbers: t uniform on [low, high).

    Raises:
        InputError: the range is empty or leaves [0, 1].
    """

    low: float = 0.0
    """Earliest time."""
    high: float = 1.0
    """Time below which all are."""
    bfloat16: bool = False
    """Whether times are drawn in bfloat16, as on a GPU: 128 values between two powers of two, and what rounds to 1
    is 0."""

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if not 0 <= self.low < self.high <= 1:
            raise InputError(f"training times lie in a range within 0 to 1; given {self.low} to {self.high}")

    def __call__(self, uniform: Tensor) -> Tensor:
        """Uniform numbers in [0, 1), float32 ``[B]`` → times, float32 ``[B]``."""
        if self.bfloat16:
            uniform = uniform.bfloat16()
            uniform = uniform.where(uniform < 1, 0)
        return ((self.high - self.low) * uniform + self.low).float()
