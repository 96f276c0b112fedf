"""FID, KID, the Inception score, precision and recall, intervals: against torchmetrics and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from purrception.evaluation import FeatureStatistics, frechet_distance
from purrception.evaluation.features import ImageFeatures
from purrception.evaluation.metrics import kid
from purrception.evaluation.metrics.fid import frechet_interval
from purrception.evaluation.metrics.inception_score import inception_score, score_parts
from purrception.evaluation.metrics.intervals import DIFFERENCE
from purrception.evaluation.metrics.kid import kernel_distance
from purrception.evaluation.metrics.measure import measure
from purrception.evaluation.metrics.precision_recall import precision_recall
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng


class Looked(nn.Module):
    """Images ``[n, 1, 1, d]`` → their pixels as features."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def two_sets(dim: int) -> tuple[Tensor, Tensor]:
    return torch.randn(40, dim).double(), torch.randn(60, dim).double() * 1.5 + 0.3


@pytest.mark.parametrize("dim", [5, 90])
def test_fid_is_that_of_torchmetrics(dim: int) -> None:
    real, made = two_sets(dim)
    metric = FrechetInceptionDistance(Looked(dim), input_img_size=(1, 1, dim), normalize=True).set_dtype(
        torch.float64
    )
    metric.update(real.view(-1, 1, 1, dim), real=True)
    metric.update(made.view(-1, 1, 1, dim), real=False)
    ours = frechet_distance(FeatureStatistics.of(made), FeatureStatistics.of(real))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


@pytest.mark.parametrize("dim", [5, 90])
def test_kid_is_that_of_torchmetrics_and_does_not_fall_with_the_count(dim: int) -> None:
    real, made = two_sets(dim)
    made = made[:40]  # it takes subsets of one size
    metric = KernelInceptionDistance(Looked(dim), subsets=1, subset_size=40, normalize=True).set_dtype(
        torch.float64
    )
    metric.update(real.view(-1, 1, 1, dim), real=True)
    metric.update(made.view(-1, 1, 1, dim), real=False)
    ours, deviation = kernel_distance(made, real)
    assert ours == pytest.approx(float(metric.compute()[0]), rel=1e-6)
    assert deviation > 0
    fewer, deviation = kernel_distance(made, real, subsets=400, size=20)
    assert fewer == pytest.approx(ours, abs=4 * deviation / 20)
    assert kernel_distance(made, real, size=20) == kernel_distance(made, real, size=20)


@pytest.mark.parametrize("size", [20, 1000])
def test_kid_is_the_same_where_subsets_share_no_kernel(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = two_sets(5)
    shared = kernel_distance(made, real[:70], size=size)
    monkeypatch.setattr(kid, "MAX_KERNEL", 0)
    assert kernel_distance(made, real[:70], size=size) == pytest.approx(shared, rel=1e-9)


def test_the_inception_score_is_that_of_torchmetrics() -> None:
    logits = torch.randn(50, 7).double() * 3
    metric = InceptionScore(Looked(7), splits=1).set_dtype(torch.float64)
    metric.update(logits.view(-1, 1, 1, 7))
    assert inception_score(logits, splits=1)[0] == pytest.approx(float(metric.compute()[0]), rel=1e-6)
    certain = torch.eye(4).repeat(25, 1) * 1e3
    assert inception_score(certain, splits=1)[0] == pytest.approx(4)
    by_class = certain[certain.argmax(dim=1).argsort()]  # as files come: dealt to parts, each sees every class
    assert inception_score(by_class, splits=5)[0] > 3.5


def test_the_inception_score_has_parts_of_one_size_and_adms_from_50_000_on() -> None:
    torch.manual_seed(1)
    logits = torch.randn(21, 7).double() * 3
    order = keyed_rng(0, Stream.EVALUATION, part=2).permutation(21)
    scores = []
    for part in np.array_split(logits.softmax(1).numpy()[order], 10):  # as torch-fidelity and ADM sum up a part
        divergence = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(divergence.sum(axis=1).mean()))
    assert inception_score(logits)[0] == pytest.approx(np.mean(scores))
    assert [len(torch.zeros(n).tensor_split(score_parts(n))) for n in (4, 21, 49_999, 50_000)] == [4, 10, 10, 10]
    for count in (50_000, 100_000, 104_321):
        sizes = {len(part) for part in torch.zeros(count).tensor_split(score_parts(count))}
        assert 5000 <= min(sizes) <= max(sizes) < 5500


