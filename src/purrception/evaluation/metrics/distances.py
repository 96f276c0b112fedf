"""Distances between sets of images, from their features, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from purrception.evaluation.metrics.intervals import t_quantile
from purrception.evaluation.metrics.statistics import FeatureStatistics
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng

KERNEL_SUBSETS, KERNEL_SUBSET_SIZE = 100, 1000
SCORE_PARTS, SCORE_PART_SIZE = 10, 5000
FEW_DIMENSIONS, FEW_ROUNDS = 512, 20


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|μ_a − μ_b|² + tr(C_a + C_b − 2 (C_a C_b)^½), the Fréchet distance of two Gaussians (FID, arXiv 1706.08500).

    The trace of the root is the sum of the square roots of the eigenvalues of C_b^½ C_a C_b^½, which is symmetric
    and has the eigenvalues of C_a C_b: no square root of a general matrix is needed, whose result changes between
    versions of SciPy and turns complex where a covariance has no full rank.

    Raises:
        InputError: the features differ in dimension.
    """
    if a.dimension != b.dimension:
        raise InputError(
            f"features of {a.dimension} and of {b.dimension} dimensions have no distance: they come from "
            "different extractors; compute both sides with the same --features"
        )
    eigenvalues = torch.linalg.eigvalsh(b.root @ a.covariance @ b.root)
    cross = eigenvalues.clamp(min=0).sqrt().sum()
    gap = (a.mean - b.mean).square().sum()
    distance = gap + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(float(distance), 0.0)


@dataclass(frozen=True)
class Spread:
    """A mean over parts and how much they differ."""

    mean: float
    deviation: float
    """Standard deviation over the parts."""


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = KERNEL_SUBSETS, size: int = KERNEL_SUBSET_SIZE, seed: int = 0
) -> Spread:
    """KID: the squared maximum mean discrepancy under k(x, y) = (x·y/d + 1)³, unbiased (arXiv 1801.01401).

    Its expectation does not depend on the number of images, where a Fréchet distance falls with it; it may be
    negative. The mean is over subsets, or of all images at once where there are no more than ``size``; the
    deviation is over subsets, of at most half of a set, so that they are not all alike.

    Args:
        a: features ``[n, d]``.
        b: features ``[m, d]``.
        subsets: how many pairs of subsets.
        size: images of each set in a subset.
        seed: of the subsets, which are keyed by it.

    Raises:
        InputError: a set has fewer than two images.
    """
    if min(len(a), len(b)) < 2:
        raise InputError(f"KID needs at least 2 images a set; given {len(a)} and {len(b)}")
    found = []
    for subset in range(subsets):
        rng = keyed_rng(seed, Stream.EVALUATION, subset)
        chosen = [features[_some(rng, len(features), size)].double() for features in (a, b)]
        found.append(_discrepancy(*chosen))
    values = torch.tensor(found, dtype=torch.float64)
    few = max(len(a), len(b)) <= size
    mean = _discrepancy(a.double(), b.double()) if few else float(values.mean())
    return Spread(mean, float(values.std(correction=0)))


def _discrepancy(a: Tensor, b: Tensor) -> float:
    within = [_kernel(x, x) for x in (a, b)]
    pairs = [(kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1)) for kernel in within]
    return float(pairs[0] + pairs[1] - 2 * _kernel(a, b).mean())


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def inception_score(logits: Tensor, splits: int | None = None, seed: int = 0) -> Spread:
    """exp of the mean divergence KL(p(y|x) ‖ p(y)) of a classifier's answers (IS, arXiv 1606.03498).

    Args:
        logits: ``[n, classes]``; of Inception without the bias of its last layer, as the original has it.
        splits: parts over which the score is averaged; default: :func:`score_parts`.
        seed: of the order in which images are dealt to the parts: files often come class by class.
    """
    splits = score_parts(len(logits)) if splits is None else splits
    order = keyed_rng(seed, Stream.EVALUATION, part=2).permutation(len(logits))
    log_shares = logits[torch.from_numpy(order)].double().log_softmax(dim=1)
    scores = []
    for part in log_shares.tensor_split(min(splits, len(logits))):
        marginal = part.exp().mean(dim=0, keepdim=True)
        divergence = (part.exp() * (part - marginal.log())).sum(dim=1)
        scores.append(divergence.mean().exp())
    values = torch.stack(scores)
    return Spread(float(values.mean()), float(values.std(correction=0)))


def score_parts(count: int) -> int:
    """Parts that an Inception score of ``count`` images is averaged over: 10, or ADM's of 5000 from 50 000 on.

    Of few images to a part the marginal follows each answer, and the score is too small: it depends on the size.
    """
    return min(count, max(SCORE_PARTS, count // SCORE_PART_SIZE))


@dataclass(frozen=True)
class Interval:
    """Where the mean over repetitions, with other images of the same model, lies with 95 % confidence.

    One more repetition differs from this one √2 times as much:
    :data:`purrception.evaluation.metrics.intervals.DIFFERENCE`.
    """

    low: float
    high: float


def frechet_interval(features: Tensor, reference: FeatureStatistics, rounds: int, seed: int = 0) -> Interval:
    """A bootstrap interval of the Fréchet distance of ``features`` ``[n, d]`` to a fixed reference.

    Images are drawn again with replacement. Such sets repeat images, and a Fréchet distance takes that for a lack
    of variety, so all of them lie above the distance itself: what counts is their deviation about their own mean,
    which is put around the distance, times Student's quantile, since it is itself estimated from few sets. It
    speaks of chance, not of the bias of few images, which the floor shows.

    Args:
        features: of the generated images.
        reference: kept as it is.
        rounds: sets drawn, at least 2; above 512 dimensions at most 20, since each costs the eigenvalues of a
            matrix.
        seed: of the draws, which are keyed by it.
    """
    features = features.double()
    count = len(features)
    own = FeatureStatistics.of(features)
    centred = features - own.mean
    found = []
    for number in range(rounds if own.dimension <= FEW_DIMENSIONS else min(rounds, FEW_ROUNDS)):
        rng = keyed_rng(seed, Stream.EVALUATION, number, part=1)
        drawn = rng.multinomial(count, [1 / count] * count)
        weights = torch.from_numpy(drawn).to(features)[:, None]
        shift = (weights * centred).mean(dim=0)
        products = (weights * centred).T @ centred - count * torch.outer(shift, shift)
        found.append(
            frechet_distance(FeatureStatistics(own.mean + shift, products / (count - 1), count), reference)
        )
    reach = float(torch.tensor(found, dtype=torch.float64).std()) * t_quantile(len(found) - 1)
    distance = frechet_distance(own, reference)
    return Interval(max(distance - reach, 0.0), distance + reach)


def _some(rng: np.random.Generator, total: int, size: int) -> Tensor:
    return torch.from_numpy(rng.choice(total, max(2, min(total // 2, size)), replace=False))
