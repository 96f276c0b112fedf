"""Statistics of features, streamed and whole, and the Fréchet distance between them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from purrception.evaluation import FeatureStatistics, frechet_distance
from purrception.evaluation.metrics.statistics import RunningStatistics, merged
from purrception.utils.errors import InputError


def test_frechet_distance_of_commuting_gaussians_is_the_closed_form() -> None:
    # Diagonal covariances: Σ (μ_a − μ_b)² + Σ (σ_a − σ_b)².
    a = FeatureStatistics(torch.tensor([0.0, 1.0]).double(), torch.diag(torch.tensor([1.0, 4.0])).double(), 9)
    b = FeatureStatistics(torch.tensor([2.0, 1.0]).double(), torch.diag(torch.tensor([9.0, 4.0])).double(), 9)
    assert frechet_distance(a, b) == pytest.approx(4 + 4)
    assert frechet_distance(b, a) == pytest.approx(8)


@pytest.mark.parametrize("dim", [3, 40])
def test_frechet_distance_agrees_with_the_textbook(dim: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, dim)), rng.normal(size=(30, dim)) * 2 + 1
    ours = frechet_distance(*(FeatureStatistics.of(torch.from_numpy(x)) for x in (a, b)))
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    gap = np.square(a.mean(0) - b.mean(0)).sum()
    theirs = gap + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * np.trace(root).real
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(("images", "dim", "rank"), [(5, 20, 4), (50, 8, 8)])
def test_the_factor_of_a_covariance_has_a_column_for_each_direction_of_the_images(
    images: int, dim: int, rank: int
) -> None:
    found = FeatureStatistics.of(torch.randn(images, dim))
    assert found.factor.shape == (dim, rank)
    torch.testing.assert_close(found.factor @ found.factor.T, found.covariance)


def test_a_set_of_equal_images_is_as_far_away_as_the_other_one_spreads() -> None:
    features = torch.randn(20, 6, dtype=torch.float64)
    some = FeatureStatistics.of(features)
    equal = FeatureStatistics.of(features.mean(0).expand(4, -1))
    for pair in ((some, equal), (equal, some)):
        assert frechet_distance(*pair) == pytest.approx(float(some.covariance.trace()))


def test_identical_sets_are_at_distance_zero() -> None:
    for features in (torch.randn(50, 8), torch.randn(20, 64) * 30 + 100):
        assert frechet_distance(FeatureStatistics.of(features), FeatureStatistics.of(features.clone())) < 1e-6


def test_too_few_images_and_bad_features_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2 images"):
        FeatureStatistics.of(torch.randn(1, 4))
    features = torch.randn(5, 4)
    features[3, 1] = torch.nan
    with pytest.raises(InputError, match="image 3"):
        FeatureStatistics.of(features)


def test_streamed_statistics_do_not_depend_on_the_cut() -> None:
    features = torch.randn(130, 12, dtype=torch.float64) * 3 + 1e4  # far from 0, where sums of squares cancel
    whole = FeatureStatistics.of(features)
    for size in (1, 7, 64, 130):
        parts = []
        for share in features.split(50):  # as of three processes
            parts.append(RunningStatistics())
            for batch in share.split(size):
                parts[-1].update(batch)
        streamed = merged(parts).result()
        assert streamed.count == 130
        torch.testing.assert_close(streamed.mean, whole.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(streamed.covariance, whole.covariance, rtol=1e-10, atol=1e-10)


def test_features_of_two_extractors_have_no_distance() -> None:
    a, b = (FeatureStatistics.of(torch.randn(9, dim)) for dim in (3, 4))
    with pytest.raises(InputError, match="3 and of 4 dimensions"):
        frechet_distance(a, b)
