"""Weights that are no numbers are refused at every door, naming the tensor."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from purrception import PurrceptionPipeline
from purrception.evaluation.extractors.classifier import ImageClassifier, load_classifier, save_classifier
from purrception.experiment.saved_run import load_pipeline
from purrception.storage.finite import require_finite
from purrception.tokenizers import VQTokenizer
from purrception.tokenizers.checkpoint import Progress, latest_checkpoint, save_checkpoint
from purrception.tokens import Manifest, Standardisation
from purrception.training.checkpoint import CheckpointStore
from purrception.utils.errors import InputError


def spoil(folder: Path, name: str, value: float = math.nan) -> None:
    """Put one value into a tensor of the safetensors file in a folder."""
    path = next(folder.glob("*.safetensors"))
    tensors = load_file(path)
    tensors[name].view(-1)[3] = value
    save_file(tensors, path, metadata={"format": "pt"})


def test_tensors_are_named_with_how_many_values_are_bad() -> None:
    good = {
        "large": torch.full((4,), 3e38),  # finite, though the sum is not
        "half": torch.full((100,), 6e4, dtype=torch.float16),
        "indices": torch.arange(3),
        "none": torch.zeros(0),
    }
    require_finite(good, "m.pt")
    bad = good | {"a": torch.tensor([1.0, math.nan, math.inf]), "b": torch.tensor([math.inf, -math.inf])}
    with pytest.raises(InputError, match=r"^m\.pt holds .* infinite, in a \(2 of 3\), b \(2 of 2\): "):
        require_finite(bad, "m.pt")


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_tokenizer_and_a_pipeline_are_refused(tiny_run: Path, tmp_path: Path, value: float) -> None:
    code = "quantize.embedding.weight"
    shutil.copytree(tiny_run / "tokenizer", tmp_path / "tokenizer")
    spoil(tmp_path / "tokenizer", code, value)
    with pytest.raises(InputError, match=rf"tokenizer: .*{code} \(1 of 48\)"):
        VQTokenizer.load(tmp_path / "tokenizer", verify=False)
    broken = VQTokenizer.load(tiny_run / "tokenizer").vq
    nn.init.constant_(broken.encoder.conv_in.bias, value)
    with pytest.raises(InputError, match="conv_in"):
        VQTokenizer(broken)
    for part, name in (("vqvae", code), ("transformer", "head.linear.weight")):
        folder = tmp_path / part
        shutil.copytree(tiny_run / "pipeline", folder)
        spoil(folder / part, name, value)
        with pytest.raises(InputError, match=name):
            PurrceptionPipeline.from_pretrained(folder, verify=False)


def test_checkpoints_of_both_trainings_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    network = load_pipeline(run).transformer
    for part in ("network", "ema"):
        checkpoint = CheckpointStore(run / "checkpoints").latest()
        assert checkpoint is not None
        spoil(checkpoint.folder / part, "head.linear.weight")
        with pytest.raises(InputError, match=rf"{part} is missing or damaged .*head\.linear\.weight.* go on from"):
            checkpoint.load_network(network, ema=part == "ema")
    save_checkpoint(tmp_path, Progress(1, "", {}, 0.1), {"vq": {"a": torch.tensor([math.nan])}})
    with pytest.raises(InputError, match=r"is damaged .*vq/a \(1 of 1\).* bring back one that is whole"):
        latest_checkpoint(tmp_path)


def test_a_classifier_is_refused(tmp_path: Path) -> None:
    model = ImageClassifier(1, 8, 2, 16)
    next(model.parameters()).data.fill_(math.nan)
    save_classifier(model, tmp_path / "classifier.safetensors")
    with pytest.raises(InputError, match=r"classifier\.safetensors holds values that are NaN"):
        load_classifier(tmp_path / "classifier.safetensors")


@pytest.mark.parametrize("spoiled", [lambda s: s | {"std": math.nan}, lambda s: s | {"mean": [0, math.inf, 0]}])
def test_figures_that_standardise_are_finite(
    tiny_run: Path, tmp_path: Path, spoiled: Callable[[dict[str, object]], dict[str, object]]
) -> None:
    manifest = json.loads((tiny_run / "tokens/train/manifest.json").read_text())
    manifest["standardisation"] = spoiled(manifest["standardisation"])
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"is not a token manifest.*finite means"):
        Manifest.read(tmp_path)
    with pytest.raises(InputError, match="finite means and a positive deviation"):
        Standardisation((math.nan, 0.0), 1.0)
