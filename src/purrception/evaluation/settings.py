"""Settings of an evaluation: those of a run's configuration, and those that a command adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from purrception.utils.errors import InputError, unknown_name
from purrception.utils.settings import check_at_least, check_numbers, check_positive

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
    weight_decay: float = 1e-2
    """Decoupled weight decay of AdamW."""
    feature_dim: int = 64
    """Dimension of the features that distances are measured in."""
    blocks: int = 0
    """Residual blocks after each of the three convolutions; with any, every convolution is normalised over its
    batch."""
    dropout: float = 0.0
    """Share of the features that are dropped in training."""
    distortion: float = 0.0
    """Training images are also scaled, sheared, rotated and moved: each entry of their affine maps deviates from
    the identity by at most this much."""
    images: int = 20_000
    """Images that it is trained on; of a larger set this many are drawn by a key."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        name = "evaluation.classifier."
        check_numbers(self, name, steps=10**9, batch_size=2**24)
        check_at_least(self, name, steps=1, batch_size=1, feature_dim=1, images=2, blocks=0, weight_decay=0)
        check_positive(self, name, "learning_rate")
        for setting in ("dropout", "distortion"):
            if not 0 <= getattr(self, setting) < 1:
                raise InputError(f"{name}{setting} must lie in [0, 1); given {getattr(self, setting)}")


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
    training_images: int = 100_000
    """Training images among which the nearest to each generated image is searched, to see what is memorised; of
    more, so many are drawn by a key. 0 leaves memorisation out."""
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
        if self.training_images < 0 or self.training_images == 1:
            raise InputError(
                f"training_images is 0 (memorisation is left out) or at least 2; given {self.training_images}"
            )
        if self.save_stats and not self.save_stats.endswith(".npz"):
            raise InputError(f"--save-stats names an .npz file; given {self.save_stats!r}")
