"""The exponential moving average of the weights, which is what samples are drawn from."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


class EMA(Generic[N]):
    """Keeps ``average``, a copy of a network whose parameters follow it.

    Args:
        network: what is followed; buffers are copied once and stay.
        decay: d in θ̄ ← d θ̄ + (1 − d) θ, reached from below as (1 + n)/(10 + n) after n updates.
    """

    def __init__(self, network: N, decay: float) -> None:
        self.decay = decay
        self.average: N = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: N, updates: int) -> None:
        """Move towards ``network``; ``updates`` counts the updates done before."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        current = [parameter.detach() for parameter in network.parameters()]
        torch._foreach_lerp_(list(self.average.parameters()), current, 1 - decay)
