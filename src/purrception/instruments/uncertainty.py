"""What a posterior holds possible, token by token, and how that changes from noise to image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from purrception.flow.posterior import TopCodes
from purrception.flow.solvers import Solver
from purrception.flow.timesteps import Timesteps
from purrception.instruments.posteriors import LogPosterior, posterior_mean


@dataclass(frozen=True)
class Uncertainty:
    """Figures of the posterior of every token; each ``[…, h, w]``."""

    entropy: Tensor
    """−Σ π ln π, nats."""
    margin: Tensor
    """Probability of the first code less that of the second: 0 undecided, 1 certain."""
    effective_codes: Tensor
    """exp(entropy): as many equally likely codes are as uncertain."""
    distance: Tensor
    """Σ_k π_k |e_k − μ|: how far the code may be from the mean that is integrated, standardised latents."""
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
    """Images on their way from noise to data, as they were at every evaluation of the posterior."""

    times: tuple[float, ...]
    """t of each evaluation, T of them."""
    states: Tensor
    """z_t, ``[T, B, D, h, w]``."""
    means: Tensor
    """μ_t, ``[T, B, D, h, w]``."""
    uncertainty: Uncertainty
    """Each ``[T, B, h, w]``."""
    end: Tensor
    """The state at the end of the grid, ``[B, D, h, w]``."""


def record_trajectory(
    log_posterior: LogPosterior, codebook: Tensor, noise: Tensor, solver: Solver, grid: Timesteps
) -> Trajectory:
    """Sample, and keep what the posterior said at each evaluation.

    A solver sees nothing but a plain function, so that this records any of them.

    Args:
        log_posterior: the model.
        codebook: codes ``[K, D]``.
        noise: z_0, ``[B, D, h, w]``.
        solver: see :mod:`purrception.flow.solvers`.
        grid: increasing times.
    """
    times: list[float] = []
    kept: list[tuple[Tensor, Tensor, Uncertainty]] = []

    def mean(z: Tensor, t: float) -> Tensor:
        said = log_posterior(z, t)
        times.append(t)
        kept.append((z, posterior_mean(said, codebook).to(z.dtype), Uncertainty.of(said, codebook)))
        return kept[-1][1]

    end = solver(mean, noise, grid)
    states, means, figures = zip(*kept, strict=True)
    stacked = {
        field.name: torch.stack([getattr(one, field.name) for one in figures]) for field in fields(Uncertainty)
    }
    return Trajectory(tuple(times), torch.stack(states), torch.stack(means), Uncertainty(**stacked), end)


def top_codes(
    log_posterior: LogPosterior, trajectory: Trajectory, image: int, site: tuple[int, int], count: int
) -> TopCodes:
    """The ``count`` most probable codes of one site of one image at each of T recorded states, ``[T, count]``.

    Args:
        log_posterior: the model, asked about the one image alone.
        trajectory: what was recorded.
        image: its number in the batch.
        site: (row, column).
        count: k, at most K.
    """
    row, column = site
    found = []
    for t, states in zip(trajectory.times, trajectory.states, strict=True):
        said = log_posterior(states[image : image + 1], t)[0, row, column]
        found.append(said.exp().topk(min(count, len(said))))
    return TopCodes(
        codes=torch.stack([top.indices for top in found]),
        probabilities=torch.stack([top.values for top in found]),
    )


def decode_in_place(
    decode: Callable[[Tensor], np.ndarray], grid: Tensor, site: tuple[int, int], codes: Tensor
) -> np.ndarray:
    """The image of ``grid``, long ``[h, w]``, with each of ``codes``, long ``[k]``, in turn at one site.

    ``decode`` takes grids ``[k, h, w]``; its result is returned as it is.
    """
    row, column = site
    grids = grid.expand(len(codes), -1, -1).clone()
    grids[:, row, column] = codes
    return decode(grids)
