"""Sampling recorded as a CUDA graph: the steps of one batch are recorded once and replayed for the others.

A sampling step launches hundreds of kernels. Where these are small, the GPU waits for the CPU to launch them. All
steps of a batch depend only on its noise and labels, so they can be recorded as one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from purrception.flow import Draws, Generation

Generate = Callable[[Tensor, Draws], Generation]
"""(labels, long ``[B]``; random numbers of the images) → their codes, for one batch."""
WARM_UPS = 2
"""Number of runs before the recording, in which libraries choose their kernels."""


class StaticDraws:
    """The random numbers of a batch, in tensors whose addresses stay the same, as replaying a graph requires.

    A tensor is made at the first request for it, from ``draws``.
    """

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self._tensors: dict[tuple[str, int], Tensor] = {}

    def normal(self, step: int) -> Tensor:
        """Standard normal, float32 ``[B, D, h, w]``."""
        return self._tensor("normal", step)

    def uniform(self, step: int) -> Tensor:
        """Uniform in [0, 1), float32 ``[B, h, w]``."""
        return self._tensor("uniform", step)

    def _tensor(self, kind: str, step: int) -> Tensor:
        if (kind, step) not in self._tensors:
            self._tensors[kind, step] = getattr(self._draws, kind)(step).clone()
        return self._tensors[kind, step]

    def copy_from(self, draws: Draws) -> None:
        """Replace the numbers by those of another batch."""
        for (kind, step), tensor in self._tensors.items():
            tensor.copy_(getattr(draws, kind)(step))


class Recording:
    """``generate``, recorded for one batch and replayed for others of the same size.

    On a CPU nothing can be recorded, so ``generate`` is called again, on the same tensors.

    Args:
        generate: must do the same work for every batch, and never copy a value to the CPU in between.
        labels: labels of a batch, long ``[B]``, on the device.
        draws: random numbers of that batch.
    """

    def __init__(self, generate: Generate, labels: Tensor, draws: Draws) -> None:
        self._generate, self._labels, self._draws = generate, labels.clone(), StaticDraws(draws)
        self._graph: torch.cuda.CUDAGraph | None = None
        if labels.device.type != "cuda":
            self._output = generate(self._labels, self._draws)
            return
        side = torch.cuda.Stream(labels.device)
        side.wait_stream(torch.cuda.current_stream(labels.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                generate(self._labels, self._draws)
        torch.cuda.current_stream(labels.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = generate(self._labels, self._draws)

    def __call__(self, labels: Tensor, draws: Draws) -> Generation:
        """The codes that ``generate`` returns for another batch."""
        self._labels.copy_(labels)
        self._draws.copy_from(draws)
        if self._graph is None:
            return self._generate(self._labels, self._draws)
        self._graph.replay()
        recorded = vars(self._output)
        kept: dict[str, Any] = {
            name: value.clone() for name, value in recorded.items() if isinstance(value, Tensor)
        }
        return replace(self._output, **kept)
