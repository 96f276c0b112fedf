"""The exact posterior of a small data set, as the ground truth for a network.

It minimises the training loss: a network that reached it would generate exactly the training grids. The distance
to it tells how far a model has memorised its data and, on a tiny data set, how well it has learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.flow import Objective
from purrception.flow.posterior import posterior_from_logits
from purrception.instruments.posteriors import (
    LogPosterior,
    images_at_once,
    network_mean,
    network_posterior,
    posterior_mean,
)
from purrception.models import CategoricalHead, PurrceptionTransformer

CHUNK_BYTES = 64 * 2**20
"""Memory for a comparison of grids with each other."""


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
    """Classes of the grids, long ``[n]``. A label then restricts the posterior to the grids of its class; a label
    that no grid has, such as the null class, stands for all of them."""

    def log_weights(self, z: Tensor, t: float, labels: Tensor | None = None) -> Tensor:
        """ln w of every grid given states ``[B, D, h, w]`` at t < 1, float64 ``[B, n]``, normalised.

        The evidence for each code at each site is computed once, and that for a grid is the sum over its sites.

        Raises:
            ValueError: t is not in [0, 1).
        """
        if not 0 <= t < 1:
            raise ValueError(f"the exact posterior exists for 0 ≤ t < 1; given t = {t}")
        codes = self.codebook.double()
        precision = 1 / (1 - t) ** 2
        sites = z.double().flatten(2).permute(2, 1, 0)  # [sites, D, B]
        evidence = precision * (t * codes @ sites - 0.5 * t * t * codes.square().sum(1, keepdim=True))
        of_sites = zip(evidence, self.grids.flatten(1).T, strict=True)
        sums = sum(of_codes.index_select(0, chosen) for of_codes, chosen in of_sites).T  # [B, n]
        if labels is not None and self.grid_labels is not None:
            own = self.grid_labels[None] == labels[:, None]
            sums = sums.masked_fill(~(own | ~own.any(dim=1, keepdim=True)), -torch.inf)
        return sums.log_softmax(dim=1)

    def probabilities(self, z: Tensor, t: float, labels: Tensor | None = None) -> Tensor:
        """p(c_i = k | z_t) of every site, float64 ``[B, h, w, K]``."""
        weights = self.log_weights(z, t, labels).exp().T.contiguous()
        height, width = self.grids.shape[1:]
        none = weights.new_zeros(len(self.codebook), len(z))
        sites = [none.index_add(0, codes, weights) for codes in self.grids.flatten(1).T]
        return torch.stack(sites).permute(2, 0, 1).reshape(len(z), height, width, -1)

    def posterior(self, labels: Tensor | None = None) -> LogPosterior:
        """The exact posterior as a posterior function, for labels ``[B]`` or all data; ln 0 = −∞."""
        return lambda z, t: self.probabilities(z, t, labels).log()


@dataclass(frozen=True)
class Gap:
    """The difference of a posterior from the exact one at one time, image by image, each ``[B]``."""

    divergence: Tensor
    """KL(exact ‖ model), nats per site."""
    total_variation: Tensor
    """½ Σ_k |π_k − p_k|, mean over sites, 0 to 1."""
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


@dataclass(frozen=True)
class MeanGap:
    """The difference of a model from the exact posterior at one time, averaged over images."""

    t: float
    exact_entropy: float
    """Entropy of the exact posterior, nats per site."""
    divergence: float | None
    """KL(exact ‖ model), nats per site; ``None`` for a model without a posterior."""
    total_variation: float | None
    """Per site; ``None`` for a model without a posterior."""
    velocity_error: float
    """Root mean square of |v_θ − v| of a whole grid."""
    velocity: float
    """Root mean square of |v|, for comparison."""

    @classmethod
    def of(
        cls,
        oracle: Oracle,
        network: PurrceptionTransformer,
        objective: Objective,
        indices: Tensor,
        labels: Tensor,
        noise: Tensor,
        t: float,
    ) -> MeanGap:
        """Measured at the states z_t of codes ``[n, h, w]``, labels ``[n]`` and noise ``[n, D, h, w]``."""
        entropies, velocities, errors, gaps = [], [], [], []
        for rows in torch.arange(len(indices), device=indices.device).split(images_at_once(network)):
            z = objective.state_at(network, indices[rows], noise[rows], t).z
            exact = oracle.posterior(labels[rows])(z, t)
            truth = posterior_from_logits(exact, network.codebook)
            mean = truth.mean.double()
            entropies.append(truth.entropy.double())
            velocities.append(((mean - z) / (1 - t)).flatten(1).norm(dim=1))
            if isinstance(network.head, CategoricalHead):
                gaps.append(Gap.of(exact, network_posterior(network, labels[rows])(z, t), network.codebook, t))
                errors.append(gaps[-1].velocity_error)
            else:
                predicted = network_mean(network, objective, labels[rows])(z, t)
                errors.append((predicted.double() - mean).flatten(1).norm(dim=1) / (1 - t))
        return cls(
            t,
            exact_entropy=float(torch.cat(entropies).mean()),
            divergence=float(torch.cat([gap.divergence for gap in gaps]).mean()) if gaps else None,
            total_variation=float(torch.cat([gap.total_variation for gap in gaps]).mean()) if gaps else None,
            velocity_error=float(torch.cat(errors).square().mean().sqrt()),
            velocity=float(torch.cat(velocities).square().mean().sqrt()),
        )


def site_divergences(exact: Tensor, model: Tensor) -> tuple[Tensor, Tensor]:
    """KL(exact ‖ model), nats, and total variation per site: two log-probabilities ``[…, K]`` → ``[…]`` each."""
    exact, model = exact.double(), model.double()
    p = exact.exp()
    terms = torch.where(p > 0, p * (exact - model), 0.0)
    return terms.sum(-1).clamp_min(0), 0.5 * (p - model.exp()).abs().sum(-1)


def nearest_grid(indices: Tensor, grids: Tensor) -> Tensor:
    """Number of sites at which each grid differs from the nearest data grid: ``[B, h, w]``, ``[n, h, w]`` →
    ``[B]``.

    0 for an exact copy.
    """
    flat, data = indices.flatten(1), grids.flatten(1)
    count = max(1, CHUNK_BYTES // (data.numel() + 1))
    found = [(part[:, None] != data[None]).sum(-1).min(dim=1).values for part in flat.split(count)]
    return torch.cat(found)


@dataclass(frozen=True)
class Memorisation:
    """Whether samples are closer to the training grids than held-out images are."""

    samples: Tensor
    """Sites of each sample that differ from the nearest training grid, long ``[n]``."""
    held_out: Tensor
    """The same for held-out grids, long ``[m]``."""
    copies: float
    """Share of samples that are exact copies of a training grid."""
    held_out_copies: float
    """The same for held-out grids, since similar images can have equal codes without memorisation."""
    nearer: float
    """Probability that a sample is closer to the training grids than a held-out grid is, ties counted half: ½ if
    the model generalises, 1 if it memorises."""

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
