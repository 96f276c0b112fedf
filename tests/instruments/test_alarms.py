"""Signs of trouble: silent where all is well, and a line, once, where something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from purrception.experiment.run import load_pipeline
from purrception.flow import ObjectiveConfig, build_objective
from purrception.instruments.training_monitor import ALARMS, Watch
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
def test_each_alarm_sounds_for_its_own_trouble_alone(change: dict[str, float], advice: str) -> None:
    assert not any(alarm.is_bad(GOOD) for alarm in ALARMS)
    bad = [alarm for alarm in ALARMS if alarm.is_bad(GOOD | change)]
    assert len(bad) == 1
    assert advice in bad[0].advice.format(**(GOOD | change))


def test_a_collapse_is_told_once_and_again_when_it_comes_back(tiny_run: Path) -> None:
    train, held_out = (TokenDataset(tiny_run / "tokens" / split) for split in ("train", "test"))
    watch = Watch(build_objective(ObjectiveConfig()), train, held_out, steps=10, seed=0)
    network = load_pipeline(tiny_run).transformer.eval()
    numbers = torch.arange(0, len(train), 20)
    real, labels = (torch.from_numpy(part) for part in train.rows(numbers.numpy()))
    collapsed = torch.zeros_like(real)

    def told(step: int, grids: torch.Tensor) -> list[str]:
        return [line for line in watch.look(step, network, grids, labels).warnings if "codes in effect" in line]

    assert told(1, collapsed) == []  # too early to say anything
    assert len(told(4, collapsed)) == 1
    assert told(6, collapsed) == []  # said already
    assert told(8, real) == []
    assert len(told(10, collapsed)) == 1
    seen = watch.look(10, network, real, labels).figures
    assert seen["watch/sample_perplexity"] == pytest.approx(seen["watch/data_perplexity"], rel=0.35)
    without = Watch(build_objective(ObjectiveConfig()), train, None, steps=10, seed=0)
    assert "watch/entropy" not in without.look(10, network, real, labels).figures
