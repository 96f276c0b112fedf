"""Batches that do the same work again: recorded once, then replayed without the processor's part in it.

A sampling step launches hundreds of kernels, and where they are small a GPU waits for the next to be launched. All
steps of a batch hang on nothing but its noise and labels, so that they can be recorded as one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from purrception.flow import Draws, Generation

Generate = Callable[[Tensor, Draws], Generation]
"""(labels, long ``[B]``; random numbers of the images) → their codes."""
WARM_UPS = 2
"""Runs before the recording, in which libraries choose their kernels."""


class KeptDraws:
    """Random numbers of a batch in tensors that stay where they are; the first batch shows which are asked for."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self._kept: dict[tuple[str, int], Tensor] = {}

    def normal(self, step: int) -> Tensor:
        """Standard normal, float32 ``[B, D, h, w]``."""
        return self._keep("normal", step)

    def uniform(self, step: int) -> Tensor:
        """Uniform in [0, 1), float32 ``[B, h, w]``."""
        return self._keep("uniform", step)

    def _keep(self, kind: str, step: int) -> Tensor:
        if (kind, step) not in self._kept:
            self._kept[kind, step] = getattr(self._draws, kind)(step).clone()
        return self._kept[kind, step]

    def take(self, draws: Draws) -> None:
        """Put those of another batch in their place."""
        for (kind, step), tensor in self._kept.items():
            tensor.copy_(getattr(draws, kind)(step))


class Recording:
    """What ``generate`` did for one batch, to be done again for others of its size.

    On a processor, where nothing can be recorded, it is simply called again on the same tensors.

    Args:
        generate: without a look at any number on the way, and the same for every batch.
        labels: of a batch, long ``[B]``, on the device.
        draws: of that batch.
    """

    def __init__(self, generate: Generate, labels: Tensor, draws: Draws) -> None:
        self._generate, self._labels, self._draws = generate, labels.clone(), KeptDraws(draws)
        self._graph: torch.cuda.CUDAGraph | None = None
        if labels.device.type != "cuda":
            self._out = generate(self._labels, self._draws)
            return
        side = torch.cuda.Stream(labels.device)
        side.wait_stream(torch.cuda.current_stream(labels.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                generate(self._labels, self._draws)
        torch.cuda.current_stream(labels.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = generate(self._labels, self._draws)

    def __call__(self, labels: Tensor, draws: Draws) -> Generation:
        """The codes of another batch, as ``generate`` would make them."""
        self._labels.copy_(labels)
        self._draws.take(draws)
        if self._graph is None:
            return self._generate(self._labels, self._draws)
        self._graph.replay()
        entropy = self._out.entropy
        return replace(
            self._out, indices=self._out.indices.clone(), entropy=None if entropy is None else entropy.clone()
        )
