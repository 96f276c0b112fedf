"""The evidence: what z_t at a site says of the code there, in closed form, so that no network has to learn it.

The exact posterior factorises per site:

    p(c_i = k | z_t) ∝ p(c_i = k | z_t elsewhere) · N(z_t,i ; t e_k, (1 − t)² I).

Given the second factor, the *evidence*, a network has only the first left to learn (the "output prior" of
Plaid, arXiv 2305.18619).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.utils.devices import full_precision

MIN_NOISE = 1e-2
"""Smallest standard deviation that the evidence assumes; it differs from 1 − t only for t > 0.99.

The evidence grows with t/(1 − t)², so a floor keeps it finite at t = 1. Its value balances two errors. Float32
rounds a term of size |z||e| t/σ² to one part in 10⁷: less than 0.1 nats at σ = 0.01, but several nats at 0.001.
And the floor hides nothing as long as codes are further apart than the noise it assumes: at σ = 0.01 the odds
between standardised codes at distance 0.1 are already e⁵⁰, and 16384 normal points in 4 dimensions are about 0.15
apart.
"""


@dataclass(frozen=True)
class Evidence:
    """ln N(z_i ; t e_k, σ² I) of every site and code up to a constant in k, with σ = max(1 − t, MIN_NOISE).

    It is (t/σ²) z_i·e_k − (t²/2σ²) ‖e_k‖²: linear in the D + 1 numbers (e_k, ‖e_k‖²), and thus D + 1 more columns
    in the matrix product of a head. It has no parameters.
    """

    coefficients: Tensor
    """Weights of (e_k, ‖e_k‖²), float32 ``[B, h, w, D + 1]``."""

    @classmethod
    def of(cls, z: Tensor, t: Tensor) -> Evidence:
        """The evidence in a state.

        Args:
            z: z_t, ``[B, D, h, w]``; taken to float32.
            t: time ``[B]`` in [0, 1].
        """
        time = t.float().view(-1, 1, 1, 1)
        precision = (1 - time).clamp_min(MIN_NOISE).square().reciprocal()
        sites = z.float().permute(0, 2, 3, 1)
        square = (-0.5 * time.square() * precision).expand(*sites.shape[:-1], 1)
        return cls(torch.cat([time * precision * sites, square], dim=-1))

    def logits(self, codebook: Tensor) -> Tensor:
        """Evidence for each code of ``codebook`` ``[K, D]``: float32 ``[B, h, w, K]``, also under autocast.

        At t near 1 it reaches 10⁵ and small differences decide, so matrix products must not be rounded to
        TF32: leave ``torch.set_float32_matmul_precision`` at "highest".
        """
        with full_precision(codebook.device):
            return self.coefficients @ evidence_columns(codebook).T


def evidence_columns(codebook: Tensor) -> Tensor:
    """(e_k, ‖e_k‖²) of a codebook ``[K, D]``: float32 ``[K, D + 1]``."""
    codes = codebook.float()
    return torch.cat([codes, codes.square().sum(dim=1, keepdim=True)], dim=1)
