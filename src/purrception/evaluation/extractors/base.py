"""The interface of every feature extractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

GROUP = 64
"""Images that go through an extractor together, always: see :func:`extract_in_groups`."""


@dataclass(frozen=True)
class Extracted:
    """What an extractor says of images."""

    features: Tensor
    """``[B, d]``."""
    spatial: Tensor | None = None
    """Features that know where things are, ``[B, s]``, for sFID; none where the extractor has none."""
    logits: Tensor | None = None
    """Of its classes, ``[B, classes]``, for the Inception score; none where it has no classes."""


class Extractor(Protocol):
    """Images → features."""

    @property
    def name(self) -> str:
        """As on the command line."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of everything that the features depend on, hexadecimal."""
        ...

    def __call__(self, images: Tensor) -> Extracted:
        """Images ``[B, C, H, W]`` in [−1, 1] → features."""
        ...


@torch.no_grad()
def extract_in_groups(extractor: Extractor, images: Tensor) -> Extracted:
    """Features of images ``[n, C, H, W]`` in [−1, 1], on the processor.

    Kernels are chosen, and so numbers rounded, by the shape of a batch. Here every group has one shape, the last
    filled up, so that the features of an image are the same to the last bit in any company.
    """
    parts = []
    for group in images.split(GROUP):
        filled = torch.cat([group, group[-1:].expand(GROUP - len(group), -1, -1, -1)])
        parts.append((len(group), extractor(filled)))

    def joined(name: str) -> Tensor | None:
        values = [getattr(part, name) for _, part in parts]
        if values[0] is None:
            return None
        return torch.cat([value[:count].cpu() for value, (count, _) in zip(values, parts, strict=True)])

    features = joined("features")
    assert features is not None
    return Extracted(features, joined("spatial"), joined("logits"))
