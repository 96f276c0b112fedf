"""The cost of a network: floating-point operations, counted on a real pass."""

from __future__ import annotations

import math

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from purrception.models.transformer import PurrceptionTransformer

TRAINING_PASSES = 3
"""A training step costs about three forward passes: one forward, two for the gradients."""


@torch.no_grad()
def forward_flops(network: PurrceptionTransformer) -> int:
    """Floating-point operations of one image through backbone and head, two for a multiply–add.

    Counts matrix products, convolutions and attention, as is usual: those of the backbone on a pass of one image,
    with attention as plain products (the counter does not know the fused kernel of every device), and those of the
    head from its sizes.
    """
    device = network.codebook.device
    z = torch.zeros(1, network.input_channels, *network.grid, device=device)
    label, time = torch.zeros(1, dtype=torch.long, device=device), torch.zeros(1, device=device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(z, time, label)
    return int(counter.get_total_flops()) + network.head.flops(math.prod(network.grid))


def training_flops(network: PurrceptionTransformer, images: int) -> int:
    """Floating-point operations of one optimiser step on ``images`` images.

    What the head computes once for a batch is counted once. The evidence has no gradient and counts as one pass.
    """
    shared = network.head.shared_flops()
    learned = TRAINING_PASSES * (images * (forward_flops(network) - shared) + shared)
    size, dim = network.codebook.shape
    evidence = 2 * math.prod(network.grid) * (dim + 1) * size if network.evidence else 0
    return learned + images * evidence
