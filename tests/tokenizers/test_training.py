"""Training a tokenizer: losses, resumption, a frozen codebook, several processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from purrception.cli import main
from purrception.data import DataConfig, ImageSource, images_to_tensor, load_split, open_images
from purrception.tokenizers import (
    PUBLIC_TOKENIZERS,
    AdversarialConfig,
    LossConfig,
    TokenizerTrainingConfig,
    VQConfig,
    VQTokenizer,
    train_tokenizer,
)
from purrception.tokenizers.adversarial import PatchDiscriminator, adaptive_weight, hinge_loss
from purrception.tokenizers.checkpoint import latest_checkpoint
from purrception.tokenizers.training import TokenizerTrainer
from purrception.utils.errors import InputError
from tests.conftest import run_torchrun
from tests.forked import python

MODEL = VQConfig(codebook_size=16, codebook_dim=3, channels=(8, 8))
CONFIG = TokenizerTrainingConfig(steps=6, batch_size=8, report_every=2, checkpoint_every=2)
ADVERSARIAL = AdversarialConfig(weight=0.5, start=1, channels=8, layers=2)


@pytest.fixture(scope="module")
def source() -> ImageSource:
    return open_images(DataConfig(), "train")


@pytest.fixture(scope="module")
def start(source: ImageSource, tmp_path_factory: pytest.TempPathFactory) -> VQTokenizer:
    config = replace(CONFIG, steps=20)
    return train_tokenizer(MODEL, config, source, source, tmp_path_factory.mktemp("start"), seed=5)


class InterruptedTrainingError(Exception):
    """Stands for whatever stops a training."""


class Failing:
    """An image source that fails at the n-th image it is asked for."""

    class_names: tuple[str, ...] = ()

    def __init__(self, inner: ImageSource, reads: int) -> None:
        self._inner, self._reads = inner, reads

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self._reads -= 1
        if self._reads < 0:
            raise InterruptedTrainingError
        return self._inner[index]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def figures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ({}, {"adversarial": ADVERSARIAL}),
        ({}, {"quantiser": "cosine", "rotation_trick": False}),
        ({}, {"quantiser": "simvq"}),
        ({"codebook_size": 27}, {"quantiser": "fsq", "fsq_levels": (3, 3, 3)}),
    ],
)
def test_an_interrupted_training_ends_as_an_undisturbed_one(
    model: dict[str, Any], changes: dict[str, Any], source: ImageSource, tmp_path: Path
) -> None:
    vq_config, config = replace(MODEL, **model), replace(CONFIG, **changes)
    whole = train_tokenizer(vq_config, config, source, source, tmp_path / "whole")
    with pytest.raises(InterruptedTrainingError):
        train_tokenizer(vq_config, config, Failing(source, 5 * 8 + 3), source, tmp_path / "halves")
    assert not (tmp_path / "halves" / "config.json").exists()
    checkpoint = latest_checkpoint(tmp_path / "halves" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.progress.step == 4
    torch.manual_seed(99)  # what the second process happens to hold must not matter
    train_tokenizer(vq_config, config, source, source, tmp_path / "halves")
    assert files(tmp_path / "whole") == files(tmp_path / "halves")
    assert not (tmp_path / "halves" / "checkpoints").exists()
    assert [line["step"] for line in figures(tmp_path / "whole")] == [2, 4, 6]
    origin = json.loads((tmp_path / "whole" / "origin.json").read_text())
    assert origin["quantiser"] == config.quantiser
    assert origin["codebook_normalised"] == (config.quantiser == "cosine")
    reloaded = VQTokenizer.load(tmp_path / "halves")
    images = load_split(DataConfig(), "test")[0][:20]
    assert torch.equal(reloaded.encode(images), whole.encode(images))


KILL_AFTER_SAVE = """
import os, signal, sys
import purrception.tokenizers.checkpoint as checkpoint
from purrception.cli import main
save, calls = checkpoint.save_file, [0]
def save_and_die(tensors, path, **options):
    calls[0] += 1
    save(tensors, path, **options)
    if calls[0] == 2:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save_file = save_and_die
