"""Weights that travel: export, the hub's layout and cache, and training from others' weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import VQModel
from huggingface_hub import ModelCard

from purrception import PurrceptionPipeline, PurrceptionTransformer
from purrception.cli import main
from purrception.data import DataConfig
from purrception.experiment.export import export_run
from purrception.experiment.run import start_run
from purrception.experiment.warm_start import LABEL_EMBEDDING, warm_start
from purrception.models import DiTConfig
from purrception.storage import dump_settings
from purrception.storage.hub import local_folder
from purrception.utils.errors import InputError
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tiny"
    export_run(tiny_run, folder, licence="apache-2.0")
    return folder


def test_an_export_holds_averaged_weights_and_what_describes_them(exported: Path, tiny_run: Path) -> None:
    names = [
        "README.md",
        "SHA256SUMS",
        "config.yaml",
        "model_index.json",
        "pipeline.py",
        "samples.png",
        "scheduler",
        "transformer",
        "vqvae",
    ]
    assert sorted(path.name for path in exported.iterdir()) == names
    assert not list(exported.rglob("*.bin"))
    ours, theirs = (PurrceptionPipeline.from_pretrained(path) for path in (exported, tiny_run / "pipeline"))
    for a, b in zip(ours.transformer.parameters(), theirs.transformer.parameters(), strict=True):
        assert torch.equal(a, b)
    # the parts are ordinary models of diffusers
    assert isinstance(VQModel.from_pretrained(exported, subfolder="vqvae"), VQModel)
    assert isinstance(PurrceptionTransformer.from_pretrained(exported / "transformer"), PurrceptionTransformer)


def test_the_card_is_filled_from_the_run(exported: Path, tiny_run: Path) -> None:
    text = (exported / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "apache-2.0"
    assert head["library_name"] == "purrception"
    assert "model-index" not in head  # it was not evaluated
    for words in (
        "handwritten digits of scikit-learn",
        "trained on the same images as part of the run",
        "8 of 8 steps",
        "16 of 3 dimensions on a grid of 4×4",
        "Held-out loss at the end",
        "purrception train config.yaml",
        PurrceptionPipeline.from_pretrained(exported).tokenizer.fingerprint,
        "![samples](samples.png)",
    ):
        assert words in text, words
    assert str(tiny_run.parent) not in text


def test_the_hub_reads_the_latest_evaluation_off_the_card(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    for number, distance in enumerate((7.0, 1.23456)):
        row = {"images": "generated", "guidance": 1.5, "nfe": 6, "count": 20, "frechet": distance, "recall": 0.5}
        about = {"reference": {"title": "test split of digits"}, "features": {"name": "random"}}
        folder = tmp_path / f"run/evaluation/00{number}"
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps({"manifest": about, "rows": [row, row | {"kid": None}]}))
        (folder / "report.md").write_text("# Evaluation\n")
        os.utime(folder / "report.md", (number, number))
    export_run(tmp_path / "run", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out/README.md")  # as the hub's own client reads it
    assert [result.metric_type for result in card.data.eval_results] == ["frechet", "recall"] * 2
    first = card.data.eval_results[0]
    assert (first.metric_value, first.metric_name) == (1.2346, "Fréchet distance (random features)")
    assert first.metric_args == {"guidance": 1.5, "nfe": 6, "count": 20}
    assert (first.dataset_name, first.dataset_type) == ("test split of digits", "digits")
    assert "trust_remote_code=True" in card.content


def test_the_card_travels_through_saving_again(exported: Path, tmp_path: Path) -> None:
    PurrceptionPipeline.from_pretrained(exported).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/README.md").read_bytes() == (exported / "README.md").read_bytes()


def test_a_variant_of_half_the_precision_loads_by_its_name(tiny_run: Path, tmp_path: Path) -> None:
    assert (
        main(
            ["export", str(tiny_run), "--out", str(tmp_path / "half"), "--dtype", "bfloat16", "--variant", "bf16"]
        )
        == 0
    )
    assert len(list((tmp_path / "half").rglob("*.bf16.safetensors"))) == 2
    half = PurrceptionPipeline.from_pretrained(
        tmp_path / "half", variant="bf16", torch_dtype=torch.bfloat16, device="cpu"
    )
    assert half.transformer.dtype == torch.bfloat16
    assert half.transformer.codebook.dtype == torch.float32
    assert half(num_images=2, num_inference_steps=2).indices.shape == (2, 4, 4)
    again = PurrceptionPipeline.from_pretrained(tmp_path / "half", variant="bf16")  # checks the tokenizer's hash
    assert again.transformer.dtype == torch.float32
    with pytest.raises(InputError, match="cannot load the pipeline"):
        PurrceptionPipeline.from_pretrained(tmp_path / "half", variant="fp16")


def test_a_pipeline_of_the_hub_is_found_in_its_cache(exported: Path, tmp_path: Path) -> None:
    """Without a network, as the hub's own client lays its cache out."""
    cache = tmp_path / "models--someone--tiny"
    commit = "a" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text(commit)
    shutil.copytree(exported, cache / "snapshots" / commit)
    program = (
        "from purrception import PurrceptionPipeline, load_pipeline\n"
        "name = 'hub:someone/tiny'\n"
        "for pipe in (PurrceptionPipeline.from_pretrained(name), load_pipeline(name)):\n"
        "    print(pipe(num_images=1, num_inference_steps=1).indices.shape)\n"
        "PurrceptionPipeline.from_pretrained('hub:someone/else')\n"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.count("torch.Size([1, 4, 4])") == 2, done.stderr
    assert "no pipeline at someone/else on the hub" in done.stderr


def test_a_name_is_one_of_the_hub_only_where_it_says_so(tmp_path: Path) -> None:
    assert local_folder(tmp_path) == tmp_path
    assert local_folder("./a/b") == Path("a/b")
    assert local_folder("nowhere") == Path("nowhere")
    assert local_folder("owner/name") == Path("owner/name")


def test_export_tells_mistakes(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["nowhere"], "no run at nowhere"),
        ([str(tiny_run), "--dtype", "float23"], "did you mean 'float32'?"),
        ([str(tiny_run), "--push", "no-owner"], "a model on the hub is owner/name; given 'no-owner'"),
    ):
        assert main(["export", *words, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


def test_training_from_other_weights_with_other_classes(tiny_run: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    source = PurrceptionPipeline.from_pretrained(tiny_run / "pipeline")
    made = source(class_labels=[3, 4] * 6, num_inference_steps=2)
    for number, image in enumerate(made.images):
        folder = pictures / ("3" if number % 2 == 0 else "cat")
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")
    config = tiny_config(
        tmp_path,
        data=DataConfig(source="folder", root=str(pictures), image_size=16, test_fraction=0.0),
        init_from=str(tiny_run),
    )
    config = yaml.safe_load(dump_settings(config))
    config["tokenizer"]["path"] = str(tiny_run / "tokenizer")
    config["training"] |= {"steps": 1, "learning_rate": 1e-9}
    (tmp_path / "warm.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(tmp_path / "warm.yaml")]) == 0
    report = (tmp_path / "tiny/init-from.md").read_text()
    assert "backbone.label.weight: 10 classes → 2, 1 with the same name" in report
    assert "## New: 0 tensors" in report
    trained = PurrceptionPipeline.from_pretrained(tmp_path / "tiny/pipeline").transformer
    ours, theirs = trained.state_dict(), source.transformer.state_dict()
    torch.testing.assert_close(ours[LABEL_EMBEDDING], theirs[LABEL_EMBEDDING][[3, 10, 10]], atol=1e-6, rtol=0)
    torch.testing.assert_close(ours["head.linear.weight"], theirs["head.linear.weight"], atol=1e-6, rtol=0)


def test_what_does_not_fit_is_new_and_said_so(tiny_run: Path) -> None:
    source = PurrceptionPipeline.from_pretrained(tiny_run / "pipeline")

    def network(width: int = 32, depth: int = 2, patch_size: int = 2) -> PurrceptionTransformer:
        return PurrceptionTransformer(
            grid=(4, 4),
            codebook_size=16,
            codebook_dim=3,
            num_classes=10,
            depth=depth,
            width=width,
            heads=2,
            patch_size=patch_size,
        )

    same = source.tokenizer.fingerprint
    names = source.class_names
    assert warm_start(network(), source, "a run", same, names).new == ()
    other_codes = warm_start(network(), source, "a run", "another", names)
    assert {line.split(":")[0] for line in other_codes.new} == {
        "backbone.patch.weight",
        "backbone.patch.bias",
        "head.linear.weight",
        "head.linear.bias",
    }
    deeper = warm_start(network(depth=3), source, "a run", same, names)
    assert deeper.new
    assert all("backbone.blocks.2." in line and "the source has none" in line for line in deeper.new)
    patches = warm_start(network(patch_size=1), source, "a run", same, names)
    assert any(
        line.startswith("head.linear.weight: [16, 32], and the source's is [64, 32]") for line in patches.new
    )
    with pytest.raises(InputError, match="no block of a run fits this network"):
        warm_start(network(width=64), source, "a run", same, names)


def test_a_source_that_is_not_there_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is none at nowhere"):
        start_run(
            tiny_config(tmp_path / "runs", init_from="nowhere", network=DiTConfig(depth=1, width=32, heads=2))
        )
    assert not (tmp_path / "runs").exists()
