"""The same figures class by class, the worst first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from purrception.data.classes import match_classes
from purrception.evaluation.features import ImageFeatures
from purrception.evaluation.metrics.all import flat, measure_set
from purrception.evaluation.yardstick import Measured

FEWEST = 4
"""Images of a class, on both sides, below which it has no figures of its own."""


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class."""

    label: int
    name: str
    real_label: int
    """Of the same class in the reference."""
    figures: dict[str, Any]
    """As :func:`flat` gives them."""
    real_count: int
    mistaken_for: str
    """What the classifier most often takes its images for instead; empty where it never errs, or there is none."""

    @property
    def badness(self) -> float:
        """What classes are ranked by: KID, which does not depend on how many images a class has."""
        return float(self.figures["kid"])


def class_by_class(measured: Measured, real: ImageFeatures, real_names: tuple[str, ...]) -> list[ClassFigures]:
    """Each class's generated images against its real ones, the worst first.

    Covariances of a class rest on few images, so that its Fréchet distance compares with those of classes of as
    many images at most; the order is that of KID. Classes of fewer than :data:`FEWEST` images are left out.

    Args:
        measured: generated images with labels and features.
        real: the reference, with labels and features.
        real_names: of the reference's classes, by label.

    Returns:
        Nothing where the reference has fewer than two classes, or others than the images.
    """
    made = measured.features
    matching = match_classes(measured.class_names, real_names) if len(real_names) > 1 else None
    if made.labels is None or real.labels is None or made.features is None or real.features is None:
        return []
    found = []
    for label, real_label in enumerate(matching or ()):
        own, theirs = (made.labels == label).nonzero()[:, 0], (real.labels == real_label).nonzero()[:, 0]
        if min(len(own), len(theirs)) < FEWEST:
            continue
        logits = None if measured.class_logits is None else measured.class_logits[own]
        figures = measure_set(made.subset(own), real.subset(theirs), class_logits=logits)
        mistaken = "" if logits is None else _mistaken_for(logits, label, measured.answer_names)
        name = measured.class_names[label]
        found.append(ClassFigures(label, name, real_label, flat(figures), len(theirs), mistaken))
    return sorted(found, key=lambda one: -one.badness)


def _mistaken_for(logits: Tensor, label: int, names: tuple[str, ...]) -> str:
    wrong = logits.argmax(dim=1)
    wrong = wrong[wrong != label]
    return names[int(torch.bincount(wrong).argmax())] if len(wrong) else ""
