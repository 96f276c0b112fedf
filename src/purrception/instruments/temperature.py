"""The effect of a temperature on samples: which classes and which regions of the image change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.flow import Generation


@dataclass(frozen=True)
class TemperatureEffect:
    """Samples with one setting compared with those of another, from the same noise."""

    changed: Tensor
    """Share of images whose code at a site changed, float64 ``[h, w]``."""
    changed_by_class: Tensor
    """Share of sites that changed, by class label, float64 ``[classes]``."""
    recognised: Tensor
    """Share of images classified as their label, by class label, float64 ``[classes]``."""
    entropy: float
    """Mean entropy of the last posterior, nats."""

    @classmethod
    def of(
        cls, made: Generation, reference: Generation, labels: Tensor, predicted: Tensor, classes: int
    ) -> TemperatureEffect:
        """Compare two generations, given their labels and the predicted classes of the first, long ``[n]``."""
        differs = (made.indices != reference.indices).double()
        return cls(
            changed=differs.mean(0),
            changed_by_class=mean_by_class(differs.flatten(1).mean(1), labels, classes),
            recognised=mean_by_class((predicted == labels).double(), labels, classes),
            entropy=float("nan") if made.entropy is None else float(made.entropy.mean()),
        )


def mean_by_class(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean of values ``[n]`` within each class, float64 ``[classes]``; NaN for a class with none."""
    counts = labels.bincount(minlength=classes).double()
    return labels.bincount(values.double(), minlength=classes) / torch.where(counts > 0, counts, torch.nan)
