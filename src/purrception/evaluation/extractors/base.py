"""The interface of every feature extractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from purrception.utils.errors import InputError

GROUP = 64
"""Images that go through an extractor together, always: see :func:`extract_in_groups`."""


@dataclass(frozen=True)
class Extracted:
    """Features of a batch of images."""

    features: Tensor
    """``[B, d]``."""
    spatial: Tensor | None = None
    """Features that keep positions in the image, ``[B, s]``, for sFID; none where the extractor has none."""
    logits: Tensor | None = None
    """Logits of its classes, ``[B, classes]``, for the Inception score; none where it has no classes."""


class Extractor(Protocol):
    """Images → features."""

    name: str
    """Its name on the command line."""
    fingerprint: str
    """A hash of everything that the features depend on, hexadecimal."""
    channels: int
    """Channels of the images that it takes, 1 or 3; see :func:`with_channels`."""
    any_size: bool
    """Whether it resizes images, so that sets of different sizes compare."""

    def __call__(self, images: Tensor) -> Extracted:
        """Images ``[B, C, H, W]`` in [−1, 1] → features."""
        ...


def with_channels(image: np.ndarray, channels: int, name: str) -> np.ndarray:
    """An image, uint8 ``[H, W, 1 or 3]``, with 1 channel or 3; ``name`` is for errors.

    Raises:
        InputError: it has colours, and one channel would lose them.
    """
    if channels == 1 and image.shape[-1] == 3 and not is_grey(image):
        raise InputError(
            f"{name} has colours, and the features it is compared in are of grey images alone: compare grey "
            "images, or take another --reference, --classifier or --features"
        )
    return np.repeat(image, 3, axis=-1) if channels > image.shape[-1] else image[..., :channels]


def is_grey(image: np.ndarray) -> bool:
    """Whether an image ``[H, W, C]`` has no colour."""
    return bool((image == image[..., :1]).all())


@torch.no_grad()
def extract_in_groups(extractor: Extractor, images: Tensor) -> Extracted:
    """Features of images ``[n, C, H, W]`` in [−1, 1], on the processor.

    The shape of a batch determines the kernels and hence the rounding. Here every group has one shape, the last
    one padded, so that no bit of an image's features depends on the other images.
    """
    parts = []
    for group in images.split(GROUP):
        padded = torch.cat([group, group[-1:].expand(GROUP - len(group), -1, -1, -1)])
        found = vars(extractor(padded))
        parts.append({name: rows[: len(group)].cpu() for name, rows in found.items() if rows is not None})
    return Extracted(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})
