"""The metrics of one set: which there are, whose they are, and under which names reports hold them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from purrception.evaluation import FeatureStatistics, frechet_distance
from purrception.evaluation.features import ImageFeatures
from purrception.evaluation.metrics.intervals import share_interval
from purrception.evaluation.metrics.kid import kernel_distance, kernel_distances_without
from purrception.evaluation.metrics.measure import FEWEST_WITH_NEIGHBOURS, Metrics, measure, with_all_names
from purrception.evaluation.metrics.precision_recall import precision_recall, precision_recall_without
from purrception.utils.errors import InputError

NEIGHBOURLY = ("precision", "recall", "density", "coverage")


def features_of(features: torch.Tensor, **more: object) -> ImageFeatures:
    return ImageFeatures(FeatureStatistics.of(features), features=features, **more)  # type: ignore[arg-type]


def two_clusters(count: int) -> torch.Tensor:
    return torch.randn(count, 4).double() + 50 * (torch.arange(count) % 2)[:, None]


def test_statistics_alone_give_a_distance_alone() -> None:
    one, other = (FeatureStatistics.of(torch.randn(count, 3)) for count in (9, 12))
    found = measure(ImageFeatures(one), ImageFeatures(other), bootstrap=5)
    assert found == {"count": 9, "frechet": frechet_distance(one, other)}
    with pytest.raises(InputError, match="3 and of 4 dimensions"):
        measure(ImageFeatures(one), features_of(torch.randn(9, 4)))


def test_every_input_adds_its_metrics() -> None:
    real, made = features_of(torch.randn(30, 4)), torch.randn(20, 4) + 0.5
    plain = measure(features_of(made), real)
    expected = {"count", "frechet", "kid", "kid_spread", "precision", "recall", "density", "coverage"}
    assert plain.keys() == expected
    with_interval = measure(features_of(made), real, bootstrap=20)
    uncertain = ("frechet", "kid", "precision", "recall", "density", "coverage")
    assert with_interval.keys() - expected == {f"{name}_{end}" for name in uncertain for end in ("low", "high")}
    for name in uncertain:
        assert with_interval[f"{name}_low"] <= plain[name] <= with_interval[f"{name}_high"], name  # type: ignore[literal-required]
    positions = FeatureStatistics.of(torch.randn(20, 3))
    spatial = measure(features_of(made, spatial=positions), features_of(torch.randn(30, 4), spatial=positions))
    assert spatial.keys() - expected == {"spatial_frechet"}
    assert spatial["spatial_frechet"] < 1e-9
    scored = measure(features_of(made, logits=torch.randn(20, 5)), real)
    assert scored.keys() - expected == {"inception_score", "inception_score_spread", "inception_score_part"}
    assert scored["inception_score_part"] == 2  # ten parts of twenty images
    few = measure(features_of(made[: FEWEST_WITH_NEIGHBOURS - 1]), real)
    assert few.keys() == {"count", "frechet", "kid", "kid_spread"}


def test_precision_is_of_the_images_and_recall_of_the_reference() -> None:
    whole, half = features_of(two_clusters(80)), features_of(two_clusters(80)[::2])
    found, turned = measure(half, whole), measure(whole, half)
    assert found["precision"] > 0.7 > 0.55 > found["recall"]
    assert (turned["precision"], turned["recall"]) == (found["recall"], found["precision"])
    assert (found["count"], turned["count"]) == (40, 80)


def test_recognised_is_the_share_of_the_images_own_labels() -> None:
    labels, logits = torch.tensor([0, 1, 2, 2]), torch.eye(3)[[0, 1, 2, 0]]
    real = features_of(torch.randn(9, 4))
    assert measure(features_of(torch.randn(4, 4), labels=labels), real, class_logits=logits)["recognised"] == 0.75
    assert "recognised" not in measure(features_of(torch.randn(4, 4)), real, class_logits=logits)
    assert "recognised" not in measure(features_of(torch.randn(4, 4), labels=labels), real)


def test_reports_hold_every_name_in_one_order() -> None:
    names = [
        "count",
        "frechet",
        "frechet_low",
        "frechet_high",
        "spatial_frechet",
        "kid",
        "kid_low",
        "kid_high",
        "kid_spread",
        "inception_score",
        "inception_score_spread",
        "inception_score_part",
        *(f"{name}{end}" for name in NEIGHBOURLY for end in ("", "_low", "_high")),
        "recognised",
        "recognised_low",
        "recognised_high",
    ]
    row = with_all_names(Metrics(frechet=2.5, count=7, recall=0.5))
    assert list(row) == names
    assert {name: value for name, value in row.items() if value is not None} == {
        "count": 7,
        "frechet": 2.5,
        "recall": 0.5,
    }


def test_intervals_hold_the_mean_of_repetitions_as_often_as_they_say() -> None:
    real = features_of(torch.randn(200, 5).double())
    found = [measure(features_of(0.9 * torch.randn(100, 5).double() + 0.2), real, bootstrap=2) for _ in range(80)]
    for name in ("kid", *NEIGHBOURLY):
        low, value, high = (np.array([one[f"{name}{end}"] for one in found]) for end in ("_low", "", "_high"))  # type: ignore[literal-required]
        held = ((low <= value.mean()) & (value.mean() <= high)).mean()
        assert held >= 0.87, name
        assert 0.8 < (high - low).mean() / (3.92 * value.std()) < 1.8, name


def test_an_interval_of_a_share_has_a_width_where_all_or_none_are_recognised() -> None:
    low, high = share_interval(1.0, 100)
    assert (round(low, 3), high) == (0.963, 1.0)
    assert share_interval(0.0, 100) == pytest.approx((0.0, 1 - low))
    low, high = share_interval(0.5, 10_000)
    assert high - low == pytest.approx(2 * 1.96 * 0.005, rel=1e-3)


def test_metrics_without_a_group_are_those_of_the_others_alone() -> None:
    real, made = torch.randn(60, 4).double(), torch.randn(50, 4).double() + 0.3
    groups = [slice(0, 5), slice(5, 25), slice(25, 50)]
    found = precision_recall_without(real, made, groups)
    kid = kernel_distances_without(made, real, groups)
    constant = (
        kernel_distance(made, real)[0] - kernel_distances_without(made, real, [slice(0, 0), slice(0, 50)])[0]
    )
    for number, group in enumerate(groups):
        others = torch.cat([made[: group.start], made[group.stop :]])
        for name, value in vars(precision_recall(real, others)).items():
            assert getattr(found[number], name) == pytest.approx(value), (number, name)
        assert kid[number] + constant == pytest.approx(kernel_distance(others, real)[0])