main(sys.argv[1:])
"""
OPTIONS = [
    "--model.codebook-size",
    "16",
    "--model.codebook-dim",
    "3",
    "--model.channels",
    "8",
    "8",
    "--training.steps",
    "6",
    "--training.batch-size",
    "8",
    "--training.checkpoint-every",
    "2",
    "--training.report-every",
    "1",
    "--training.adversarial.weight",
    "0.5",
    "--training.adversarial.start",
    "1",
    "--training.adversarial.channels",
    "8",
    "--training.adversarial.layers",
    "2",
    "--seed",
    "3",
]


@pytest.mark.slow
def test_a_training_killed_while_saving_resumes_to_the_same_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = subprocess.run(
        [python(), "-c", KILL_AFTER_SAVE, "tokenizer", "train", "digits", *OPTIONS, "--out", "killed"],
        cwd=tmp_path,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "killed"
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert [re.sub(r"\.\d+\.", ".", name) for name in left] == [
        ".step-00000004.safetensors.partial",
        "step-00000002.safetensors",
    ]
    assert main(["tokenizer", "train", "--resume", str(folder)]) == 0
    assert main(["tokenizer", "train", "digits", *OPTIONS, "--out", str(tmp_path / "whole")]) == 0
    assert "next: purrception tokenizer report" in capsys.readouterr().out
    assert files(folder) == files(tmp_path / "whole")
    assert main(["tokenizer", "train", "--resume", str(folder)]) == 0  # nothing left to do
    assert files(folder) == files(tmp_path / "whole")
    assert main(["tokenizer", "train", "digits", *OPTIONS, "--out", str(folder)]) == 2
    assert "already there and not empty" in capsys.readouterr().err


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def test_a_checkpoint_of_another_training_is_refused_and_a_damaged_one_gives_way(
    source: ImageSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tokenizer(MODEL, CONFIG, source, source, tmp_path / "whole")
    with pytest.raises(InterruptedTrainingError):
        train_tokenizer(MODEL, CONFIG, Failing(source, 5 * 8), source, tmp_path / "cut")
    with pytest.raises(InputError, match="another configuration or seed"):
        train_tokenizer(MODEL, replace(CONFIG, commitment=0.5), source, source, tmp_path / "cut")
    flip_a_bit(tmp_path / "cut/checkpoints/step-00000004.safetensors")
    train_tokenizer(MODEL, CONFIG, source, source, tmp_path / "cut")
    assert "step-00000004.safetensors is damaged (its SHA-256" in capsys.readouterr().err
    assert files(tmp_path / "whole") == files(tmp_path / "cut")
    with pytest.raises(InterruptedTrainingError):
        train_tokenizer(MODEL, CONFIG, Failing(source, 5 * 8), source, tmp_path / "lost")
    for file in (tmp_path / "lost/checkpoints").iterdir():
        flip_a_bit(file)
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of the checkpoints in .*remove that folder to train from the"):
            train_tokenizer(MODEL, CONFIG, source, source, tmp_path / "lost")


def test_damaged_lines_of_metrics_stop_no_training_that_goes_on(
    source: ImageSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InterruptedTrainingError):
        train_tokenizer(MODEL, CONFIG, Failing(source, 5 * 8), source, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{}\n[1]\nnonsense\n{"step": 9, "psnr": 1.0}\n')
    train_tokenizer(MODEL, CONFIG, source, source, tmp_path)
    assert "3 of the lines" in capsys.readouterr().err
    assert [line["step"] for line in figures(tmp_path)] == [2, 4, 6]


def test_weights_that_a_step_has_spoiled_are_never_saved(
    source: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TokenizerTrainer._step

    def leap(trainer: TokenizerTrainer) -> dict[str, torch.Tensor]:
        if trainer.step > 1:
            trainer.optimizer.param_groups[0]["lr"] = 1e37
        return step(trainer)

    monkeypatch.setattr(TokenizerTrainer, "_step", leap)
    config = replace(CONFIG, checkpoint_every=1)
    with pytest.raises(
        InputError,
        match=r"not finite, so that training stopped: lower learning_rate; the checkpoint of step [12] is",
    ):
        train_tokenizer(MODEL, config, source, source, tmp_path)
    kept = latest_checkpoint(tmp_path / "checkpoints")
    assert kept is not None
    assert all(tensor.isfinite().all() for tensor in kept.tensors.values())
    assert not (tmp_path / "config.json").exists()


def test_the_decoder_alone_learns_and_every_image_keeps_its_codes(
    start: VQTokenizer, source: ImageSource, tmp_path: Path
) -> None:
    config = replace(CONFIG, steps=40, learning_rate=2e-3, report_every=40)
    tuned = train_tokenizer(MODEL, config, source, source, tmp_path, start=start, decoder_only=True)
    images = load_split(DataConfig(), "test")[0]
    noise = torch.rand(50, 1, 16, 16) * 2 - 1
    for some in (images, noise):
        assert torch.equal(tuned.encode(some), start.encode(some))
    assert torch.equal(tuned.codebook, start.codebook)
    indices = start.encode(images)
    before, after = (F.mse_loss(tokenizer.decode(indices), images) for tokenizer in (start, tuned))
    assert after < 0.9 * before
    with pytest.raises(InputError, match="give it with init_from"):
        train_tokenizer(MODEL, config, source, source, tmp_path / "x", decoder_only=True)
    other = replace(MODEL, codebook_size=32)
    with pytest.raises(InputError, match="the tokenizer to start from has 1 image channels"):
        train_tokenizer(other, config, source, source, tmp_path / "x", start=start)


def test_going_on_from_a_tokenizer_begins_where_it_ended(
    start: VQTokenizer, source: ImageSource, tmp_path: Path
) -> None:
    config = replace(CONFIG, steps=1, learning_rate=1e-9, codebook_decay=0.999, dead_code_threshold=0)
    again = train_tokenizer(MODEL, config, source, source, tmp_path, start=start)
    images = load_split(DataConfig(), "test")[0][:100]
    assert (again.encode(images) == start.encode(images)).float().mean() > 0.95
    torch.testing.assert_close(again.codebook, start.codebook, atol=0.02, rtol=0.02)


def test_losses_are_weighted_as_asked(source: ImageSource, start: VQTokenizer, tmp_path: Path) -> None:
    def first_loss(name: str, **weights: float) -> float:
        config = replace(CONFIG, steps=1, loss=LossConfig(**weights), commitment=0.0)
        train_tokenizer(MODEL, config, source, source, tmp_path / name, start=start, decoder_only=True)
        return float(figures(tmp_path / name)[0]["loss"])

    both = first_loss("both", l2=2.0, l1=3.0)
    assert both == pytest.approx(2 * first_loss("l2", l2=1.0, l1=0.0) + 3 * first_loss("l1", l2=0.0, l1=1.0))
    with pytest.raises(InputError, match="not all 0"):
        LossConfig(l2=0.0, l1=0.0)


def test_a_training_that_diverges_says_so(source: ImageSource, tmp_path: Path) -> None:
    config = replace(CONFIG, loss=LossConfig(l2=9e18))
    with pytest.raises(InputError, match=r"gradient of step 1 is not finite.*learning_rate"):
        train_tokenizer(MODEL, config, source, source, tmp_path)


def test_the_discriminator_learns_to_tell_and_waits_for_its_start(source: ImageSource, tmp_path: Path) -> None:
    config = replace(CONFIG, adversarial=replace(ADVERSARIAL, start=3), report_every=1)
    train_tokenizer(MODEL, config, source, source, tmp_path)
    assert [("discriminator" in line) for line in figures(tmp_path)] == [False] * 3 + [True] * 3
    real, fake = torch.rand(8, 1, 16, 16), torch.rand(8, 1, 16, 16) - 1
    judge = PatchDiscriminator(ADVERSARIAL, channels=1)
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    for _ in range(20):
        loss = hinge_loss(judge(real), judge(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert judge(real).mean() > 0.5 > -0.5 > judge(fake).mean()
    assert judge(real).shape[-1] == ADVERSARIAL.score_size(16)
    assert float(hinge_loss(torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 1.0]))) == pytest.approx(
        0.5 * (0.25 + 1)
    )


def test_the_adaptive_weight_levels_the_gradients_of_the_last_layer() -> None:
    layer = torch.randn(4, 3, requires_grad=True)
    x = torch.randn(10, 4)
    reconstruction, adversarial = (x @ layer).square().mean(), 100 * (x @ layer).sum()
    weight = adaptive_weight(reconstruction, adversarial, layer)
    (a,) = torch.autograd.grad(reconstruction, layer, retain_graph=True)
    (b,) = torch.autograd.grad(weight * adversarial, layer)
    assert float(a.norm()) == pytest.approx(float(b.norm()), rel=1e-4)
    assert not weight.requires_grad


TWO_PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from purrception.utils import distributed
from purrception.data import DataConfig, open_images
from purrception.tokenizers import VQTokenizer, train_tokenizer
from tests.tokenizers.test_training import ALIKE, CONFIG, MODEL, RESTLESS

folder = Path(sys.argv[1])
source = open_images(DataConfig(), "train")
with distributed.joined(torch.device("cpu")):
    start = VQTokenizer.load(folder / "start")
    rank = distributed.rank()
    for name, config, begin in (("alike", ALIKE, start), ("restless", RESTLESS, None)):
        out = train_tokenizer(MODEL, config, source, source, folder / name, start=begin)
        torch.save(out.vq.state_dict(), folder / f"{name}-{rank}.pt")
"""
ALIKE = replace(
    CONFIG, steps=3, report_every=1, learning_rate=1e-4, dead_code_threshold=0.0, adversarial=ADVERSARIAL
)
RESTLESS = replace(CONFIG, steps=4, dead_code_threshold=8.0)
"""Eight images have 512 sites, 32 a code: some codes restart at every step."""


