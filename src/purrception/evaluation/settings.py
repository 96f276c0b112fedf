"""Settings of an evaluation: those of a run's configuration, and those that a command adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from purrception.utils.errors import InputError, unknown_name

FEATURES = ("classifier", "texture", "inception", "dinov2")
"""Every feature extractor; :mod:`purrception.evaluation.extractors` says how each is built."""


def check_features(name: str) -> None:
    """Refuse an unknown feature extractor, before anything is trained.

    Raises:
        InputError: there is none of that name; the nearest known one is suggested.
    """
    if name not in FEATURES:
        raise unknown_name("feature extractor", name, FEATURES)


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


@dataclass(frozen=True)
class EvaluationConfig:
    """How many images are generated, and by which classifier and in which features they are evaluated."""

    num: int = 500
    """Number of generated images per guidance scale; classes take turns."""
    guidances: tuple[float, ...] = (1.0, 1.5)
    """Guidance scales to evaluate; each gives one row of the report."""
    seed: int = 0
    """Seed of the generated images and of the classifier."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """How the classifier is trained on the real training images."""
    features: str = "classifier"
    """Features in which distances, precision and recall are measured: classifier (sensitive to the classes),
    texture (fixed random filters, steadier where there are few classes), inception or dinov2 (which need weights).
    """
    truncate: bool = False
    """Round the pixel values of generated images down, as the paper's code does, instead of to the nearest."""

    def __post_init__(self) -> None:
        """Refuse an empty evaluation and unknown features."""
        check_features(self.features)
        if self.num < 4 or not self.guidances:
            raise InputError(
                f"an evaluation needs at least 4 images and one guidance; given {self.num} "
                f"and {list(self.guidances)}"
            )


@dataclass(frozen=True)
class Procedure:
    """What ``purrception evaluate`` can be told in addition to the run's configuration."""

    reference: str = ""
    """Real images to compare with: test or train (of the run's data; by default test), a folder, token shards, or
    an .npz."""
    protocol: str = ""
    """Name of the protocol in the report: adm-train, val or custom; by default, that of the kind of reference."""
    weights: str = ""
    """Weights of the feature extractor: a file for inception, a folder or hub:OWNER/NAME for dinov2."""
    classifier: str = ""
    """The classifier.safetensors of an earlier report; by default, one is trained on the real images."""
    labels: Literal["balanced", "data"] = "balanced"
    """Labels of the generated images: classes take turns, or occur as often as in the training shards."""
    bootstrap: int = 100
    """Bootstrap rounds for the intervals, at most 20 above 512 dimensions; 0 leaves the intervals out."""
    strict: bool = False
    """Stop at a broken image instead of leaving it out and counting it."""
    cache: str = ""
    """Folder where features are cached; by default, features in purrception's cache; none caches nothing."""
    save_images: Literal["", "png", "npz"] = ""
    """Also save the generated images for other evaluators: as PNGs, or as one .npz in ADM's layout."""
    save_stats: str = ""
    """Save the reference's statistics to this .npz; of images without a reference, their own statistics."""
    batch_size: int = 128
    """Images sampled at a time; does not change the images."""
    device: str = "cpu"
    """Device of large feature extractors."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.bootstrap < 0 or self.bootstrap == 1 or self.batch_size < 1:
            raise InputError(
                "bootstrap is 0 (no intervals) or at least 2, and batch_size at least 1; given "
                f"{self.bootstrap} and {self.batch_size}"
            )
        if self.save_stats and not self.save_stats.endswith(".npz"):
            raise InputError(f"--save-stats names an .npz file; given {self.save_stats!r}")
