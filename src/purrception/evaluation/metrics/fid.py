"""Fréchet distance between features of two sets of images (FID), and its bootstrap interval, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from purrception.evaluation.metrics.intervals import t_quantile
from purrception.evaluation.metrics.statistics import FeatureStatistics
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng

FEW_DIMENSIONS, FEW_ROUNDS = 512, 20


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|μ_a − μ_b|² + tr(C_a + C_b − 2 (C_a C_b)^½), the Fréchet distance of two Gaussians (FID, arXiv 1706.08500).

    With C_b = F Fᵀ, the trace of the root is the sum of the square roots of the eigenvalues of Fᵀ C_a F, which is
    symmetric and has the nonzero eigenvalues of C_a C_b. No square root of a general matrix is needed; its result
    changes between versions of SciPy, and is complex where a covariance does not have full rank.

    Raises:
        InputError: the features differ in dimension.
    """
    if a.dimension != b.dimension:
        raise InputError(
            f"features of {a.dimension} and of {b.dimension} dimensions have no distance: they come from "
            "different extractors; compute both sides with the same --features"
        )
    eigenvalues = torch.linalg.eigvalsh(b.factor.T @ a.covariance @ b.factor)
    cross = eigenvalues.clamp(min=0).sqrt().sum()
    gap = (a.mean - b.mean).square().sum()
    distance = gap + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(float(distance), 0.0)


def frechet_interval(
    features: Tensor, reference: FeatureStatistics, rounds: int, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the Fréchet distance of ``features`` ``[n, d]`` to a fixed reference: (low, high).

    With 95 % confidence it holds the mean over repetitions with other images of the same model. One more
    repetition differs from this one √2 times as much: :data:`purrception.evaluation.metrics.intervals.DIFFERENCE`.

    Images are drawn again with replacement. Such sets repeat images, which a Fréchet distance takes for a lack of
    variety, so that all of them lie above the distance itself. What counts is their deviation about their own
    mean; it is put around the distance, times Student's quantile, since it is itself estimated from few sets. The
    interval speaks of chance, not of the bias of few images, which the floor shows.

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
    return max(distance - reach, 0.0), distance + reach
