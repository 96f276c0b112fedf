"""The exponential moving average of the weights, which samples are drawn with.

torch's AveragedModel and diffusers' EMAModel read the number of updates on the host, so that each step would wait
for the device to say whether it was skipped. Ours waits for nothing, and averages shards where they are.
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from purrception.training.distributed import own

N = TypeVar("N", bound=nn.Module)


class EMA(Generic[N]):
    """Keeps ``average``, a copy of a network whose parameters are moving averages of its parameters.

    Args:
        network: the network to average; buffers are copied once.
        decay: d in θ̄ ← d θ̄ + (1 − d) θ, reached from below as (1 + n)/(10 + n) after n updates.
    """

    def __init__(self, network: N, decay: float) -> None:
        self.decay = decay
        self.average: N = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: N, updates: Tensor, good: Tensor) -> None:
        """Move towards ``network`` if the step was good, without reading anything back from the device.

        Args:
            network: the weights after the step.
            updates: number of updates before this one, a scalar on the network's device.
            good: whether the step counts, a bool scalar on the network's device.
        """
        weight = good * (9 / (10 + updates.float())).clamp_min(1 - self.decay)
        average, current = ([own(parameter) for parameter in of.parameters()] for of in (self.average, network))
        torch._foreach_lerp_(average, current, [weight] * len(average))
