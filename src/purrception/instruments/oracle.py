"""The exact posterior of a data set small enough to look through: the truth that a network can be held against.

It is what the training loss is minimised by: a network that reached it would generate the training grids and
nothing else. The distance to it says how far a model has gone in learning its data by heart, and on a tiny
data set how well it has learned at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.instruments.posteriors import LogPosterior, posterior_mean

CHUNK_BYTES = 64 * 2**20
"""Memory for the terms of a chunk of data grids."""


@dataclass(frozen=True)
class Oracle:
    """p(z_1 | z_t) of the uniform distribution over data grids, and its marginals per site, in float64.

    Given z_t, grid n has the weight w_n ∝ Π_i N(z_t,i ; t e_{c_n,i}, (1 − t)² I), and code k at site i the
    probability Σ_n w_n [c_n,i = k]: paper, section 3, with the data distribution written out.
    """

    grids: Tensor
    """Codes of the data, long ``[n, h, w]``; a grid that occurs twice weighs twice."""
    codebook: Tensor
    """Standardised codes ``[K, D]``."""
    grid_labels: Tensor | None = None
    """Classes of the grids, long ``[n]``: a label then stands for the grids of its class. A label that no
    grid has, such as the null class, stands for all."""

    def log_weights(self, z: Tensor, t: float, labels: Tensor | None = None) -> Tensor:
        """ln w of every grid given states ``[B, D, h, w]`` at t < 1, float64 ``[B, n]``, normalised.

        The evidence of a site in each code is computed once, and a grid's is the sum of its sites' own.

        Raises:
            ValueError: t is not in [0, 1).
        """
        if not 0 <= t < 1:
            raise ValueError(f"the exact posterior exists for 0 ≤ t < 1; given t = {t}")
        codes = self.codebook.double()
        precision = 1 / (1 - t) ** 2
        sites = z.double().flatten(2).transpose(1, 2)  # [B, sites, D]
        evidence = precision * (t * sites @ codes.T - 0.5 * t * t * codes.square().sum(1))
        sums = torch.cat(
            [evidence.gather(2, self._broadcast(chunk, z)).sum(1) for chunk in self._chunks(z)], dim=1
        )
        if labels is not None and self.grid_labels is not None:
            own = self.grid_labels[None] == labels[:, None]
            sums = sums.masked_fill(~(own | ~own.any(dim=1, keepdim=True)), -torch.inf)
        return sums.log_softmax(dim=1)

    def probabilities(self, z: Tensor, t: float, labels: Tensor | None = None) -> Tensor:
        """p(c_i = k | z_t) of every site, float64 ``[B, h, w, K]``."""
        weights = self.log_weights(z, t, labels).exp()
        height, width = self.grids.shape[1:]
        total = weights.new_zeros(len(z), height * width, len(self.codebook))
        start = 0
        for chunk in self._chunks(z):
            part = weights[:, None, start : start + len(chunk)].expand(-1, height * width, -1)
            total = total.scatter_add(2, self._broadcast(chunk, z), part)
            start += len(chunk)
        return total.view(len(z), height, width, -1)

    def posterior(self, labels: Tensor | None = None) -> LogPosterior:
        """The exact posterior as a posterior function, for labels ``[B]`` or for all data; ln 0 = −∞."""
        return lambda z, t: self.probabilities(z, t, labels).log()

    def _chunks(self, z: Tensor) -> Iterable[Tensor]:
        """Grids ``[m, sites]``, so many that a float64 for each site and state fits."""
        flat = self.grids.flatten(1)
        return flat.split(max(1, CHUNK_BYTES // (8 * len(z) * flat.shape[1])))

    @staticmethod
    def _broadcast(chunk: Tensor, z: Tensor) -> Tensor:
        return chunk.T[None].expand(len(z), -1, -1)


@dataclass(frozen=True)
class Gap:
    """How far a posterior is from the exact one at one time; means over sites, or of whole grids, each ``[B]``."""

    divergence: Tensor
    """KL(exact ‖ model), nats per site."""
    total_variation: Tensor
    """½ Σ_k |π_k − p_k| per site, 0 to 1."""
    velocity_error: Tensor
    """|v_θ − v| of the whole grid, standardised latents per unit of time."""

    @classmethod
    def of(cls, exact: Tensor, model: Tensor, codebook: Tensor, t: float) -> Gap:
        """Between log-probabilities ``[B, h, w, K]`` at time t."""
        divergence, variation = site_divergences(exact, model)
        difference = posterior_mean(model.double(), codebook) - posterior_mean(exact.double(), codebook)
        return cls(
            divergence=divergence.flatten(1).mean(1),
            total_variation=variation.flatten(1).mean(1),
            velocity_error=difference.flatten(1).norm(dim=1) / (1 - t),
        )


def site_divergences(exact: Tensor, model: Tensor) -> tuple[Tensor, Tensor]:
    """KL(exact ‖ model), nats, and total variation per site: two log-probabilities ``[…, K]`` → ``[…]`` each."""
    exact, model = exact.double(), model.double()
    p = exact.exp()
    terms = torch.where(p > 0, p * (exact - model), 0.0)
    return terms.sum(-1).clamp_min(0), 0.5 * (p - model.exp()).abs().sum(-1)


def nearest_grid(indices: Tensor, grids: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """Sites at which a grid differs from the nearest data grid: ``[B, h, w]``, ``[n, h, w]`` → ``[B]``.

    0: it is a copy.
    """
    flat, data = indices.flatten(1), grids.flatten(1)
    count = max(1, chunk_bytes // (data.numel() + 1))
    found = [(part[:, None] != data[None]).sum(-1).min(dim=1).values for part in flat.split(count)]
    return torch.cat(found)


@dataclass(frozen=True)
class Memorisation:
    """Are samples nearer to the training grids than images are that were never trained on."""

    samples: Tensor
    """Sites that differ from the nearest training grid, long ``[n]``."""
    held_out: Tensor
    """The same of held-out grids, long ``[m]``."""
    copies: float
    """Share of samples that are a training grid, code for code."""
    held_out_copies: float
    """The same of held-out grids: images that look alike have equal codes without anybody learning by heart."""
    nearer: float
    """Probability that a sample is nearer to the training grids than a held-out grid is, ties counted half: ½ of a
    model that generalises, 1 of one that repeats."""

    @classmethod
    def of(cls, samples: Tensor, held_out: Tensor, train: Tensor) -> Memorisation:
        """Of sampled, held-out and training grids, each long ``[…, h, w]``."""
        near, baseline = nearest_grid(samples, train), nearest_grid(held_out, train)
        below = (near[:, None] < baseline[None]).double() + 0.5 * (near[:, None] == baseline[None]).double()
        return cls(
            samples=near,
            held_out=baseline,
            copies=float((near == 0).double().mean()),
            held_out_copies=float((baseline == 0).double().mean()),
            nearer=float(below.mean()),
        )
