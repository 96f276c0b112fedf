"""The uncertainty of a posterior, token by token, and how it changes from noise to image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from purrception.flow.posterior import TopCodes
from purrception.flow.solvers import Solver
from purrception.flow.timesteps import Timesteps
from purrception.instruments.posteriors import LogPosterior, posterior_mean, record_path


@dataclass(frozen=True)
class Uncertainty:
    """Measures of the uncertainty at every token; each ``[…, h, w]``."""

    entropy: Tensor
    """−Σ π ln π, nats."""
    margin: Tensor
    """Probability of the most probable code minus that of the second: 0 undecided, 1 certain."""
    effective_codes: Tensor
    """exp(entropy): the number of equally likely codes that would be as uncertain."""
    distance: Tensor
    """Σ_k π_k |e_k − μ|: expected distance of the code from the mean, standardised latents."""
    codes: Tensor
    """The most probable code, long."""

    @classmethod
    def of(cls, log_posterior: Tensor, codebook: Tensor) -> Uncertainty:
        """Of log-probabilities ``[B, h, w, K]`` over codes ``[K, D]``."""
        probabilities = log_posterior.exp()
        top = probabilities.topk(2, dim=-1)
        entropy = torch.special.entr(probabilities).sum(-1)
        mean = posterior_mean(log_posterior, codebook).movedim(1, -1)
        distances = torch.cdist(mean.flatten(0, -2), codebook.to(mean)).view_as(probabilities)
        return cls(
            entropy=entropy,
            margin=top.values[..., 0] - top.values[..., 1],
            effective_codes=entropy.exp(),
            distance=(probabilities * distances).sum(-1),
            codes=top.indices[..., 0],
        )


@dataclass(frozen=True)
class Trajectory:
    """States of images on their way from noise to data, at every evaluation of the posterior."""

    times: tuple[float, ...]
    """The times of the T evaluations."""
    states: Tensor
    """z_t, ``[T, B, D, h, w]``."""
    means: Tensor
    """μ_t, ``[T, B, D, h, w]``."""
    uncertainty: Uncertainty
    """Each ``[T, B, h, w]``."""
    end: Tensor
    """The final state, ``[B, D, h, w]``."""

    def half_decided_at(self) -> float:
        """The time from which half of the tokens keep the most probable code that they end with."""
        codes = self.uncertainty.codes
        unchanged = (codes == codes[-1]).flip(0).long().cumprod(0).sum(0)  # evaluations since the last change
        decided = len(codes) - unchanged.flatten()
        return self.times[int(decided.double().median())]


def record_trajectory(
    log_posterior: LogPosterior, codebook: Tensor, noise: Tensor, solver: Solver, timesteps: Timesteps
) -> Trajectory:
    """Sample with any solver, and record the posterior at each evaluation.

    Args:
        log_posterior: the model.
        codebook: codes ``[K, D]``.
        noise: z_0, ``[B, D, h, w]``.
        solver: see :mod:`purrception.flow.solvers`.
        timesteps: increasing times.
    """
    found: list[Uncertainty] = []

    def mean(z: Tensor, t: float) -> Tensor:
        log_probabilities = log_posterior(z, t)
        found.append(Uncertainty.of(log_probabilities, codebook))
        return posterior_mean(log_probabilities, codebook).to(z.dtype)

    times, states, means, end = record_path(mean, noise, solver, timesteps)
    stacked = (torch.stack([getattr(one, each.name) for one in found]) for each in fields(Uncertainty))
    return Trajectory(times, states, means, Uncertainty(*stacked), end)


def top_codes(
    log_posterior: LogPosterior, trajectory: Trajectory, image: int, site: tuple[int, int], count: int
) -> TopCodes:
    """The most probable codes of one site of one image at each of T recorded states, ``[T, count]``.

    Args:
        log_posterior: the model, for a batch of this image alone.
        trajectory: the recorded states.
        image: number of the image in the batch.
        site: (row, column).
        count: number of codes, at most K.
    """
    row, column = site
    found = []
    for t, states in zip(trajectory.times, trajectory.states, strict=True):
        log_probabilities = log_posterior(states[image : image + 1], t)[0, row, column]
        found.append(log_probabilities.exp().topk(min(count, len(log_probabilities))))
    return TopCodes(
        codes=torch.stack([top.indices for top in found]),
        probabilities=torch.stack([top.values for top in found]),
    )


def decode_in_place(
    decode: Callable[[Tensor], np.ndarray], grid: Tensor, site: tuple[int, int], codes: Tensor
) -> np.ndarray:
    """Decode a grid of codes, long ``[h, w]``, with each of ``codes``, long ``[k]``, in turn at one site.

    ``decode`` takes grids ``[k, h, w]``; its result is returned.
    """
    row, column = site
    grids = grid.expand(len(codes), -1, -1).clone()
    grids[:, row, column] = codes
    return decode(grids)
