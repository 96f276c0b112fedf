"""The monitor of a training: silent while all is well, and one warning when something goes wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from purrception.experiment.saved_run import load_pipeline
from purrception.flow import ObjectiveConfig, SamplingConfig, build_objective
from purrception.instruments.training_monitor import CHECKS, TrainingMonitor, shown_classes
from purrception.tokens import TokenDataset

GOOD = {
    "sample_perplexity": 90.0,
    "data_perplexity": 100.0,
    "class_agreement": 0.9,
    "data_class_agreement": 0.95,
    "calibration_error": 0.02,
    "confidence": 0.5,
    "accuracy": 0.5,
    "logsumexp_at_most": 10.0,
}


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"sample_perplexity": 40.0}, "40 codes in effect where as many real images use 100"),
        ({"class_agreement": 0.4}, "40% of samples look like the class asked for"),
        ({"calibration_error": 0.2, "confidence": 0.7}, "says 0.70, right 0.50"),
        ({"logsumexp_at_most": 80.0}, "raise objective.z_loss"),
    ],
)
def test_each_check_fails_for_its_own_trouble_alone(change: dict[str, float], advice: str) -> None:
    assert not any(check.fails(GOOD) for check in CHECKS)
    failing = [check for check in CHECKS if check.fails(GOOD | change)]
    assert len(failing) == 1
    assert advice in failing[0].advice.format(**(GOOD | change))


def test_a_collapse_is_told_once_and_again_when_it_comes_back(tiny_run: Path) -> None:
    train, held_out = (TokenDataset(tiny_run / "tokens" / split) for split in ("train", "test"))
    pipeline = load_pipeline(tiny_run)
    network = pipeline.transformer.eval()

    def monitor(held_out: TokenDataset | None) -> TrainingMonitor:
        objective = build_objective(ObjectiveConfig())
        return TrainingMonitor(
            objective, pipeline.tokenizer, train, held_out, SamplingConfig(num_inference_steps=3), steps=10, seed=0
        )

    watching = monitor(held_out)
    numbers = torch.arange(0, len(train), 20)
    real, labels = (torch.from_numpy(part) for part in train.rows(numbers.numpy()))
    collapsed = torch.zeros_like(real)

    def told(step: int, grids: torch.Tensor) -> list[str]:
        warnings = watching.warn(step, watching.measure(network, grids, labels))
        return [line for line in warnings if "codes in effect" in line]

    assert told(1, collapsed) == []  # too early to say anything
    assert len(told(4, collapsed)) == 1
    assert told(6, collapsed) == []  # said already
    assert told(8, real) == []
    assert len(told(10, collapsed)) == 1
    metrics = watching.measure(network, real, labels)
    assert metrics["sample_perplexity"] == pytest.approx(metrics["data_perplexity"], rel=0.35)
    assert "entropy" not in monitor(None).measure(network, real, labels)


@pytest.mark.parametrize(
    ("classes", "columns", "shown"),
    [
        (10, 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (3, 3, [0, 1, 2]),
        (36, 10, [0, 3, 7, 10, 14, 18, 21, 25, 28, 32]),  # of four styles of nine categories, all four
        (0, 8, [0] * 8),
    ],
)
def test_the_columns_show_classes_from_everywhere(classes: int, columns: int, shown: list[int]) -> None:
    assert shown_classes(classes, columns).tolist() == shown


def test_samples_come_from_the_same_noise_every_time(tiny_run: Path) -> None:
    train = TokenDataset(tiny_run / "tokens" / "train")
    pipeline = load_pipeline(tiny_run)
    monitor = TrainingMonitor(
        build_objective(ObjectiveConfig()),
        pipeline.tokenizer,
        train,
        None,
        SamplingConfig(num_inference_steps=50),
        steps=10,
        seed=0,
    )
    first, second = (monitor(step, pipeline.transformer.eval()) for step in (1, 2))
    assert first.image.dtype == np.uint8
    np.testing.assert_array_equal(first.image, second.image)
    assert first.metrics == second.metrics
    assert all(name.startswith("watch/") for name in first.metrics)
    assert first.warnings == ()  # too early to say anything
