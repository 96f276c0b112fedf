"""All metrics of one set of images against a reference: the one place where sets are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Required, TypedDict

import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.evaluation.extractors.classifier import agreement
from purrception.evaluation.features import ImageFeatures
from purrception.evaluation.metrics.fid import frechet_distance, frechet_interval
from purrception.evaluation.metrics.inception_score import inception_score, score_parts
from purrception.evaluation.metrics.intervals import jackknife_reach, share_interval
from purrception.evaluation.metrics.kid import kernel_distance, kernel_distances_without
from purrception.evaluation.metrics.precision_recall import NEIGHBOURS, precision_recall_without
from purrception.utils.keyed_rng import Stream, keyed_rng

FEWEST_WITH_NEIGHBOURS = NEIGHBOURS + 1
"""Images that a set needs for precision and recall."""
MOST_WITH_NEIGHBOURS = 10_000
"""Images among which neighbours are searched; of a larger set this many are drawn by a key."""


GROUPS = 10
"""Groups of images of the jackknife."""
RANGES = {"kid": (-math.inf, math.inf), "density": (0.0, math.inf)}
"""Values that a metric may have; others lie in [0, 1]."""


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
    kid_low: float
    """Lower end of its interval of 95 %; so in the metrics below."""
    kid_high: float
    """Upper end of that interval."""
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
    precision_low: float
    precision_high: float
    recall: float
    """Share of the reference on the manifold of the images."""
    recall_low: float
    recall_high: float
    density: float
    """Precision that an outlier in the reference does not inflate."""
    density_low: float
    density_high: float
    coverage: float
    """Share of the reference with one of the images nearby."""
    coverage_low: float
    coverage_high: float
    recognised: float
    """Share of the images that the classifier recognises as their label."""
    recognised_low: float
    recognised_high: float


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
        bootstrap: rounds of the distance's interval; 0 leaves out all intervals.
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
        few, many = _at_most(own), _at_most(real)
        groups = _groups(len(few)) if bootstrap else []
        if groups:
            few = few[torch.from_numpy(keyed_rng(seed, Stream.EVALUATION, part=7).permutation(len(few)))]
            _add_interval(metrics, "kid", kernel_distances_without(few, many, groups))
        if min(len(few), len(many)) >= FEWEST_WITH_NEIGHBOURS:
            whole, *without = precision_recall_without(many, few, [slice(0, 0), *groups])
            for name, value in asdict(whole).items():
                metrics[name] = value  # type: ignore[literal-required]
                _add_interval(metrics, name, [getattr(one, name) for one in without])
            if bootstrap:  # a share of independent images, unlike the others
                metrics |= _share_interval("precision", whole.precision, len(few))
    if images.logits is not None:
        score, spread = inception_score(images.logits, seed=seed)
        size = len(images.logits) // score_parts(len(images.logits))
        metrics |= {"inception_score": score, "inception_score_spread": spread, "inception_score_part": size}
    if class_logits is not None and images.labels is not None:
        metrics["recognised"] = agreement(class_logits, images.labels)
        if bootstrap:
            metrics |= _share_interval("recognised", metrics["recognised"], len(class_logits))
    return metrics


def _groups(count: int) -> list[slice]:
    """Equal groups of images for the jackknife; none where they would be single images."""
    ends = [count * number // GROUPS for number in range(GROUPS + 1)]
    return [slice(*group) for group in pairwise(ends)] if count >= 2 * GROUPS else []


def _share_interval(name: str, share: float, count: int) -> Metrics:
    low, high = share_interval(share, count)
    return {f"{name}_low": low, f"{name}_high": high}  # type: ignore[misc]


def _add_interval(metrics: Metrics, name: str, without: Sequence[float]) -> None:
    """Put the interval around a metric, from its values without each group of images."""
    if without:
        (least, most), reach = RANGES.get(name, (0.0, 1.0)), jackknife_reach(without)
        metrics[f"{name}_low"] = max(metrics[name] - reach, least)  # type: ignore[literal-required]
        metrics[f"{name}_high"] = min(metrics[name] + reach, most)  # type: ignore[literal-required]


def _at_most(features: Tensor) -> Tensor:
    return features[torch.from_numpy(spread_rows(len(features), MOST_WITH_NEIGHBOURS))]


def with_all_names(metrics: Metrics) -> dict[str, float | int | None]:
    """The metrics under every name that reports have, ``None`` for those that were left out."""
    return {name: metrics.get(name) for name in Metrics.__annotations__}  # type: ignore[misc]