@pytest.mark.slow
def test_two_processes_agree_with_each_other_and_with_one(
    start: VQTokenizer, source: ImageSource, tmp_path: Path
) -> None:
    start.save(tmp_path / "start")
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    done = run_torchrun("script.py", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    codebook = "quantize.embedding.weight"
    for name in ("alike", "restless"):
        ranks = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
        assert all(torch.equal(ranks[0][key], ranks[1][key]) for key in ranks[0])
        assert len(ranks[0][codebook].unique(dim=0)) == 16
    one = train_tokenizer(MODEL, ALIKE, source, source, tmp_path / "one", start=start)
    two = torch.load(tmp_path / "alike-0.pt", weights_only=True)
    torch.testing.assert_close(two[codebook], one.codebook, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(one.codebook, start.codebook, atol=1e-3)
    for ours, theirs in zip(figures(tmp_path / "one"), figures(tmp_path / "alike"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert "adaptive_weight" in figures(tmp_path / "one")[-1]


def test_a_batch_that_processes_cannot_share_is_refused(
    source: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purrception.utils.distributed.count", lambda: 3)
    with pytest.raises(InputError, match="multiple of the number of processes; given 8 and 3"):
        train_tokenizer(MODEL, CONFIG, source, source, tmp_path)


def test_the_decoder_of_a_converted_tokenizer_can_be_tuned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    public = replace(PUBLIC_TOKENIZERS["vq-f8"], base=32, codebook_size=16)  # attention in its coarsest blocks
    vq = public.build()
    torch.nn.init.normal_(vq.quantize.embedding.weight, std=0.3)
    start = VQTokenizer(vq)
    source = open_images(DataConfig(image_size=16, channels=3), "train")
    config = TokenizerTrainingConfig(steps=2, batch_size=4, report_every=2)
    model = VQConfig.of(start.vq)
    tuned = train_tokenizer(model, config, source, source, tmp_path, start=start, decoder_only=True)
    images = images_to_tensor([source[i][0] for i in range(8)])
    indices = start.encode(images)
    assert torch.equal(tuned.encode(images), indices)
    assert not torch.equal(tuned.decode(indices), start.decode(indices))
    assert VQTokenizer.load(tmp_path).fingerprint == tuned.fingerprint
