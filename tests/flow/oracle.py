"""The exact posterior of a tiny data set, written for clarity: the truth that solvers are tested with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def exact_posterior(z: Tensor, t: float, grids: Tensor, codebook: Tensor) -> Tensor:
    """p(c_i = k | z_t) per site: weights of the data grids given z_t, then the marginal of each site.

    z ``[B, D, h, w]``, grids ``[n, h, w]``, codebook ``[K, D]`` → probabilities ``[B, h, w, K]``.
    """
    embedded = codebook[grids].permute(0, 3, 1, 2)
    squared = (z[:, None] - t * embedded[None]).double().square().flatten(2).sum(-1)
    weights = (-squared / (2 * max(1 - t, 1e-12) ** 2)).softmax(dim=1)
    one_hot = F.one_hot(grids, len(codebook)).double()
    return torch.einsum("bn,nhwk->bhwk", weights, one_hot)


def exact_posterior_mean(z: Tensor, t: float, grids: Tensor, codebook: Tensor) -> Tensor:
    """μ_t under :func:`exact_posterior`, ``[B, D, h, w]``."""
    posterior = exact_posterior(z, t, grids, codebook)
    return torch.einsum("bhwk,kd->bdhw", posterior, codebook.double()).to(z.dtype)
