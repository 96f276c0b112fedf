"""Operations on the categorical posterior π(k | z_t) over the codebook, one per site, in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.errors import InputError


@dataclass(frozen=True)
class Posterior:
    """What sampling and inspection need of a posterior; nothing here has the size of the codebook."""

    mean: Tensor
    """μ = Σ_k π_k e_k, float32 ``[B, D, h, w]``."""
    entropy: Tensor
    """−Σ_k π_k ln π_k in nats, float32 ``[B, h, w]``."""
    max_probability: Tensor
    """max_k π_k, float32 ``[B, h, w]``."""
    codes: Tensor
    """The most probable code of each site, long ``[B, h, w]``."""


def check_temperature(temperature: float) -> float:
    """Return ``temperature`` when it is positive and finite, else raise :class:`InputError`."""
    if not 0 < temperature < float("inf"):
        raise InputError(f"a temperature is a positive number; given {temperature}")
    return temperature


def posterior_from_logits(logits: Tensor, codebook: Tensor, temperature: float = 1.0) -> Posterior:
    """π = softmax(logits/τ) and its statistics (paper, section 4: temperature moves the barycentre).

    Args:
        logits: ``[B, h, w, K]``, any precision.
        codebook: standardised codes, ``[K, D]``.
        temperature: τ > 0.

    Raises:
        InputError: the temperature is not positive.
    """
    log_probabilities = torch.log_softmax(logits.float() / check_temperature(temperature), dim=-1)
    probabilities = log_probabilities.exp()
    # xlogy-like: a probability of zero adds nothing, whatever its logarithm (−inf is possible).
    surprise = torch.where(probabilities > 0, probabilities * log_probabilities, 0.0)
    top = probabilities.max(dim=-1)
    return Posterior(
        mean=(probabilities @ codebook.float()).permute(0, 3, 1, 2),
        entropy=-surprise.sum(-1),
        max_probability=top.values,
        codes=top.indices,
    )


def nearest_codes(z: Tensor, codebook: Tensor) -> Tensor:
    """Index of the codeword nearest to each site.

    Args:
        z: latents ``[B, D, h, w]``.
        codebook: codes ``[K, D]`` in the same (standardised) space.

    Returns:
        long ``[B, h, w]``; of equally near codes, the first.
    """
    batch, dim, height, width = z.shape
    sites = z.float().permute(0, 2, 3, 1).reshape(-1, dim)
    codes = codebook.float()
    # |z − e|² = |z|² − 2 z·e + |e|²; the first term is the same for every code.
    distances = codes.square().sum(1) - 2 * sites @ codes.T
    return distances.argmin(dim=1).view(batch, height, width)
