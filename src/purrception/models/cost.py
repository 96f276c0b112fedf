"""What a network costs: floating-point operations, counted on a real pass."""

from __future__ import annotations

import math

import torch
from torch.utils.flop_counter import FlopCounterMode

from purrception.models.transformer import PurrceptionTransformer

TRAINING_PASSES = 3
"""A training step costs about three forward passes: one forward, two for the gradients."""


@torch.no_grad()
def forward_flops(network: PurrceptionTransformer) -> int:
    """Floating-point operations of one image through backbone and head, two a multiply–add.

    Counts matrix products, convolutions and attention, as the field does: the backbone's on a pass of two
    images, the head's from its sizes.
    """
    device = network.codebook.device
    z = torch.zeros(2, network.input_channels, *network.grid, device=device)
    labels = torch.zeros(2, dtype=torch.long, device=device)
    with FlopCounterMode(display=False) as counter:
        network(z, torch.zeros(2, device=device), labels)
    return int(counter.get_total_flops()) // 2 + network.head.flops(math.prod(network.grid))
