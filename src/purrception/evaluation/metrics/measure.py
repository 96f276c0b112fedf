"""All metrics of one set of images against a reference: the one place where sets are compared."""

from __future__ import annotations

from typing import Required, TypedDict

import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.evaluation.extractors.classifier import agreement
from purrception.evaluation.features import ImageFeatures
from purrception.evaluation.metrics.fid import frechet_distance, frechet_interval
from purrception.evaluation.metrics.inception_score import inception_score, score_parts
from purrception.evaluation.metrics.kid import kernel_distance
from purrception.evaluation.metrics.precision_recall import NEIGHBOURS, precision_recall

FEWEST_WITH_NEIGHBOURS = NEIGHBOURS + 1
"""Images that a set needs for precision and recall."""
MOST_WITH_NEIGHBOURS = 10_000
"""Images among which neighbours are searched; of a larger set this many are drawn by a key."""


class Metrics(TypedDict, total=False):
    """Metrics of a set of images, by the names that reports give them.

    What the set's features, labels or reference do not allow to measure is left out.
    """

    count: Required[int]
    """Images in the set."""
    frechet: Required[float]
    """Fréchet distance to the reference: FID where the features are Inception's."""
    frechet_low: float
    """Lower end of the distance's bootstrap interval of 95 %."""
    frechet_high: float
    """Upper end of that interval."""
    spatial_frechet: float
    """The distance in features that keep positions in the image: sFID."""
    kid: float
    """Unbiased kernel distance to the reference: unlike the Fréchet distance it does not fall with the count."""
    kid_spread: float
    """Its standard deviation over subsets."""
    inception_score: float
    """Inception score by the extractor's classes."""
    inception_score_spread: float
    """Its standard deviation over parts of the set."""
    inception_score_part: int
    """Images in such a part, on which the score depends."""
    precision: float
    """Share of the images on the manifold of the reference."""
    recall: float
    """Share of the reference on the manifold of the images."""
    density: float
    """Precision that an outlier in the reference does not inflate."""
    coverage: float
    """Share of the reference with one of the images nearby."""
    recognised: float
    """Share of the images that the classifier recognises as their label."""


def measure(
    images: ImageFeatures,
    reference: ImageFeatures,
    *,
    bootstrap: int = 0,
    seed: int = 0,
    class_logits: Tensor | None = None,
) -> Metrics:
    """Compare ``images`` with ``reference``.

    Args:
        images: features of generated images, or of real ones for a floor.
        reference: features of real images.
        bootstrap: rounds of the distance's interval; 0 leaves it out.
        seed: of the bootstrap and of the subsets.
        class_logits: of the classifier that recognises the images, ``[n, classes]``.

    Raises:
        InputError: the features of the two differ in dimension.
    """
    own, real = images.features, reference.features
    metrics = Metrics(count=images.count, frechet=frechet_distance(images.statistics, reference.statistics))
    if own is not None and bootstrap:
        low, high = frechet_interval(own, reference.statistics, bootstrap, seed)
        metrics |= {"frechet_low": low, "frechet_high": high}
    if images.spatial is not None and reference.spatial is not None:
        metrics["spatial_frechet"] = frechet_distance(images.spatial, reference.spatial)
    if own is not None and real is not None:
        metrics["kid"], metrics["kid_spread"] = kernel_distance(own, real, seed=seed)
        if min(len(own), len(real)) >= FEWEST_WITH_NEIGHBOURS:
            found = precision_recall(_at_most(real), _at_most(own))
            metrics |= {"precision": found.precision, "recall": found.recall}
            metrics |= {"density": found.density, "coverage": found.coverage}
    if images.logits is not None:
        score, spread = inception_score(images.logits, seed=seed)
        size = len(images.logits) // score_parts(len(images.logits))
        metrics |= {"inception_score": score, "inception_score_spread": spread, "inception_score_part": size}
    if class_logits is not None and images.labels is not None:
        metrics["recognised"] = agreement(class_logits, images.labels)
    return metrics


def _at_most(features: Tensor) -> Tensor:
    return features[torch.from_numpy(spread_rows(len(features), MOST_WITH_NEIGHBOURS))]


def with_all_names(metrics: Metrics) -> dict[str, float | int | None]:
    """The metrics under every name that reports have, ``None`` for those that were left out."""
    return {name: metrics.get(name) for name in Metrics.__annotations__}  # type: ignore[misc]
