"""The classifier of an evaluation, trained on real images; the same for the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from purrception.data import UnreadableImageError, images_to_tensor, spread_rows
from purrception.evaluation.extractors import with_channels
from purrception.evaluation.extractors.classifier import (
    ImageClassifier,
    load_classifier,
    save_classifier,
    train_classifier,
)
from purrception.evaluation.features import NO_CACHE, FeatureCache, hash_images
from purrception.evaluation.image_sets import READ_TOGETHER, ImageSet
from purrception.evaluation.settings import ClassifierConfig
from purrception.utils import distributed
from purrception.utils.errors import InputError


def train_or_load_classifier(
    images: ImageSet,
    classes: int,
    config: ClassifierConfig,
    seed: int = 0,
    cache: FeatureCache = NO_CACHE,
    channels: int | None = None,
) -> ImageClassifier:
    """A classifier of real images, with the names of their classes; one trained before comes from the cache.

    It sees ``channels`` of the images; by default, 1 where all are grey and 3 otherwise. Of several processes the
    first one trains, so that all have the same weights.

    Raises:
        InputError: the images differ in size, or are too small for the network.
    """
    found = list(_readable(images, spread_rows(len(images), config.images)))
    seen = channels or (1 if images.grey else 3)
    arrays = [with_channels(array, seen, "an image to learn from") for array, _ in found]
    labels = [label for _, label in found]
    key = f"{hash_images(arrays)} {labels} {classes} {asdict(config)} {seed} {torch.__version__}"
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def train() -> ImageClassifier:
        return train_classifier(images_to_tensor(arrays), torch.tensor(labels), classes, config, seed)

    if cache.folder is None:
        classifier = train()
    else:
        path = cache.folder / "classifiers" / name
        if distributed.rank() == 0 and not _can_be_loaded(path):
            save_classifier(train(), path)
        distributed.wait()
        classifier = load_classifier(path)
    if len(images.class_names) == classes:  # in the cache the same images may have had other ones
        classifier.class_names = images.class_names
    return classifier


def _can_be_loaded(path: Path) -> bool:
    """A file of the cache that is damaged, altered or of an earlier version counts as none."""
    try:
        load_classifier(path, sealed=True)
    except InputError:
        return False
    return True


def _readable(images: ImageSet, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Images by rising number, neighbours read together."""
    for together in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
        for start in range(0, len(together), READ_TOGETHER):
            part = together[start : start + READ_TOGETHER].tolist()
            for found in images.read(range(part[0], part[-1] + 1)):
                if not isinstance(found, UnreadableImageError):
                    yield found
