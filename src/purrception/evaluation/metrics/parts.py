"""Recognition by parts of the classes' names: of classes "food · google", the category and the style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.data.config import SEPARATOR
from purrception.evaluation.metrics.intervals import share_interval


@dataclass(frozen=True)
class PartRecognised:
    """How often one part of the class is recognised."""

    values: tuple[str, ...]
    """What the part may be, in the order of the classes."""
    recognised: float
    """Share of the images whose most probable value, over all classes that have it, is that of their class."""
    recognised_low: float
    """Lower end of its interval of 95 %."""
    recognised_high: float
    """Upper end of that interval."""


def recognised_parts(logits: Tensor, labels: Tensor, names: Sequence[str]) -> tuple[PartRecognised, ...]:
    """Recognition of each part of the classes' names.

    Args:
        logits: of a classifier, ``[n, classes]``.
        labels: of the images, long ``[n]``.
        names: names of the classes, by column of the logits.

    Returns:
        One for each part; none unless all names have equally many parts, at least two.
    """
    parts = [tuple(name.split(SEPARATOR)) for name in names]
    if len({len(one) for one in parts}) != 1 or len(parts[0]) < 2:
        return ()
    found = []
    for each in zip(*parts, strict=True):
        values = tuple(dict.fromkeys(each))
        value_of = torch.tensor([values.index(value) for value in each])
        shares = torch.zeros(len(logits), len(values)).index_add(1, value_of, logits.float().softmax(dim=1))
        share = float((shares.argmax(dim=1) == value_of[labels]).double().mean())
        found.append(PartRecognised(values, share, *share_interval(share, len(labels))))
    return tuple(found)
