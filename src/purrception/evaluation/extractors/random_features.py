"""Features of images that need no training and no download: responses of fixed random filters."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.evaluation.extractors.base import Extracted
from purrception.utils.keyed_rng import Stream, keyed_rng

FILTERS, SIDE = 16, 5
"""Filters per scale, and their side in pixels."""
SCALES = 3
"""The image, and it halved once and twice, as far as 8 pixels remain."""
FAINT = 0.01
"""Added to a response before its logarithm, so that half a grey level of 255 does not differ from none."""


def random_features(images: Tensor) -> Tensor:
    """Images ``[B, C, H, W]`` in [−1, 1] → features ``[B, d]``, float64.

    Where there are no classes there is no classifier to take features from, and one trained to tell two
    photographs apart saturates. Instead, 16 random 5×5 filters of mean 0 and norm 1 are applied at each of up to
    three scales, and the logarithm of each one's mean absolute response is taken, together with each channel's
    mean and deviation. Filters of mean 0 respond to edges and texture, so that blur, noise and lost detail move
    these features, in flat images as in busy ones thanks to the logarithm; the channel statistics move with
    brightness, contrast and colour. That is what a tokenizer gets wrong. They know nothing of objects, and their
    distances compare with each other alone. The filters are the same on every machine.
    """
    x = images.double()
    found = [x.mean(dim=(2, 3)), x.std(dim=(2, 3))]
    for scale in range(SCALES):
        if min(x.shape[-2:]) < 8:
            break
        filters = _filters(scale, x.shape[1]).to(x.device)
        found.append(torch.log(F.conv2d(x, filters).abs().mean(dim=(2, 3)) + FAINT))
        x = F.avg_pool2d(x, 2)
    return torch.cat(found, dim=1)


class TextureExtractor:
    """:func:`random_features` behind the interface of extractors, of images of 1 or 3 channels."""

    name, any_size = "texture", False
    fingerprint = hashlib.sha256(f"{FILTERS} {SIDE} {SCALES} {FAINT}".encode()).hexdigest()

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __call__(self, images: Tensor) -> Extracted:
        """Images ``[B, C, H, W]`` in [−1, 1] → features."""
        return Extracted(random_features(images))


def is_of_grey(dimension: int) -> bool:
    """Whether texture features of that dimension are of images of one channel."""
    return dimension % FILTERS == 2  # mean and deviation of each channel, and whole sets of filters


def _filters(scale: int, channels: int) -> Tensor:
    """Float64 ``[FILTERS, channels, SIDE, SIDE]``, each of mean 0 in every channel and of norm 1."""
    drawn = keyed_rng(0, Stream.CLASSIFIER, scale, part=1).standard_normal((FILTERS, channels, SIDE, SIDE))
    filters = torch.from_numpy(drawn)
    filters -= filters.mean(dim=(2, 3), keepdim=True)
    return filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
