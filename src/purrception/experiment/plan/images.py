"""How many images a run has, as far as that can be known before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from purrception.data import Views, open_images
from purrception.data.config import BUILT_IN
from purrception.data.hub import is_saved
from purrception.experiment.config import RunConfig
from purrception.tokens import MANIFEST_FILE, Manifest, TokenStore

Manifests = tuple[Manifest, Manifest | None]
"""Manifests of the training shards and of the held-out ones, if any."""
IMAGENET_IMAGES = 1_281_167
IMAGENET_RECIPES = ("imagenet256", "paper-code")
"""Prefixes of the names of recipes whose images are ImageNet's training set."""


@dataclass(frozen=True)
class ImageCounts:
    """The numbers of images and classes of a run."""

    train: int | None
    """Training images; ``None`` if unknown."""
    held_out: int | None
    """Held-out images; ``None`` if unknown."""
    rows: int | None
    """Rows of all token shards; ``None`` if unknown."""
    classes: int
    """Number of classes; 0 if unknown."""
    classes_known: bool


def prepared_manifests(config: RunConfig) -> Manifests | None:
    """The manifests of the prepared token shards that a run names; ``None`` if it names none."""
    if not config.data.tokens:
        return None
    location = config.data.tokens.rstrip("/")
    held_out = TokenStore(f"{location}/test").fetch(MANIFEST_FILE) is not None
    return Manifest.read(f"{location}/train"), Manifest.read(f"{location}/test") if held_out else None


def count_images(
    config: RunConfig, manifests: Manifests | None, images: int | None, classes: int | None
) -> ImageCounts:
    """Count the images of a run, if that needs no download.

    Args:
        config: the configuration of the run.
        manifests: the result of :func:`prepared_manifests`.
        images: number of images of both splits, if the user gives it.
        classes: number of classes, if the user gives it.

    Raises:
        InputError: images that the configuration names are missing.
    """
    data = config.data
    class_names: tuple[str, ...] | None = None
    train: int | None = None
    held_out, views = 0, Views.of(data).per_image
    if manifests is not None:
        class_names, views = manifests[0].class_names, 1  # a row is one view
        train, held_out = (sum(shard.count for shard in part.shards) if part else 0 for part in manifests)
    elif data.source in BUILT_IN or (data.root and (data.source != "hub" or is_saved(Path(data.root)))):
        sources = [open_images(data, split) for split in ("train", "test")]
        class_names, (train, held_out) = sources[0].class_names, map(len, sources)
    if images is None and train is None and config.name.startswith(IMAGENET_RECIPES):
        images = IMAGENET_IMAGES
    if images is not None:
        held_out = round(images * data.test_fraction)
        train = images - held_out
    counts = (classes, data.classes, class_names and len(class_names))
    known = next((count for count in counts if count is not None), None)
    return ImageCounts(
        train=train,
        held_out=None if train is None else held_out,
        rows=None if train is None else train * views + held_out,
        classes=known or 0,
        classes_known=known is not None,
    )
