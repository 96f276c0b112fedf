"""Classifier-free guidance (arXiv 2207.12598), within an interval of time (arXiv 2404.07724)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from purrception.flow.limits import check_guidance
from purrception.flow.posterior import Posterior

FeatureFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A backbone: z ``[B, D, h, w]``, t ``[B]``, labels ``[B]`` → features."""
PosteriorFunction = Callable[[Tensor], Posterior]
"""A head: features → posterior."""


@dataclass(frozen=True)
class Guidance:
    """How strongly the class steers, when, and in which space.

    Raises:
        InputError: the scale is not finite, the interval not within [0, 1], or the space unknown.
    """

    scale: float = 1.0
    """Scale w: 1 is the conditional model, 0 the unconditional one; above 1 exaggerates the class."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Times between which the scale holds, both included; outside them the model is conditional."""
    space: Literal["logits", "mean"] = "logits"
    """What is extrapolated. logits: the features, f = f_∅ + w (f_y − f_∅), from which an affine head makes the
    logits guided by w. mean: the data predictions, μ = μ_∅ + w (μ_y − μ_∅), at the cost of a second head pass; μ
    may leave the convex hull of the codebook."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_guidance(self.scale, self.interval, self.space)

    def scale_at(self, t: float) -> float:
        """w at ``t``: the scale within the interval, 1 outside."""
        low, high = self.interval
        return self.scale if low <= t <= high else 1.0

    def passes_at(self, t: float) -> int:
        """Network evaluations of a prediction at ``t``: 1 where w is 0 or 1, else 2."""
        return 1 if self.scale_at(t) in (0, 1) else 2

    def features(self, backbone: FeatureFunction, z: Tensor, t: float, labels: Tensor, null_label: int) -> Tensor:
        """Features of ``z`` ``[B, D, h, w]`` under ``labels`` ``[B]``, guided in the space of logits.

        Two passes run as one batch.
        """
        scale = self.scale_at(t)
        if self.passes_at(t) == 1:
            labels = labels if scale == 1 else torch.full_like(labels, null_label)
            return backbone(z, z.new_full((len(z),), t), labels)
        conditional, unconditional = _both(backbone, z, t, labels, null_label)
        return torch.lerp(unconditional, conditional, scale)

    def posterior(
        self,
        backbone: FeatureFunction,
        head: PosteriorFunction,
        z: Tensor,
        t: float,
        labels: Tensor,
        null_label: int,
    ) -> Posterior:
        """The guided posterior of ``z`` ``[B, D, h, w]`` at ``t`` under ``labels`` ``[B]``.

        Guidance in the mean changes only the mean: entropy, probability and codes are the conditional model's,
        since an extrapolated mean belongs to no distribution.
        """
        if self.space == "logits" or self.passes_at(t) == 1:
            return head(self.features(backbone, z, t, labels, null_label))
        conditional, unconditional = map(head, _both(backbone, z, t, labels, null_label))
        mean = torch.lerp(unconditional.mean, conditional.mean, self.scale)
        return replace(conditional, mean=mean)


def _both(
    backbone: FeatureFunction, z: Tensor, t: float, labels: Tensor, null_label: int
) -> tuple[Tensor, Tensor]:
    """Conditional and unconditional features in float32, from one batch."""
    pair = torch.cat([labels, torch.full_like(labels, null_label)])
    features = backbone(torch.cat([z, z]), z.new_full((2 * len(z),), t), pair).float()
    return features[: len(z)], features[len(z) :]
