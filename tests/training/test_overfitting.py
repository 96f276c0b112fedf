"""The alarm of an overfitted training: given once and at the end, and never for one that still learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from purrception.storage import dump_settings, read_json_lines
from purrception.tokens import TokenDataset
from purrception.training import CheckpointStore
from purrception.training.batches import training_twin, validation_batch
from purrception.training.overfitting import MeasuredLosses, begins_to_overfit, overfitted_since, read_losses
from tests.conftest import run_cli, save_pictures, tiny_config


def measured(held_out: list[float], training: list[float] | None = None) -> list[MeasuredLosses]:
    falling = training or [3 - 0.1 * number for number in range(len(held_out))]
    return [MeasuredLosses(100 * n, *pair) for n, pair in enumerate(zip(held_out, falling, strict=True), start=1)]


@pytest.mark.parametrize(
    ("held_out", "training"),
    [
        ([3.0, 2.5, 2.2, 2.1], None),  # still learns
        ([3.0, 2.5, 2.52, 2.54], None),  # within noise
        ([3.0, 2.5, 2.8, 2.5], None),  # rose once
        ([3.0, 2.5, 2.8, 2.9], [3.0, 2.0, 2.3, 2.4]),  # both rise: training goes wrong, but not so
        ([2.5, 2.9], None),  # too few
    ],
)
def test_no_alarm(held_out: list[float], training: list[float] | None) -> None:
    assert overfitted_since(measured(held_out, training)) is None


def test_the_alarm_names_the_best_step_and_is_given_once() -> None:
    losses = measured([3.32, 3.36, 3.43, 3.58, 3.79, 3.97])
    best = [overfitted_since(losses[: count + 1]) for count in range(6)]
    assert [one.step if one else 0 for one in best] == [0, 0, 0, 100, 100, 100]
    assert [begins_to_overfit(losses[: count + 1]) for count in range(6)] == [False] * 3 + [True, False, False]


def test_a_training_twin_has_other_codes_under_the_same_noise(tiny_run: Path) -> None:
    train, held_out = (TokenDataset(tiny_run / "tokens" / split) for split in ("train", "test"))
    batch = validation_batch(held_out, seed=0, start=3, count=5, rows=20)
    twin = training_twin(batch, train, start=3, rows=20)
    assert torch.equal(twin.noise, batch.noise)
    assert torch.equal(twin.time, batch.time)
    assert twin.indices.shape == batch.indices.shape
    assert not torch.equal(twin.indices, batch.indices)
    again = training_twin(batch, held_out, start=3, rows=20)
    assert torch.equal(again.indices, batch.indices)
    more = validation_batch(train, seed=0, start=0, count=400, rows=400)
    assert len(training_twin(more, held_out, start=0, rows=400).labels) == 400  # 355 rows, some twice


def test_a_run_that_still_learns_measures_both_losses_and_warns_of_nothing(tiny_run: Path) -> None:
    losses = read_losses(tiny_run / "metrics.jsonl")
    assert [one.step for one in losses] == [4, 8]
    assert losses[1].training < losses[0].training
    assert overfitted_since(losses) is None


@pytest.fixture(scope="module")
def learned_by_heart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run on images of noise, of which nothing but the images themselves can be learned, and what it said."""
    folder = tmp_path_factory.mktemp("heart")
    save_pictures(folder / "pictures", each=20)
    config = tiny_config(folder / "runs", name="heart")
    training = replace(
        config.training,
        steps=270,
        batch_size=16,
        ema_decay=0.9,
        validate_every=30,
        checkpoint_every=30,
        sample_every=0,
    )
    values = yaml.safe_load(dump_settings(replace(config, training=training)))
    values["data"] |= {"source": "folder", "root": str(folder / "pictures"), "test_fraction": 0.3}
    (folder / "heart.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    done = run_cli("train", "heart.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


def test_an_overfitted_training_warns_once_and_at_the_end(learned_by_heart: tuple[Path, str, str]) -> None:
    folder, said, noted = learned_by_heart
    run = folder / "runs/heart"
    best = min(read_losses(run / "metrics.jsonl"), key=lambda one: one.held_out)
    assert noted.count("warning: the held-out loss was best") == 1
    assert said.count(f"warning: the held-out loss was best at step {best.step}") == 1
    assert "learns its training images by heart" in said
    assert "--checkpoint best makes a pipeline of it" in said


def test_the_best_checkpoint_is_kept_and_can_be_exported(learned_by_heart: tuple[Path, str, str]) -> None:
    folder, said, _ = learned_by_heart
    best = CheckpointStore(folder / "runs/heart/checkpoints").best()
    assert best is not None
    assert best.state.step <= 180
    assert f"The checkpoint of step {best.state.step} is kept" in said
    done = run_cli("export", "runs/heart", "--checkpoint", "best", cwd=folder)
    assert done.returncode == 0, done.stderr
    card = (folder / "pipelines/heart/README.md").read_text()
    assert f"{best.state.step} of 270 steps" in card
    assert f"lowest held-out loss, {best.state.validation_loss:.4f}" in card
    last, exported = (folder / f"{of}/transformer" for of in ("runs/heart/pipeline", "pipelines/heart"))
    weights = [next(each.glob("*.safetensors")).read_bytes() for each in (last, exported)]
    assert weights[0] != weights[1]
    done = run_cli("sample", "pipelines/heart", "--num", "2", cwd=folder)
    assert done.returncode == 0, done.stderr


def test_losses_of_earlier_versions_and_such_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 1, "validation_loss": 2.0},
        {"step": 2, "validation_loss": 2.0, "training_loss": float("nan")},
        {"step": 3, "validation_loss": 1.5, "training_loss": 1.0},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(read_json_lines(file)) == 3
    assert read_losses(file) == [MeasuredLosses(3, 1.5, 1.0)]
