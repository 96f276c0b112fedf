"""Classifier-free guidance (arXiv 2207.12598) on the input of the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FeatureFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Guidance:
    """How strongly the class steers.

    Features are extrapolated from unconditional to conditional, f = f_∅ + w (f_y − f_∅). The vocabulary
    head is affine, so its logits of f are the logits guided by w: two backbone passes, one head pass.
    """

    scale: float = 1.0
    """w: 1 is the conditional model, 0 the unconditional one, above 1 exaggerates the class."""

    def features(
        self, backbone: FeatureFunction, z: Tensor, t: Tensor, labels: Tensor, null_label: int
    ) -> Tensor:
        """Guided features of ``z`` ``[B, D, h, w]`` at ``t`` ``[B]`` under ``labels`` ``[B]``.

        Scales of exactly 1 and 0 cost one backbone pass, others two in one batch.
        """
        if self.scale == 1:
            return backbone(z, t, labels)
        nothing = torch.full_like(labels, null_label)
        if self.scale == 0:
            return backbone(z, t, nothing)
        both = backbone(torch.cat([z, z]), torch.cat([t, t]), torch.cat([labels, nothing]))
        conditional, unconditional = both.float().chunk(2)
        return torch.lerp(unconditional, conditional, self.scale)

    @property
    def passes(self) -> int:
        """Network evaluations per prediction: 1 or 2."""
        return 1 if self.scale in (0, 1) else 2
