"""A small image classifier, trained on the real training images: no download, and the same every time."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn

from purrception.evaluation.extractors.base import Extracted
from purrception.evaluation.sealed import read_sealed, write_sealed
from purrception.evaluation.settings import ClassifierConfig
from purrception.storage import reading
from purrception.storage.finite import require_finite
from purrception.tokenizers import fingerprint
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng
from purrception.utils.progress import ProgressBar

SPATIAL_CHANNELS = 7
"""Channels after the second pooling that sFID looks at; ADM takes seven channels of a middle layer of Inception,
too."""


@dataclass(frozen=True)
class _Sizes:
    """What a file holds of its classifier besides the weights."""

    channels: int
    image_size: int
    classes: int
    feature_dim: int
    class_names: tuple[str, ...] = ()
    blocks: int = 0


class _ResidualBlock(nn.Module):
    """Two normalised convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, width, H, W]`` → the same shape."""
        return x + self.layers(x)


class ImageClassifier(nn.Module):
    """Three convolutions, where asked for with residual blocks after each, a feature layer and class logits.

    Args:
        channels: of the images.
        image_size: side of the images, at least 8 pixels.
        classes: number of classes.
        feature_dim: dimension of the features.
        class_names: names by label; default: the labels themselves.
        blocks: residual blocks after each convolution.
    """

    def __init__(
        self,
        channels: int,
        image_size: int,
        classes: int,
        feature_dim: int,
        class_names: tuple[str, ...] = (),
        blocks: int = 0,
    ) -> None:
        super().__init__()
        self.class_names = class_names or tuple(map(str, range(classes)))
        self.channels, self.image_size = channels, image_size
        self.classes, self.feature_dim, self.blocks = classes, feature_dim, blocks
        widths = (channels, 32, 64, 64)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers.append(nn.Conv2d(narrow, wide, 3, padding=1))
            layers += (
                [nn.MaxPool2d(2), nn.BatchNorm2d(wide), nn.ReLU()] if blocks else [nn.ReLU(), nn.MaxPool2d(2)]
            )
            layers += [_ResidualBlock(wide) for _ in range(blocks)]
        self.spatial_after = 2 * len(layers) // 3
        """Layers of the body up to the second pooling and its blocks."""
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

    Images are shifted by up to one pixel and lightly noised, so that features do not depend on exact pixels; they
    are distorted where ``config`` says so.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = images.shape[1], images.shape[-1], classes, config.feature_dim
        model = ImageClassifier(*sizes, blocks=config.blocks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    with ProgressBar("classifier", config.steps) as bar:
        for step in range(1, config.steps + 1):
            rng = keyed_rng(seed, Stream.CLASSIFIER, step)
            rows = torch.from_numpy(rng.integers(len(images), size=config.batch_size))
            batch = images[rows].roll(tuple(int(shift) for shift in rng.integers(-1, 2, size=2)), (2, 3))
            noise = torch.from_numpy(rng.standard_normal(batch.shape, dtype="float32"))
            batch = _distorted(batch, config.distortion, rng) if config.distortion else batch
            features = model.features(batch + 0.05 * noise)
            if config.dropout:
                kept = rng.random(features.shape, dtype="float32") >= config.dropout
                features = features * torch.from_numpy(kept) / (1 - config.dropout)
            loss = F.cross_entropy(model.output(features), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update(step, f"loss {loss.item():.3f}")
    return model.eval().requires_grad_(False)


def _distorted(images: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """Each image under an affine map of its own, whose entries are within ``amount`` of the identity's."""
    change = torch.from_numpy(rng.uniform(-amount, amount, (len(images), 2, 3)).astype("float32"))
    grid = F.affine_grid(torch.eye(2, 3) + change, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


class ClassifierExtractor:
    """Features of a trained classifier; those for sFID are seven channels after its second pooling."""

    name, any_size = "classifier", False

    def __init__(self, model: ImageClassifier) -> None:
        self.model, self.channels, self.fingerprint = model.eval(), model.channels, fingerprint(model)

    def __call__(self, images: Tensor) -> Extracted:
        """Images ``[B, C, H, W]`` in [−1, 1] → features.

        Raises:
            InputError: the images are not of the shape that it was trained on.
        """
        expected = (self.model.channels, self.model.image_size, self.model.image_size)
        if tuple(images.shape[1:]) != expected:
            given, known = ("×".join(map(str, shape)) for shape in (images.shape[1:], expected))
            raise InputError(
                f"the classifier knows images of {known} (channels, height, width); given {given}: bring the "
                "images to that size, or take --features texture"
            )
        middle = self.model.body[: self.model.spatial_after](images)
        features = self.model.body[self.model.spatial_after :](middle)
        return Extracted(features, middle[:, :SPATIAL_CHANNELS].flatten(1), self.model.output(features))


def accuracy(model: ImageClassifier, images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """Share of images whose most probable class is their label."""
    return agreement(torch.cat([model(batch) for batch in images.split(batch_size)]), labels)


def agreement(logits: Tensor, labels: Tensor) -> float:
    """Share of rows of ``[n, classes]`` whose largest entry is at their label."""
    return float((logits.argmax(dim=1) == labels).float().mean())


def save_classifier(model: ImageClassifier, path: Path) -> None:
    """Write weights and sizes as safetensors, with a digest; the file appears whole or not at all."""
    write_sealed(path, model.state_dict(), {size.name: getattr(model, size.name) for size in fields(_Sizes)})


def load_classifier(path: Path | str, *, sealed: bool = False) -> ImageClassifier:
    """A classifier that :func:`save_classifier` wrote.

    Args:
        path: of the file.
        sealed: refuse a file of an earlier version, which has no digest.

    Raises:
        InputError: the file is missing, is no classifier, or was altered.
    """
    path, what = Path(path), "a classifier"
    if not path.is_file():
        raise InputError(f"no classifier at {path}: `purrception evaluate` writes classifier.safetensors")
    kept = read_sealed(path, what)
    if sealed and not kept.has_digest:
        raise InputError(f"{path} has no digest: it is of an earlier version")
    with reading(what, path, "`purrception evaluate` writes classifier.safetensors"):
        sizes = TypeAdapter(_Sizes).validate_json(json.dumps(kept.about), strict=True)
        # The sizes are checked against the weights before anything of that size is allocated.
        if kept.tensors["output.weight"].shape != (sizes.classes, sizes.feature_dim):
            raise ValueError("it has other weights than its sizes say")
        if len(sizes.class_names) not in (0, sizes.classes):
            raise ValueError(f"it names {len(sizes.class_names)} of {sizes.classes} classes")
        with torch.device("meta"):
            model = ImageClassifier(**vars(sizes))
        model.load_state_dict(kept.tensors, assign=True)
        require_finite(model.state_dict(), path)
    return model.float().eval().requires_grad_(False)