def test_thinning_loses_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sets of one law, one whose classes take turns and one class by class, thinned to a fifth."""
    monkeypatch.setattr("purrception.evaluation.metrics.measure.MOST_WITH_NEIGHBOURS", 400)
    centres = torch.randn(40, 8).double() * 5

    def drawn(labels: Tensor) -> ImageFeatures:
        features = centres[labels] + torch.randn(len(labels), 8).double()
        return ImageFeatures(FeatureStatistics.of(features), features=features)

    taking_turns, by_class = torch.arange(2000) % 40, torch.arange(2000) // 50
    found = measure(drawn(taking_turns), drawn(by_class))
    random = precision_recall(*(drawn(torch.randint(40, (400,))).features for _ in range(2)))  # type: ignore[arg-type]
    for name in ("precision", "recall", "coverage"):
        assert found[name] == pytest.approx(getattr(random, name), abs=0.07), name
    assert found["recall"] > 0.75


def test_precision_recall_density_and_coverage_by_hand() -> None:
    real, made = torch.randn(37, 3).double(), torch.randn(29, 3).double() + 0.7
    radius = [torch.tensor([np.sort(np.linalg.norm(s - x, axis=1))[3] for x in s]) for s in (real, made)]
    between = torch.tensor([[float((m - r).norm()) for r in real] for m in made])
    in_real = between <= radius[0]
    found = precision_recall(real, made, neighbours=3)
    assert found.precision == float(in_real.any(dim=1).double().mean())
    assert found.recall == float((between <= radius[1][:, None]).any(dim=0).double().mean())
    assert found.density == pytest.approx(float(in_real.sum()) / (3 * 29))
    assert found.coverage == float(in_real.any(dim=0).double().mean())
    assert (
        precision_recall(real, real).precision,
        precision_recall(real, real).recall,
        precision_recall(real, real).coverage,
    ) == (1, 1, 1)
    with pytest.raises(InputError, match="more than 3 images"):
        precision_recall(real[:3], made)


def test_blocks_do_not_change_precision_and_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = torch.randn(60, 4), torch.randn(50, 4) + 0.5
    whole = precision_recall(real, made)
    monkeypatch.setattr("purrception.evaluation.metrics.precision_recall.BLOCK", 70)
    assert precision_recall(real, made) == whole


@pytest.mark.parametrize("rounds", [6, 60])
def test_the_interval_holds_the_mean_of_repetitions_and_its_root_two_a_difference(rounds: int) -> None:
    """With few sets drawn too, which is what Student's quantile is for: quantiles of 6 hold the mean in 67 %."""
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> torch.Tensor:
        return torch.randn(count, 6, generator=generator, dtype=torch.float64)

    reference = FeatureStatistics.of(images(2000))
    draws = [images(200) + 0.3 for _ in range(120)]
    distances = torch.tensor([frechet_distance(FeatureStatistics.of(x), reference) for x in draws])
    reaches = torch.tensor(
        [
            frechet_interval(x, reference, rounds)[1] - distance
            for x, distance in zip(draws, distances.tolist(), strict=True)
        ]
    )
    held = (distances - distances.mean()).abs() <= reaches
    assert 0.9 <= float(held.double().mean()) <= 0.99
    differences = (distances[::2] - distances[1::2]).abs() <= DIFFERENCE * (reaches[::2] + reaches[1::2]) / 2
    assert float(differences.double().mean()) >= 0.87
    distance = frechet_distance(FeatureStatistics.of(draws[0]), reference)
    low, high = frechet_interval(draws[0], reference, rounds)
    assert low < distance < high
