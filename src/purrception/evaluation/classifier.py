"""A small image classifier, trained on the real training images: no download, and the same every time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from purrception.errors import InputError
from purrception.keyed_rng import Stream, keyed_rng
from purrception.progress import ProgressBar


@dataclass(frozen=True)
class ClassifierConfig:
    """How the classifier is trained."""

    steps: int = 400
    """Optimiser steps."""
    batch_size: int = 64
    """Images per step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; falls to zero (cosine)."""
    feature_dim: int = 64
    """Dimension of the features that distances are measured in."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if min(self.steps, self.batch_size, self.feature_dim) < 1:
            raise InputError(
                "the classifier's steps, batch_size and feature_dim are at least 1; given "
                f"{self.steps}, {self.batch_size} and {self.feature_dim}"
            )


class ImageClassifier(nn.Module):
    """Three convolutions, a feature layer and class logits.

    Args:
        channels: of the images.
        image_size: side of the images, at least 8 pixels.
        classes: number of classes.
        feature_dim: dimension of the features.
    """

    def __init__(self, channels: int, image_size: int, classes: int, feature_dim: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 64)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        side = image_size // 8
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * side * side, feature_dim), nn.ReLU())
        self.output = nn.Linear(feature_dim, classes)

    def features(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` in [−1, 1] → features ``[B, d]``."""
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` in [−1, 1] → class logits ``[B, classes]``."""
        return self.output(self.features(images))


def train_classifier(
    images: Tensor, labels: Tensor, classes: int, config: ClassifierConfig, seed: int = 0
) -> ImageClassifier:
    """Train on images ``[n, C, H, W]`` in [−1, 1] with labels, long ``[n]``.

    Images are shifted by up to one pixel and lightly noised, so that features do not hang on exact pixels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ImageClassifier(images.shape[1], images.shape[-1], classes, config.feature_dim)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    with ProgressBar("classifier", config.steps) as bar:
        for step in range(1, config.steps + 1):
            rng = keyed_rng(seed, Stream.CLASSIFIER, step)
            rows = torch.from_numpy(rng.integers(len(images), size=config.batch_size))
            batch = images[rows].roll(tuple(int(shift) for shift in rng.integers(-1, 2, size=2)), (2, 3))
            noise = torch.from_numpy(rng.standard_normal(batch.shape, dtype="float32"))
            loss = F.cross_entropy(model(batch + 0.05 * noise), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update(step, f"loss {loss.item():.3f}")
    return model.eval().requires_grad_(False)


def extract_features(model: ImageClassifier, images: Tensor, batch_size: int = 256) -> Tensor:
    """Features ``[n, d]`` of images ``[n, C, H, W]``."""
    return torch.cat([model.features(batch) for batch in images.split(batch_size)])


def accuracy(model: ImageClassifier, images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """Share of images whose most probable class is their label."""
    predicted = torch.cat([model(batch).argmax(dim=1) for batch in images.split(batch_size)])
    return float((predicted == labels).float().mean())
