"""The loop: exact resumption, skipped steps, and what it records."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from purrception.cli import main
from purrception.experiment.config import RunConfig, load_config
from purrception.experiment.run import build_trainer
from purrception.flow import Losses, ObjectiveConfig, TrainingBatch
from purrception.storage import read_json_lines
from purrception.tokenizers import VQTokenizer
from purrception.tokens import TokenDataset
from purrception.training import CheckpointStore, RunDirectory, Trainer, TrainingConfig, TrainingDivergedError
from purrception.training.batches import TrainingBatches
from purrception.training.metrics import MetricsLog
from purrception.utils.errors import InputError
from purrception.utils.progress import ProgressBar
from tests.conftest import run_cli
from tests.forked import python


def make_trainer(tiny_run: Path, folder: Path, objective: str = "purrception", **training: Any) -> Trainer:
    """A trainer on the tokens of the tiny run that writes elsewhere."""
    source = RunDirectory.open(tiny_run)
    config: RunConfig = load_config(source.config_file)
    config = replace(
        config, training=replace(config.training, **training), objective=ObjectiveConfig(name=objective)
    )
    train, held_out = (TokenDataset(source.tokens / split) for split in ("train", "test"))
    folder.mkdir(exist_ok=True)
    return build_trainer(config, RunDirectory(folder), VQTokenizer.load(source.tokenizer), train, held_out)


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """Every number that training has produced."""
    tensors = {f"net.{name}": value for name, value in trainer.network.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in trainer.ema.average.state_dict().items()}
    for name, parameter in trainer.network.named_parameters():
        tensors |= {f"opt.{name}.{key}": value for key, value in trainer.optimizer.state[parameter].items()}
    return tensors


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_two_halves_equal_the_whole_bit_for_bit(tiny_run: Path, tmp_path: Path) -> None:
    whole = make_trainer(tiny_run, tmp_path / "whole")
    whole.fit()
    first = make_trainer(tiny_run, tmp_path / "halves")
    first.fit(until=4)
    second = make_trainer(tiny_run, tmp_path / "halves")
    checkpoint = second.checkpoints.latest()
    assert checkpoint is not None
    second.restore(checkpoint)
    assert_same(everything(first), everything(second))
    second.fit()
    assert_same(everything(whole), everything(second))
    assert whole.state == second.state

    def curve(folder: str) -> list[dict[str, Any]]:
        lines = read_json_lines(tmp_path / folder / "metrics.jsonl")
        return [{key: value for key, value in line.items() if key != "codes_per_second"} for line in lines]

    assert curve("whole") == curve("halves")


KILL_IN_SAVE = """
import os, signal, sys
import purrception.training.checkpoint as checkpoint
from purrception.cli import main
write, calls = checkpoint.write_part, [0]
def write_and_die(folder, tensors):
    calls[0] += 1
    digests = write(folder, tensors)
    if calls[0] == 5:  # the second part of the second checkpoint
        path = next(folder.iterdir())
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return digests
checkpoint.write_part = write_and_die
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_run_killed_while_saving_resumes_to_the_same_weights(tiny_run: Path, tmp_path: Path) -> None:
    arguments = ["train", str(tiny_run / "config.yaml"), "--runs", str(tmp_path), "--name", "killed"]
    killed = subprocess.run(
        [python(), "-c", KILL_IN_SAVE, *arguments], capture_output=True, timeout=300, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    run = tmp_path / "killed"
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert left == [".partial-step-00000008", "step-00000004"]
    assert not (run / "pipeline").exists()
    resumed = run_cli("train", "--resume", run, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    for part in ("network", "ema", "optimizer"):
        (here,), (there,) = ((root / "checkpoints/step-00000008" / part).iterdir() for root in (run, tiny_run))
        assert_same(load_file(here), load_file(there))
    assert not list((run / "checkpoints").glob(".partial*"))
    weights = "pipeline/transformer/diffusion_pytorch_model.safetensors"
    assert (run / weights).read_bytes() == (tiny_run / weights).read_bytes()


class Poison:
    """Wraps a trainer's objective so that chosen steps go wrong, in the loss or in the gradient alone."""

    def __init__(self, trainer: Trainer, steps: set[int], where: str) -> None:
        self._inner, self._trainer, self._steps, self._where = trainer.objective, trainer, steps, where
        getattr(trainer._loss, "module", trainer._loss).objective = self

    def loss(self, network: Any, batch: TrainingBatch) -> Losses:
        losses = self._inner.loss(network, batch)
        if self._trainer.state.step + 1 not in self._steps or not network.training:
            return losses
        if self._where == "loss":
            return Losses(losses.total * math.nan, losses.figures)
        bad = next(network.parameters())
        return Losses(losses.total + (bad - bad.detach()).abs().sqrt().sum(), losses.figures)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_recorded(
    tiny_run: Path, tmp_path: Path, where: str
) -> None:
    trainer = make_trainer(tiny_run, tmp_path, checkpoint_every=100)
    Poison(trainer, {3}, where)
    trainer.fit(until=2)
    before = everything(trainer)
    before = {name: value.clone() for name, value in before.items()}
    trainer.fit(until=3)
    assert_same(before, everything(trainer))
    assert (trainer.state.step, trainer.state.updates, trainer.state.skipped) == (3, 2, 1)
    skips = [line for line in read_json_lines(tmp_path / "metrics.jsonl") if "skipped" in line]
    assert len(skips) == 1
    assert skips[0]["rows"] == trainer.batches.rows(2 * 8, 8).tolist()
    assert "nan" in skips[0]["reason"]
    trainer.fit()
    assert trainer.state.skipped_in_a_row == 0
    assert all(value.isfinite().all() for value in everything(trainer).values())


def test_ten_bad_steps_in_a_row_stop_with_an_explanation(tiny_run: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_run, tmp_path, steps=30, checkpoint_every=100)
    Poison(trainer, set(range(5, 30)), "loss")
    with pytest.raises(TrainingDivergedError, match=r"10 steps in a row up to step 14 .* Lower training"):
        trainer.fit()
    assert all(value.isfinite().all() for value in trainer.network.state_dict().values())


class ReadsBack(TorchDispatchMode):
    """Counts the numbers that come back from the device: each makes the processor wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("objective", ["purrception", "cfm", "dfm"])
def test_no_number_of_a_step_comes_back_before_it_is_shown(tiny_run: Path, tmp_path: Path, objective: str) -> None:
    trainer = make_trainer(tiny_run, tmp_path, objective=objective, accumulation=2)
    trainer.try_step()  # the optimizer's state is made in the first
    trainer._step()
    with ReadsBack() as reads:
        for _ in range(3):
            trainer._step()
    assert reads.count == 0
    assert trainer.state.updates == 1
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with ProgressBar("test", 1, silent=True) as bar, ReadsBack() as reads:
        metrics = trainer._read_metrics(log, bar)
    assert reads.count == 0  # one copy of all, which is no read of a single number
    assert math.isfinite(metrics["loss"])
    assert trainer.state.updates == int(trainer._updates) == 5


def test_skips_are_found_and_counted_when_steps_are_looked_at_late(tiny_run: Path, tmp_path: Path) -> None:
    late = {"log_every": 8, "validate_every": 8, "sample_every": 8, "checkpoint_every": 8, "steps": 8}
    trainer, seldom = (
        make_trainer(tiny_run, tmp_path / "each", steps=8),
        make_trainer(tiny_run, tmp_path / "late", **late),
    )
    for one in (trainer, seldom):
        Poison(one, {3, 4, 7}, "gradient")
        one.fit()
    assert_same(everything(trainer), everything(seldom))
    assert (trainer.state.updates, trainer.state.skipped) == (seldom.state.updates, seldom.state.skipped) == (5, 3)
    skips = [
        [line for line in read_json_lines(tmp_path / folder / "metrics.jsonl") if "skipped" in line]
        for folder in ("each", "late")
    ]
    assert skips[0] == skips[1]
    assert [line["step"] for line in skips[0]] == [3, 4, 7]


def test_accumulation_gives_the_gradient_of_the_whole_batch(tiny_run: Path, tmp_path: Path) -> None:
    gradients = []
    for accumulation in (1, 4):
        trainer = make_trainer(tiny_run, tmp_path / str(accumulation), accumulation=accumulation)
        torch.nn.init.normal_(trainer.network.head.linear.weight, std=0.1)
        torch.manual_seed(0)
        for parameter in trainer.network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        metrics = trainer._accumulate()
        gradients.append([parameter.grad.clone() for parameter in trainer.network.parameters()])  # type: ignore[union-attr]
        assert metrics["gradient_norm"] > 0
        assert math.isfinite(metrics["loss"])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_samples_do_not_depend_on_how_the_stream_is_cut(tiny_run: Path) -> None:
    dataset = TokenDataset(RunDirectory(tiny_run).tokens / "train")
    batches = TrainingBatches(dataset, seed=3, label_dropout=0.1)
    whole = batches.batch(100, 12)
    parts = [TrainingBatches(dataset, 3, 0.1).batch(100 + start, 4) for start in (0, 4, 8)]
    for name in ("indices", "labels", "noise", "time"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(getattr(whole, name), joined)


def test_the_null_class_is_trained_at_the_rate_asked_for(tiny_run: Path) -> None:
    dataset = TokenDataset(RunDirectory(tiny_run).tokens / "train")
    batch = TrainingBatches(dataset, seed=0, label_dropout=0.1).batch(0, 4000)
    assert (batch.labels == 10).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert batch.time.dtype == torch.float32
    assert len(batch.time.unique()) > 3900  # not the 256 values of bfloat16
    assert 0 <= batch.time.min() < 0.01 < 0.99 < batch.time.max() < 1


def test_metrics_name_what_the_loop_watches(tiny_run: Path) -> None:
    lines = read_json_lines(tiny_run / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 9))
    wanted = {"loss", "cross_entropy", "bits_per_code", "logsumexp", "gradient_norm", "codes_per_second"}
    assert wanted <= steps[0].keys()
    assert steps[0]["cross_entropy"] == pytest.approx(math.log(16), rel=1e-4)
    assert steps[0]["bits_per_code"] == pytest.approx(4, rel=1e-4)
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 8]
    assert list(tiny_run.glob("events.out.tfevents.*"))
    assert [path.name for path in sorted((tiny_run / "samples").iterdir())] == [
        "step-00000004.png",
        "step-00000008.png",
    ]


def test_a_tried_step_writes_no_figures(tiny_run: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_run, tmp_path)
    assert math.isfinite(trainer.try_step()["loss"])
    assert not read_json_lines(trainer.run.metrics_file)
    assert not list(trainer.run.metrics_file.parent.rglob("events.out.tfevents.*"))


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": n}) + "\n" for n in (1, 2, 3)) + '{"step": 4, "lo')
    MetricsLog(file, step=2).write(3, {"loss": 1.0})
    assert read_json_lines(file) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]


def test_the_latest_and_the_best_checkpoints_stay(tiny_run: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_run, tmp_path)
    trainer.fit(until=1)
    store = CheckpointStore(tmp_path / "kept", keep=2)
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 2.5), (5, 2.2)):
        state = replace(trainer.state, step=step, validation_loss=loss)
        store.save(state, trainer.network, trainer.ema.average, trainer.optimizer)
    assert [item.state.step for item in store.all()] == [2, 4, 5]
    best = store.best()
    assert best is not None
    assert best.state.step == 2


def test_damaged_and_foreign_checkpoints_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_run, tmp_path)
    trainer.fit(until=1)
    checkpoint = trainer.checkpoints.latest()
    assert checkpoint is not None
    trainer.state = replace(trainer.state, tokenizer_hash="another")
    with pytest.raises(InputError, match="tokenizer_hash"):
        trainer.restore(checkpoint)
    trainer.state = replace(checkpoint.state)
    (weights,) = (checkpoint.folder / "ema").iterdir()
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(InputError, match=r"ema is missing or damaged"):
        trainer.restore(checkpoint)


def flip_a_bit(file: Path, at: float = 0.9) -> None:
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "a bit of the weights": lambda folder: flip_a_bit(next((folder / "network").iterdir())),
    "a bit of the moments": lambda folder: flip_a_bit(next((folder / "optimizer").iterdir())),
    "averages cut short": lambda folder: os.truncate(next((folder / "ema").iterdir()), 700),
    "a part that is gone": lambda folder: shutil.rmtree(folder / "ema"),
    "a state of another type": lambda folder: (folder / "state.json").write_text('{"step": "8"}'),
    "a state of nothing": lambda folder: (folder / "state.json").write_text(""),
    "an altered step": lambda folder: (folder / "state.json").write_text('{"step": 8, "samples": 3}'),
    "no index of digests any more": lambda folder: (folder / "SHA256SUMS").write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_latest_checkpoint_gives_way_to_the_one_before(
    tiny_run: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run / "checkpoints", tmp_path / "checkpoints")
    DAMAGE[damage](tmp_path / "checkpoints/step-00000008")
    trainer = make_trainer(tiny_run, tmp_path)
    assert trainer.resume()
    assert trainer.state.step == 4
    told = capsys.readouterr().err
    assert "warning: " in told
    assert not ("It is kept as" in told and "to go on from" in told)  # done already is not asked for
    trainer.fit()
    for part in ("network", "ema", "optimizer"):
        (here,), (there,) = ((of / "checkpoints/step-00000008" / part).iterdir() for of in (tmp_path, tiny_run))
        assert_same(load_file(here), load_file(there))


def test_a_damaged_older_checkpoint_is_in_nobody_s_way(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "checkpoints/step-00000004/state.json").write_text("{")
    trainer = make_trainer(tiny_run, tmp_path, steps=12)
    assert trainer.resume()
    assert trainer.state.step == 8
    trainer.fit()
    assert trainer.state.step == 12


def test_where_all_checkpoints_are_damaged_training_does_not_begin_anew(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "checkpoints", tmp_path / "checkpoints")
    flip_a_bit(next((tmp_path / "checkpoints/step-00000008/ema").iterdir()))
    (tmp_path / "checkpoints/step-00000004/state.json").write_text("{")
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of the checkpoints .* can be used .*remove that folder"):
            make_trainer(tiny_run, tmp_path).resume()


def test_the_digests_of_a_checkpoint_can_be_left_out_and_those_of_old_runs_are_not_there(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_run / "checkpoints", tmp_path / "checkpoints")
    latest = tmp_path / "checkpoints/step-00000008"
    flip_a_bit(next((latest / "network").iterdir()))
    with monkeypatch.context() as skipping:
        skipping.setenv("PURRCEPTION_SKIP_DIGESTS", "1")
        assert CheckpointStore(tmp_path / "checkpoints").latest_whole().state.step == 8
    assert CheckpointStore(tmp_path / "checkpoints").latest_whole().state.step == 4
    (latest / "SHA256SUMS").unlink()
    assert CheckpointStore(tmp_path / "checkpoints").latest_whole().state.step == 8


@pytest.mark.parametrize("rate", [1e38, 3e37])
@pytest.mark.parametrize("held_out", [True, False])
def test_weights_that_a_step_has_spoiled_are_never_saved(
    tiny_run: Path, tmp_path: Path, rate: float, held_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tiny_run, tmp_path, steps=3, warmup_steps=0, checkpoint_every=1, keep_checkpoints=1)
    if not held_out:
        trainer.held_out = None
    trainer.fit(until=1)
    monkeypatch.setattr(TrainingConfig, "learning_rate_at", lambda config, step: rate)
    with pytest.raises(TrainingDivergedError, match=r"not saved; the checkpoint of step 1 is whole\. Lower"):
        trainer.fit()
    assert [item.state.step for item in trainer.checkpoints.all()] == [1]
    again = make_trainer(tiny_run, tmp_path, steps=3)
    assert again.resume()
    assert all(value.isfinite().all() for value in everything(again).values())


def test_averages_that_are_not_finite_are_never_saved(tiny_run: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_run, tmp_path, checkpoint_every=1, keep_checkpoints=1)
    trainer.fit(until=1)
    next(trainer.ema.average.parameters()).data.view(-1)[0] = math.inf
    with pytest.raises(TrainingDivergedError, match="not saved; the checkpoint of step 1 is whole"):
        trainer.fit(until=2)
    flip_a_bit(next((tmp_path / "checkpoints/step-00000001/ema").iterdir()))
    with pytest.raises(TrainingDivergedError, match="no whole checkpoint was written before"):
        trainer.fit(until=3)


def test_a_run_whose_last_steps_spoil_its_weights_ends_with_an_error_and_no_pipeline(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = TrainingConfig.learning_rate_at
    monkeypatch.setattr(
        TrainingConfig, "learning_rate_at", lambda config, step: rate(config, step) if step < 6 else 1e38
    )
    assert main(["train", str(tiny_run / "config.yaml"), "--runs", str(tmp_path), "--name", "hot"]) == 2
    said = capsys.readouterr().err
    assert "not saved; the checkpoint of step 4 is whole" in said
    assert not (tmp_path / "hot/pipeline").exists()
    assert [path.name for path in (tmp_path / "hot/checkpoints").iterdir()] == ["step-00000004"]


def test_samples_are_drawn_before_the_checkpoint_so_that_a_kill_between_loses_none(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tiny_run, tmp_path, sample_every=4, checkpoint_every=4)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killing:
        killing.setattr(trainer.checkpoints, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    picture = tmp_path / "samples/step-00000004.png"
    first = picture.read_bytes()
    again = make_trainer(tiny_run, tmp_path, sample_every=4, checkpoint_every=4)
    again.fit(until=4)
    assert picture.read_bytes() == first


def test_a_disk_that_takes_no_more_leaves_the_checkpoints_before_it_whole(tiny_run: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_run, tmp_path)
    trainer.fit(until=1)
    (weights,) = (tmp_path / "checkpoints/step-00000001/network").iterdir()
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (weights.stat().st_size // 2, most))  # stands for a full disk
    try:
        with pytest.raises(InputError, match=r"cannot write the checkpoint .*step-00000002 \(.*File too large"):
            trainer.fit(until=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert [item.state.step for item in trainer.checkpoints.all()] == [1]
    again = make_trainer(tiny_run, tmp_path)
    again.restore(again.checkpoints.all()[0])
    again.fit(until=2)
    assert [item.state.step for item in again.checkpoints.all()] == [1, 2]


def test_learning_rate_warms_up_and_decays() -> None:
    config = TrainingConfig(steps=100, learning_rate=1.0, warmup_steps=10, decay="cosine")
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, abs=0.01)
    assert max(rates) == pytest.approx(rates[10], abs=0.05)
    assert rates[-1] == pytest.approx(0.05, abs=0.01)
    assert replace(config, decay="constant").learning_rate_at(99) == 1.0


def test_settings_that_cannot_run_are_refused() -> None:
    for changes in (
        {"steps": 0},
        {"accumulation": 3},
        {"learning_rate": 0.0},
        {"learning_rate": 1e38},
        {"learning_rate": math.inf},
        {"label_dropout": 1.0},
    ):
        with pytest.raises(InputError, match=f"training.{next(iter(changes))}"):
            TrainingConfig(**changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be used here"):
        TrainingConfig(device="gpux").resolve_device()
