"""The classifier of an evaluation: learned from real images, or loaded; the same for the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from purrception.data import DataConfig, Split, UnreadableImageError, images_to_tensor, open_images, spread_rows
from purrception.evaluation.extractors import shared_channels, with_channels
from purrception.evaluation.extractors.classifier import (
    ClassifierConfig,
    ImageClassifier,
    load_classifier,
    save_classifier,
    train_classifier,
)
from purrception.evaluation.features import NO_CACHE, FeatureCache, hash_images
from purrception.evaluation.image_sets import READ_TOGETHER, ImageSet, SourceImages
from purrception.utils import distributed
from purrception.utils.errors import InputError

LEARNED_AT_MOST = 20_000
"""Images that a classifier learns from, drawn from a larger set by a key."""


def split_images(data: DataConfig, split: Split, count: int | None = None) -> SourceImages:
    """The real images of a split; ``count`` of them, drawn by a key, where it is given.

    Raises:
        InputError: there are fewer than two.
    """
    source = open_images(data, split)
    if len(source) < 2:
        raise InputError(f"the {split} split holds {len(source)} images; at least 2 are needed")
    rows = None if count is None else spread_rows(len(source), count)
    return SourceImages(source, rows, f"image of the {split} split", grey=data.channels == 1)


def require_classes(classes: int) -> None:
    """Refuse to judge by a classifier where there are no classes.

    Raises:
        InputError: there are fewer than two.
    """
    if classes < 2:
        raise InputError(
            f"images are judged by a classifier, which needs at least 2 classes; given {classes}: put each "
            "class into a folder of its own"
        )


def learn_classifier(
    images: ImageSet,
    classes: int,
    config: ClassifierConfig,
    seed: int = 0,
    cache: FeatureCache = NO_CACHE,
    channels: int | None = None,
) -> ImageClassifier:
    """A classifier of real images, with their classes' names; what was learned before comes from the cache.

    It sees ``channels`` of the images; by default, 1 where all are grey and 3 otherwise.

    Of several processes the first one learns, so that all see through the same weights.

    Raises:
        InputError: the images differ in size, or are too small for the network.
    """
    found = list(_readable(images, spread_rows(len(images), LEARNED_AT_MOST)))
    seen = channels or shared_channels(images)
    arrays = [with_channels(array, seen, "an image to learn from") for array, _ in found]
    labels = [label for _, label in found]
    key = f"{hash_images(arrays)} {labels} {classes} {asdict(config)} {seed} {torch.__version__}"
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    path = None if cache.folder is None else cache.folder / "classifiers" / name

    def learn() -> ImageClassifier:
        return train_classifier(images_to_tensor(arrays), torch.tensor(labels), classes, config, seed)

    if path is None:
        made = learn()
    else:
        if distributed.rank() == 0 and not _can_be_loaded(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_classifier(learn(), path)
        distributed.wait()
        made = load_classifier(path)
    if len(images.class_names) == classes:  # in the cache the same images may have had other ones
        made.class_names = images.class_names
    return made


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


def label_shares(labels: np.ndarray, classes: int) -> np.ndarray:
    """How often each class occurs, float64 ``[classes]``, of sum 1."""
    counts = np.bincount(labels, minlength=classes)
    return counts / counts.sum()
