"""All figures of one set of images against a reference: the one place where sets are compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.evaluation.extractors.classifier import agreement
from purrception.evaluation.features import ImageFeatures
from purrception.evaluation.metrics.distances import (
    Interval,
    Spread,
    frechet_distance,
    frechet_interval,
    inception_score,
    kernel_distance,
    score_parts,
)
from purrception.evaluation.metrics.precision_recall import NEIGHBOURS, Overlap, overlap

FEWEST_FOR_OVERLAP, MOST_FOR_OVERLAP = NEIGHBOURS + 1, 10_000
"""Images of a set that neighbours are looked for among: of more, so many, drawn by a key."""


@dataclass(frozen=True)
class Figures:
    """Figures of a set of images; those that its features or its reference cannot give are none."""

    count: int
    """Images in the set."""
    frechet: float
    """Fréchet distance to the reference: FID where the features are Inception's."""
    interval: Interval | None
    """Bootstrap interval of the distance, 95 %."""
    spatial_frechet: float | None
    """The same in features that know where things are: sFID."""
    kid: Spread | None
    """Unbiased kernel distance to the reference, and its spread over subsets."""
    inception_score: Spread | None
    """Of the extractor's classes, and its spread over parts."""
    inception_score_part: int | None
    """Images of one such part, on which the score depends."""
    overlap: Overlap | None
    """Precision, recall, density and coverage."""
    recognised: float | None
    """Share that the classifier recognises as its label."""


def measure_set(
    images: ImageFeatures,
    reference: ImageFeatures,
    *,
    bootstrap: int = 0,
    seed: int = 0,
    class_logits: Tensor | None = None,
) -> Figures:
    """Compare ``images`` with ``reference``.

    Args:
        images: generated, or real ones for a floor.
        reference: real images.
        bootstrap: rounds of the interval; 0 leaves it out.
        seed: of the bootstrap and of KID's subsets.
        class_logits: of the classifier that says what is recognised, ``[n, classes]``.

    Raises:
        InputError: the features of the two differ in dimension.
    """
    own, real = images.features, reference.features
    spatial = None
    if images.spatial is not None and reference.spatial is not None:
        spatial = frechet_distance(images.spatial, reference.spatial)
    interval = kid = around = None
    if own is not None and bootstrap:
        interval = frechet_interval(own, reference.statistics, bootstrap, seed)
    if own is not None and real is not None:
        kid = kernel_distance(own, real, seed=seed)
        if min(len(own), len(real)) >= FEWEST_FOR_OVERLAP:
            around = overlap(_at_most(real), _at_most(own))
    return Figures(
        count=images.count,
        frechet=frechet_distance(images.statistics, reference.statistics),
        interval=interval,
        spatial_frechet=spatial,
        kid=kid,
        inception_score=None if images.logits is None else inception_score(images.logits, seed=seed),
        inception_score_part=None
        if images.logits is None
        else len(images.logits) // score_parts(len(images.logits)),
        overlap=around,
        recognised=None
        if class_logits is None or images.labels is None
        else agreement(class_logits, images.labels),
    )


def _at_most(features: Tensor) -> Tensor:
    return features[torch.from_numpy(spread_rows(len(features), MOST_FOR_OVERLAP))]


def flat(figures: Figures) -> dict[str, float | int | None]:
    """Plain numbers by name, as reports hold them."""
    interval, kid, score, around = figures.interval, figures.kid, figures.inception_score, figures.overlap
    return {
        "count": figures.count,
        "frechet": figures.frechet,
        "frechet_low": interval.low if interval else None,
        "frechet_high": interval.high if interval else None,
        "spatial_frechet": figures.spatial_frechet,
        "kid": kid.mean if kid else None,
        "kid_spread": kid.deviation if kid else None,
        "inception_score": score.mean if score else None,
        "inception_score_spread": score.deviation if score else None,
        "inception_score_part": figures.inception_score_part,
        "precision": around.precision if around else None,
        "recall": around.recall if around else None,
        "density": around.density if around else None,
        "coverage": around.coverage if around else None,
        "recognised": figures.recognised,
    }
