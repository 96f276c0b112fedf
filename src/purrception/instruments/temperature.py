"""What a temperature does to samples: which classes and which regions of the image it moves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.flow import Generation


@dataclass(frozen=True)
class TemperatureEffect:
    """Samples under one setting beside those under another, from the same noise."""

    changed: Tensor
    """Share of images whose code at a site is another one, float64 ``[h, w]``."""
    changed_by_class: Tensor
    """Share of sites that changed, by class asked for, float64 ``[classes]``."""
    recognised: Tensor
    """Share of images recognised as the class asked for, by class, float64 ``[classes]``."""
    entropy: float
    """Mean of the last posterior's entropy, nats."""

    @classmethod
    def of(
        cls, made: Generation, reference: Generation, labels: Tensor, predicted: Tensor, classes: int
    ) -> TemperatureEffect:
        """Of two generations, labels asked for, long ``[n]``, and classes that a judge sees in the first."""
        differs = (made.indices != reference.indices).double()
        return cls(
            changed=differs.mean(0),
            changed_by_class=mean_by_class(differs.flatten(1).mean(1), labels, classes),
            recognised=mean_by_class((predicted == labels).double(), labels, classes),
            entropy=float("nan") if made.entropy is None else float(made.entropy.mean()),
        )


def mean_by_class(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean of values ``[n]`` within each class, float64 ``[classes]``; nan for a class with none."""
    counts = labels.bincount(minlength=classes).double()
    return labels.bincount(values.double(), minlength=classes) / torch.where(counts > 0, counts, torch.nan)
