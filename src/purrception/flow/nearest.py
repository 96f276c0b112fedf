"""The codeword nearest to a latent: how a tokenizer encodes, and how the paper's sampling ends."""

from __future__ import annotations

import torch
from torch import Tensor

from purrception.utils.devices import full_precision

CHUNK_BYTES = 64 * 2**20
"""Memory of the distances held at a time: those of a batch of 256-pixel images would take gigabytes."""


def nearest_codes(z: Tensor, codebook: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """Index of the codeword nearest to each site, in float32.

    Args:
        z: latents ``[B, D, h, w]``.
        codebook: codes ``[K, D]`` in the same space.
        chunk_bytes: memory for distances.

    Returns:
        long ``[B, h, w]``; of equally near codes, the first.
    """
    batch, dim, height, width = z.shape
    sites = z.float().permute(0, 2, 3, 1).reshape(-1, dim)
    codes = codebook.float()
    squares = codes.square().sum(1)
    count = max(1, chunk_bytes // (4 * len(codes)))
    # |z − e|² = |z|² − 2 z·e + |e|²; the first term is the same for every code.
    with full_precision(z.device):  # in bfloat16 neighbouring codes would be confused
        found = [torch.addmm(squares, part, codes.T, alpha=-2).argmin(dim=1) for part in sites.split(count)]
    return torch.cat(found).view(batch, height, width)
