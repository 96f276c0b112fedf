"""Tensors on their way between a processor and a GPU, without either waiting for the other."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the processor on ``device``.

    From ordinary memory a copy to a GPU waits until all that was asked of it before is done; from pinned memory it
    takes its turn and the processor goes on.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
