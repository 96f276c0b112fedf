"""How an evaluation is done: what stands in a run's configuration, and what a command adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from purrception.evaluation.extractors import check_features
from purrception.evaluation.extractors.classifier import ClassifierConfig
from purrception.utils.errors import InputError


@dataclass(frozen=True)
class EvaluationConfig:
    """How many images are judged, by which classifier and in which features."""

    num: int = 500
    """Generated images; classes take turns."""
    guidances: tuple[float, ...] = (1.0, 1.5)
    """Guidance scales to judge, one row of the report each."""
    seed: int = 0
    """Of the generated images."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """Trained on the real training images."""
    features: str = "classifier"
    """What distances, precision and recall are measured in: classifier (what it knows of the classes), texture
    (fixed random filters, steadier where there are few classes), inception or dinov2 (which need weights)."""
    truncate: bool = False
    """Cut the levels of generated images down to whole numbers, as the paper's code does, instead of rounding."""

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
    """What an evaluation does besides its configuration; see the options of ``purrception evaluate``."""

    reference: str = ""
    """Real images: test or train (of the run's data; default: test), a folder, token shards, or an .npz."""
    protocol: str = ""
    """adm-train, val or custom; default: by the kind of reference."""
    weights: str = ""
    """Of the extractor, where it needs some."""
    classifier: str = ""
    """A trained one, in place of the one that learns the real images."""
    labels: Literal["balanced", "data"] = "balanced"
    """Classes take turns, or come as often as in the data."""
    bootstrap: int = 100
    """Rounds of the intervals; 0: none."""
    strict: bool = False
    """Refuse broken images instead of leaving them out."""
    cache: str = ""
    """Folder for features; default: below the user's cache; "none" keeps nothing."""
    save_images: Literal["", "png", "npz"] = ""
    """Also write the generated images, for other evaluators."""
    save_stats: str = ""
    """File for the reference's statistics."""
    batch_size: int = 128
    """Images sampled at a time; does not change them."""
    device: str = "cpu"
    """Where extractors with large networks run."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.bootstrap < 0 or self.bootstrap == 1 or self.batch_size < 1:
            raise InputError(
                "bootstrap is 0 (no intervals) or at least 2, and batch_size at least 1; given "
                f"{self.bootstrap} and {self.batch_size}"
            )
        if self.save_stats and not self.save_stats.endswith(".npz"):
            raise InputError(f"--save-stats names an .npz file; given {self.save_stats!r}")
