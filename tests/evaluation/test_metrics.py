"""The Fréchet distance and the classifier that gives its features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from purrception.data import DataConfig, images_to_tensor, open_images
from purrception.errors import InputError
from purrception.evaluation import ClassifierConfig, FeatureStatistics, frechet_distance, train_classifier
from purrception.evaluation.extractors.classifier import accuracy


def test_frechet_distance_of_commuting_gaussians_is_the_closed_form() -> None:
    # Diagonal covariances: Σ (μ_a − μ_b)² + Σ (σ_a − σ_b)².
    a = FeatureStatistics(torch.tensor([0.0, 1.0]).double(), torch.diag(torch.tensor([1.0, 4.0])).double(), 9)
    b = FeatureStatistics(torch.tensor([2.0, 1.0]).double(), torch.diag(torch.tensor([9.0, 4.0])).double(), 9)
    assert frechet_distance(a, b) == pytest.approx(4 + 4)
    assert frechet_distance(b, a) == pytest.approx(8)


@pytest.mark.parametrize("dim", [3, 40])
def test_frechet_distance_agrees_with_the_general_matrix_root(dim: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, dim)), rng.normal(size=(30, dim)) * 2 + 1
    ours = frechet_distance(*(FeatureStatistics.of(torch.from_numpy(x)) for x in (a, b)))
    product = np.cov(a.T) @ np.cov(b.T)
    root_trace = np.sqrt(np.clip(np.linalg.eigvals(product).real, 0, None)).sum()
    gap = np.square(a.mean(0) - b.mean(0)).sum()
    theirs = gap + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * root_trace
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_identical_sets_are_at_distance_zero() -> None:
    features = torch.randn(50, 8)
    assert frechet_distance(FeatureStatistics.of(features), FeatureStatistics.of(features)) < 1e-6


def test_too_few_images_and_bad_features_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2 images"):
        FeatureStatistics.of(torch.randn(1, 4))
    features = torch.randn(5, 4)
    features[3, 1] = torch.nan
    with pytest.raises(InputError, match="image 3"):
        FeatureStatistics.of(features)


@pytest.mark.slow
def test_classifier_recognises_real_test_digits() -> None:
    data = {}
    for split in ("train", "test"):
        source = open_images(DataConfig(), split)  # type: ignore[arg-type]
        arrays, labels = zip(*(source[i] for i in range(len(source))), strict=True)
        data[split] = images_to_tensor(arrays), torch.tensor(labels)
    model = train_classifier(*data["train"], classes=10, config=ClassifierConfig())
    assert accuracy(model, *data["test"]) >= 0.95
    shuffled = data["test"][1].roll(1)
    assert accuracy(model, data["test"][0], shuffled) < 0.3
