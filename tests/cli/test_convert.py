"""Conversions on the command line: a public file → tokenizer → run, and a public checkpoint → samples."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from purrception.cli import main
from purrception.storage import sha256_of
from purrception.tokenizers import PUBLIC_TOKENIZERS, VQTokenizer
from tests.generation.test_public_checkpoints import HEADS, random_network, save
from tests.tokenizers.reference import random_reference


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A narrow vq-f4, as its authors would publish it."""
    narrow = dataclasses.replace(PUBLIC_TOKENIZERS["vq-f4"], base=32, codebook_size=300)
    monkeypatch.setitem(PUBLIC_TOKENIZERS, "vq-f4", narrow)
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": random_reference("vq-f4").state_dict()}, "model.ckpt")
    return tmp_path / "model.ckpt"


def test_a_public_checkpoint_becomes_a_pipeline_that_samples(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", "convert", "model.ckpt", "--arch", "vq_f4"]) == 0
    assert "300 codes of 3 dimensions, a code for 4×4 pixels: tokenizers/vq-f4" in capsys.readouterr().out
    assert json.loads(Path("tokenizers/vq-f4/origin.json").read_text())["sha256"] == sha256_of(checkpoint)
    assert main(["tokenizer", "convert", "model.ckpt", "--arch", "vq-f4"]) == 2
    assert "already there and not empty" in capsys.readouterr().err

    network = random_network("purrception", size=300)
    save(network, Path("last.pth"))
    arguments = ["convert", "last.pth", "--tokenizer", "tokenizers/vq-f4", "--heads", str(HEADS)]
    assert main(arguments) == 0
    assert "a pipeline of purrception: pipelines/last" in capsys.readouterr().out
    assert (
        main(["sample", "pipelines/last", "--num", "2", "--steps", "2", "--out", "made", "--device", "cpu"]) == 0
    )
    assert len(list(Path("made").rglob("0*.png"))) >= 2
    assert json.loads(Path("made/manifest.json").read_text())["nfe"] == 2
    # without options it samples as the public sampler does
    assert main(["sample", "pipelines/last", "--num", "1", "--out", "plain", "--device", "cpu"]) == 0
    manifest = json.loads(Path("plain/manifest.json").read_text())
    assert (manifest["nfe"], manifest["solver"], manifest["temperature"], manifest["guidance_scale"]) == (
        99,
        "euler",
        1.0,
        1.0,
    )
    Path("other.yaml").write_text("steps: 4\n")
    assert main(["sample", "pipelines/last", "--num", "1", "--preset", "other.yaml", "--out", "preset"]) == 0
    assert json.loads(Path("preset/manifest.json").read_text())["nfe"] == 4
    assert main([*arguments, "--objective", "dfm", "--out", "other"]) == 2
    assert "given the objective 'dfm'" in capsys.readouterr().err
    assert not Path("other").exists()


def test_a_recipe_takes_a_public_file(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures").mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(256, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"pictures/{number}.png")
    options = {
        "data.root": "pictures",
        "data.image-size": 16,
        "data.test-fraction": 0.2,
        "data.flips": False,
        "tokenizer.path": checkpoint,
        "network.depth": 1,
        "network.width": 16,
        "network.heads": 2,
        "training.steps": 2,
        "training.batch-size": 4,
        "training.sample-every": 0,
        "training.device": "cpu",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert main(["train", "folder", "--name", "without", *words]) == 2
    assert "say which tokenizer it holds" in capsys.readouterr().err
    assert not Path("runs").exists()
    assert main(["train", "folder", "--name", "with", *words, "--tokenizer.arch", "vq-f4"]) == 0
    tokenizer = VQTokenizer.load("runs/with/tokenizer")
    assert tokenizer.downsampling == 4
    assert json.loads(Path("runs/with/tokenizer/origin.json").read_text())["arch"] == "vq-f4"
    assert Path("runs/with/pipeline/model_index.json").is_file()
