"""Probability paths between noise at t = 0 and data at t = 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PathSample:
    """A point on a path, with everything it was made from; latents are float32 ``[B, D, h, w]``."""

    z_1: Tensor
    """Data, the standardised embeddings."""
    z_0: Tensor
    """Noise."""
    t: Tensor
    """Time, float32 ``[B]`` in [0, 1]."""
    z_t: Tensor
    """The point that the network sees."""
    velocity: Tensor
    """dz_t/dt given both ends."""


class LinearPath:
    """z_t = t z_1 + (1 − t) z_0 with z_0 ~ N(0, I) (Flow Matching, arXiv 2210.02747; paper, section 3)."""

    def sample(self, z_1: Tensor, z_0: Tensor, t: Tensor) -> PathSample:
        """The point at time ``t``.

        Args:
            z_1: data ``[B, D, h, w]``.
            z_0: noise of the same shape.
            t: time ``[B]``; computed in float32 whatever the inputs are (bfloat16 has 256 values in [0, 1)).
        """
        z_1, z_0, t = z_1.float(), z_0.float(), t.float()
        time = t.view(-1, *[1] * (z_1.dim() - 1))
        return PathSample(z_1=z_1, z_0=z_0, t=t, z_t=torch.lerp(z_0, z_1, time), velocity=z_1 - z_0)

    def velocity(self, mean: Tensor, z_t: Tensor, t: float) -> Tensor:
        """v_t = (μ_t − z_t)/(1 − t), from the posterior mean μ_t; undefined at t = 1 (paper, section 4).

        Raises:
            ValueError: t is not in [0, 1).
        """
        if not 0 <= t < 1:
            raise ValueError(f"the velocity exists for 0 ≤ t < 1; given t = {t}")
        return (mean - z_t) / (1 - t)

    def back(self, z_s: Tensor, noise: Tensor, s: float, t: float) -> Tensor:
        """A state at ``t`` whose path may lead to z_s at ``s``: noise is added, and the law at t is the path's.

        z_t = (t/s) z_s + √((1 − t)² − (t/s)² (1 − s)²) ε, so that with z_s = s z_1 + (1 − s) z_0 it is
        t z_1 + (1 − t) z_0' with another standard normal z_0'.

        Args:
            z_s: the state ``[B, D, h, w]``.
            noise: ε, standard normal, of its shape.
            s: where it is.
            t: where to go back to.

        Raises:
            ValueError: not 0 ≤ t < s ≤ 1.
        """
        if not 0 <= t < s <= 1:
            raise ValueError(f"going back leads to an earlier time inside [0, 1]; given from s = {s} to t = {t}")
        share = t / s
        return share * z_s + math.sqrt((1 - t) ** 2 - (share * (1 - s)) ** 2) * noise

    def advance(self, z_t: Tensor, mean: Tensor, t: float, s: float) -> Tensor:
        """One Euler step of dz/dt = (μ − z)/(1 − t) from ``t`` to ``s``.

        It is exactly z_s = μ + (1 − s)/(1 − t) · (z_t − μ): no velocity is formed, nothing is divided by
        zero, and s = 1 lands on μ.

        Raises:
            ValueError: not 0 ≤ t < s ≤ 1.
        """
        if not 0 <= t < s <= 1:
            raise ValueError(f"a step goes forward inside [0, 1]; given from t = {t} to s = {s}")
        return mean + (1 - s) / (1 - t) * (z_t - mean)
