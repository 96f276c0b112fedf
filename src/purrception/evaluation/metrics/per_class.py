"""The same metrics class by class, the worst class first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from purrception.data.classes import match_classes
from purrception.evaluation.evaluator import Measured
from purrception.evaluation.features import ImageFeatures
from purrception.evaluation.metrics.measure import Metrics, measure, with_all_names

FEWEST = 4
"""A class needs this many images on both sides to be measured."""


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of the images of one class."""

    label: int
    name: str
    real_label: int
    """Label of the same class in the reference."""
    metrics: Metrics
    real_count: int
    """Images of the class in the reference."""
    mistaken_for: str
    """The class that the classifier most often takes its images for instead; empty where it never errs, or there
    is no classifier."""

    def plain(self) -> dict[str, Any]:
        """Its entry in ``report.json``."""
        return {
            "label": self.label,
            "name": self.name,
            "real_label": self.real_label,
            "figures": with_all_names(self.metrics),
            "real_count": self.real_count,
            "mistaken_for": self.mistaken_for,
        }


def measure_classes(measured: Measured, real: ImageFeatures, real_names: tuple[str, ...]) -> list[ClassMetrics]:
    """Each class's generated images against its real ones, the worst first.

    Classes are ordered by KID, which does not depend on the number of images. A class's covariance rests on few
    images, so its Fréchet distance compares only with those of classes of as many. Classes of fewer than
    :data:`FEWEST` images are left out.

    Args:
        measured: generated images with labels and features.
        real: the reference, with labels and features.
        real_names: names of the reference's classes, by label.

    Returns:
        Nothing where the reference has fewer than two classes, or other classes than the images.
    """
    generated = measured.features
    names = measured.images.class_names
    matching = match_classes(names, real_names) if len(real_names) > 1 else None
    if generated.labels is None or real.labels is None or generated.features is None or real.features is None:
        return []
    found = []
    for label, real_label in enumerate(matching or ()):
        own, theirs = (generated.labels == label).nonzero()[:, 0], (real.labels == real_label).nonzero()[:, 0]
        if min(len(own), len(theirs)) < FEWEST:
            continue
        logits = None if measured.class_logits is None else measured.class_logits[own]
        metrics = measure(generated.subset(own), real.subset(theirs), class_logits=logits)
        mistaken = "" if logits is None else _mistaken_for(logits, label, measured.logit_names)
        found.append(ClassMetrics(label, names[label], real_label, metrics, len(theirs), mistaken))
    return sorted(found, key=lambda one: -one.metrics["kid"])


def _mistaken_for(logits: Tensor, label: int, names: tuple[str, ...]) -> str:
    predicted = logits.argmax(dim=1)
    wrong = predicted[predicted != label]
    return names[int(torch.bincount(wrong).argmax())] if len(wrong) else ""
