"""Two processes learn what one learns, go on with each other's checkpoints, and survive the death of one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from purrception.storage import read_json_lines
from purrception.training import RunDirectory
from purrception.training.parts import Part
from purrception.utils.errors import InputError
from tests.conftest import run_cli, run_torchrun
from tests.training import two_processes
from tests.training.test_loop import Poison, make_trainer


def losses(run: Path) -> list[float]:
    """Of every step, and the held-out ones."""
    return [
        line[name]
        for line in read_json_lines(RunDirectory(run).metrics_file)
        for name in ("loss", "gradient_norm", "validation_loss")
        if name in line
    ]


def averages(run: Path) -> dict[str, Tensor]:
    """The averaged weights that a run ended with."""
    return load_file(run / "pipeline/transformer/diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def trainings(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of what two processes trained, and of the same by one."""
    out = tmp_path_factory.mktemp("two")
    make_trainer(tiny_run, out / "alone").fit()
    make_trainer(tiny_run, out / "one-then-two").fit(until=4)
    skipping = make_trainer(tiny_run, out / "skipping")
    Poison(skipping, {3}, "gradient")
    skipping.fit()
    for name in ("two-then-one", "skipping-ddp", f"skipping-{two_processes.LARGEST}", *two_processes.SETTINGS):
        (out / name).mkdir(exist_ok=True)
    ended = run_torchrun(Path(two_processes.__file__), tiny_run, out, cwd=out)
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", list(two_processes.SETTINGS))
def test_two_processes_follow_the_loss_curve_of_one(trainings: Path, name: str) -> None:
    alone, together = losses(trainings / "alone"), losses(trainings / name)
    assert len(alone) == 8 + 8 + 2
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", two_processes.LARGEST])
def test_a_step_that_goes_wrong_in_one_process_is_skipped_by_both(trainings: Path, parallel: str) -> None:
    alone, together = trainings / "skipping", trainings / f"skipping-{parallel}"

    def finite(run: Path) -> list[float]:
        return [loss for loss in losses(run) if math.isfinite(loss)]

    assert finite(together) == pytest.approx(finite(alone), rel=1e-5)
    assert [line["step"] for line in read_json_lines(together / "metrics.jsonl") if "skipped" in line] == [3]


in_shards = pytest.mark.skipif(not two_processes.IN_SHARDS, reason="this torch's FSDP2 needs a GPU")


def test_a_torch_that_cannot_shard_on_processors_says_so(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.cpu.Stream, "record_event", raising=False)
    monkeypatch.setattr("purrception.utils.distributed.count", lambda: 2)
    with pytest.raises(InputError, match=r"parallel fsdp on CPUs needs a newer torch than .*: use ddp or GPUs"):
        make_trainer(tiny_run, tmp_path, parallel="fsdp")


@in_shards
@pytest.mark.slow
def test_shards_are_saved_by_the_processes_that_hold_them(trainings: Path) -> None:
    parts = trainings / "fsdp" / "checkpoints" / "step-00000008"
    first, second = (load_file(path) for path in sorted((parts / "network").iterdir()))
    weight = "backbone.blocks.0.mlp.0.weight"
    assert len(first[weight]) == len(second[weight]) == 64  # of 128 rows


@pytest.mark.slow
def test_one_process_goes_on_with_the_checkpoint_of_two(tiny_run: Path, trainings: Path) -> None:
    following = make_trainer(tiny_run, trainings / "two-then-one")
    checkpoint = following.checkpoints.latest()
    assert checkpoint is not None
    assert checkpoint.state.step == 4
    following.restore(checkpoint)
    following.fit()
    assert losses(trainings / "two-then-one") == pytest.approx(losses(trainings / "alone"), rel=1e-5)


@pytest.mark.slow
def test_two_processes_go_on_with_the_checkpoint_of_one(trainings: Path) -> None:
    assert losses(trainings / "one-then-two") == pytest.approx(losses(trainings / "alone"), rel=1e-5)


@in_shards
@pytest.mark.slow
def test_torch_reads_our_shards_and_we_read_those_of_torch(trainings: Path) -> None:
    storage = pytest.importorskip("torch.distributed.checkpoint.hf_storage", reason="newer torch alone has it")
    from torch.distributed.checkpoint import load

    ours, by_torch = (Part(trainings / writer / "network") for writer in ("by-us", "by-torch"))
    assert ours.sizes == by_torch.sizes
    assert len(ours.pieces["backbone.blocks.0.mlp.0.weight"]) == 2
    read: list[dict[str, Tensor]] = []
    for part in (ours, by_torch):
        read.append({name: torch.full(size, torch.nan) for name, size in part.sizes.items()})
        part.read(read[-1])
    read.append({name: torch.full(size, torch.nan) for name, size in ours.sizes.items()})
    load(
        read[-1],
        storage_reader=storage.HuggingFaceStorageReader(str(trainings / "by-us" / "network")),
        no_dist=True,
    )
    for name, tensor in read[0].items():
        assert torch.equal(tensor, read[1][name]), name
        assert torch.equal(tensor, read[2][name]), name


KILL_ONE = """
import os, signal, sys
from purrception.cli import main
from purrception.training.loop import Trainer
step = Trainer._step
def step_or_die(self):
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and self.state.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)
Trainer._step = step_or_die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_run_that_lost_a_process_ends_with_the_same_weights(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "kill_one.py"
    script.write_text(KILL_ONE)
    shared = (
        "train",
        tiny_run / "config.yaml",
        "--runs",
        tmp_path,
        "--data.tokens",
        tiny_run / "tokens",
        "--tokenizer.path",
        tiny_run / "tokenizer",
        "--training.parallel",
        two_processes.LARGEST,
    )
    whole = run_torchrun("-m", "--", "purrception", *shared, "--name", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    refused = run_torchrun(script, *shared, "--name", "killed", cwd=tmp_path, options=["--max-restarts", "1"])
    assert "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in refused.stderr
    assert not (tmp_path / "killed").exists()
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    killed = run_torchrun(script, *shared, "--name", "killed", cwd=tmp_path, options=["--max-restarts", "2"])
    assert killed.returncode == 0, killed.stderr
    assert "SIGKILL" in killed.stderr or "exitcode: -9" in killed.stderr, killed.stderr
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    undisturbed, disturbed = averages(tmp_path / "whole"), averages(tmp_path / "killed")
    assert all(torch.equal(undisturbed[name], disturbed[name]) for name in undisturbed)


@pytest.mark.slow
def test_two_processes_sample_the_images_of_one(tiny_run: Path, tmp_path: Path) -> None:
    options = ("--num", "64", "--seed", "5")
    alone = run_cli("sample", tiny_run, *options, "--out", "one", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    together = run_torchrun("-m", "--", "purrception", "sample", tiny_run, *options, "--out", "two", cwd=tmp_path)
    assert together.returncode == 0, together.stderr
    images = sorted(path.name for path in (tmp_path / "one").glob("*.png"))
    assert len(images) >= 64
    for name in images:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    manifests = [json.loads((tmp_path / folder / "manifest.json").read_text()) for folder in ("one", "two")]
    assert manifests[0] == manifests[1]


def test_a_batch_that_cannot_be_shared_is_refused(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purrception.utils.distributed.count", lambda: 3)
    message = r"training.accumulation must be a multiple of the number of processes; given 3 .* 8"
    with pytest.raises(InputError, match=message):
        make_trainer(tiny_run, tmp_path)
