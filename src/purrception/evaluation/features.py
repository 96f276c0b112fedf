"""What images are compared in: feature extractors by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from purrception.errors import unknown_name
from purrception.evaluation.classifier import ImageClassifier, extract_features
from purrception.evaluation.random_features import random_features

Extractor = Callable[[Tensor], Tensor]
"""Images ``[n, C, H, W]`` in [−1, 1] → features ``[n, d]``."""


def _texture(images: Tensor, batch_size: int = 256) -> Tensor:
    return torch.cat([random_features(batch) for batch in images.split(batch_size)])


FEATURES: dict[str, Callable[[ImageClassifier], Extractor]] = {
    "classifier": lambda classifier: partial(extract_features, classifier),
    "texture": lambda classifier: _texture,
}
"""Each takes the classifier that learned the real training images."""


def build_features(name: str, classifier: ImageClassifier) -> Extractor:
    """The extractor of that name.

    Raises:
        InputError: there is none; the nearest known name is suggested.
    """
    check_features(name)
    return FEATURES[name](classifier)


def check_features(name: str) -> None:
    """Refuse an unknown name, before anything is trained.

    Raises:
        InputError: there is no such extractor.
    """
    if name not in FEATURES:
        raise unknown_name("feature extractor", name, FEATURES)
