"""``fashion`` and ``emoji`` as a person trains them, on a few images: to the end, killed, and in two processes."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from purrception.experiment.recipes import FASHION_CLASSES, get_recipe
from purrception.tokens import TokenDataset
from purrception.tokens.shards import read_captions
from tests.conftest import run_cli, run_torchrun
from tests.data.emoji_files import write_emoji
from tests.data.idx_files import write_idx_set
from tests.forked import python

SMALL = """
    --tokenizer.model.codebook-size 16 --tokenizer.model.codebook-dim 3 --tokenizer.model.channels 8 8 8
    --tokenizer.training.steps 4 --tokenizer.training.batch-size 4 --network.depth 1 --network.width 32
    --network.heads 2 --training.steps 12 --training.batch-size 4 --training.validate-every 6
    --training.sample-every 12 --training.checkpoint-every 2 --training.log-every 1 --sampling.steps 2
"""
IMAGES = {
    "fashion": ["--data.root", "images"],
    "emoji": ["--data.root", "images", "--data.styles", "google", "fluent", "--data.test-fraction", "0.3"],
}
SIDES = {"fashion": 8, "emoji": 16}
pytestmark = pytest.mark.slow


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a few images of the recipe that the test names."""
    (tmp_path / "images").mkdir()
    if request.node.callspec.params["recipe"] == "fashion":
        write_idx_set(tmp_path / "images", train=40, test=20, classes=10, suffix=".gz")
    else:
        write_emoji(tmp_path / "images", "google", "fluent")
    return tmp_path


def train(recipe: str, place: Path, *more: str) -> subprocess.CompletedProcess[str]:
    done = run_cli("train", recipe, *IMAGES[recipe], *SMALL.split(), *more, cwd=place)
    assert done.returncode == 0, done.stderr
    return done


def weights(run: Path) -> dict[str, bytes]:
    arrays = load_file(run / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")
    return {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("recipe", IMAGES)
def test_a_recipe_is_tried_dry_and_leaves_nothing(recipe: str, place: Path) -> None:
    before = sorted(place.iterdir())
    told = train(recipe, place, "--dry-run").stdout
    assert "trained for one step: K = 16, D = 3" in told
    assert "10 classes" in told or "18 classes" in told
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("recipe", IMAGES)
def test_a_recipe_killed_goes_on_and_is_what_it_would_have_been(recipe: str, place: Path) -> None:
    train(recipe, place, "--name", "whole")
    process = subprocess.Popen(
        [python(), "-m", "purrception", "train", recipe, *IMAGES[recipe], *SMALL.split(), "--name", "killed"],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list((place / "runs" / "killed" / "checkpoints").glob("step-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run_cli("train", "--resume", "runs/killed", cwd=place)
    assert done.returncode == 0, done.stderr
    assert weights(place / "runs" / "killed") == weights(place / "runs" / "whole")

    shards = TokenDataset(place / "runs" / "whole" / "tokens" / "train")
    assert shards.manifest.grid == (SIDES[recipe],) * 2
    captions = read_captions(place / "runs" / "whole" / "tokens" / "train" / "shard-00000.safetensors")
    exported = run_cli("export", "runs/whole", "--out", "released", cwd=place)
    assert exported.returncode == 0, exported.stderr
    card = (place / "released" / "README.md").read_text(encoding="utf-8")
    if recipe == "fashion":
        assert shards.manifest.class_names == FASHION_CLASSES
        assert captions == []
        assert "Fashion-MNIST (Zalando, arXiv 1708.07747), MIT" in card
    else:
        assert len(captions) == len(shards)
        assert {"grinning face", "mushroom"} & {*captions}
        assert "Noto Emoji, Apache-2.0; Microsoft's Fluent Emoji, MIT" in card


@pytest.mark.parametrize("recipe", IMAGES)
def test_two_processes_train_what_one_trains(recipe: str, place: Path) -> None:
    words = ["train", recipe, *IMAGES[recipe], *SMALL.split(), "--name", "two"]
    done = run_torchrun("-m", "--", "purrception", *words, cwd=place)
    assert done.returncode == 0, done.stderr
    assert (place / "runs" / "two" / "pipeline" / "model_index.json").is_file()
    sampled = run_cli("sample", "runs/two", "--num", "4", "--steps", "2", "--out", "out", cwd=place)
    assert sampled.returncode == 0, sampled.stderr
    assert len(list((place / "out").glob("*.png"))) >= 4


@pytest.mark.parametrize("recipe", IMAGES)
def test_prepare_takes_the_images_of_a_recipe(recipe: str, place: Path) -> None:
    train(recipe, place)
    run = f"runs/{recipe}"
    words = [*IMAGES[recipe]]
    words = [word.replace("--data.", "--") for word in words]
    done = run_cli("prepare", recipe, "--tokenizer", f"{run}/tokenizer", "--out", "tokens", *words, cwd=place)
    assert done.returncode == 0, done.stderr
    made, own = (TokenDataset(place / folder / "train").manifest for folder in ("tokens", f"{run}/tokens"))
    assert [shard.sha256 for shard in made.shards] == [shard.sha256 for shard in own.shards]
    assert made.class_names == own.class_names


def test_the_yardstick_is_not_resampled() -> None:
    data = get_recipe("fashion").data
    assert (data.image_size, data.channels, data.enlarge) == (32, 1, False)
