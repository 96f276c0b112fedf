"""Recipes without their data, and sizes chosen from somebody's images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from purrception.cli import main
from purrception.experiment.checks import check_config
from purrception.experiment.dry_run import dry_run, whole_step
from purrception.experiment.recipes import RECIPES, fit_to_images, get_recipe
from purrception.models import DiTConfig
from purrception.tokenizers import PUBLIC_TOKENIZERS
from purrception.tokens import Manifest, Shard, Standardisation
from purrception.utils.errors import InputError
from tests.conftest import run_cli

FSQ = ["--tokenizer.training.quantiser", "fsq", "--tokenizer.training.fsq-levels", *"44444"]
FSQ += ["--tokenizer.model.codebook-dim", "5"]
NARROW = ["--network.depth", "2", "--network.width", "384", "--network.heads", "6"]
SMALL = ("digits", "photos", "fashion", "emoji", "emoji-gpu", "folder")
"""Recipes of our own sizes."""
PAPER = [name for name in RECIPES if name not in SMALL and "paper-code" not in name]


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_paper_use_its_optimiser(name: str) -> None:
    training = get_recipe(name).training
    assert (training.learning_rate, training.betas, training.weight_decay) == (1e-4, (0.9, 0.999), 0)
    assert (training.gradient_clip, training.decay, training.warmup_steps) == (1.0, "constant", 0)
    assert training.ema_decay == 0.9999
    assert training.learning_rate_at(0) == training.learning_rate_at(10**6) == 1e-4
    assert training.label_dropout == 0.1


@pytest.mark.parametrize(
    ("size", "shape"), {"b": (12, 768, 12), "l": (24, 1024, 16), "xl": (28, 1152, 16)}.items()
)
def test_networks_of_the_paper(size: str, shape: tuple[int, int, int]) -> None:
    recipe = get_recipe(f"imagenet256-{size}")
    assert (recipe.network.depth, recipe.network.width, recipe.network.heads) == shape
    assert recipe.network.patch_size == 2
    assert (recipe.data.image_size, recipe.data.classes, recipe.tokenizer.arch) == (256, 1000, "vq-f8")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_whole_step_of_every_recipe_fits_shape_by_shape(name: str) -> None:
    recipe = get_recipe(name)
    if recipe.tokenizer.arch:
        public = PUBLIC_TOKENIZERS[recipe.tokenizer.arch]
        size, dim, downsampling = public.codebook_size, public.codebook_dim, 2 ** (len(public.multipliers) - 1)
    else:
        model = recipe.tokenizer.model
        size, dim, downsampling = model.codebook_size, model.codebook_dim, model.downsampling
    side = (recipe.data.image_size or 64) // downsampling
    names = tuple(map(str, range(recipe.data.classes or 0)))
    shards = (Shard("shard-00000.safetensors", 1, "0" * 64),)
    figures = Standardisation((0.0,) * dim, 1.0)
    manifest = Manifest(size, dim, (side, side), names, figures, "", "train", False, shards)
    tokenizer = SimpleNamespace(codebook=torch.zeros(size, dim))
    network = whole_step(recipe, manifest, tokenizer)  # type: ignore[arg-type]
    assert all(parameter.grad is not None for parameter in network.parameters())
    if name == "imagenet256-xl":
        assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(750e6, rel=0.005)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["digits"], ["trained for one step: K = 256, D = 4, grid 4×4", "4 of 4 blocks", "10 classes"]),
        (["photos"], ["K = 1024, D = 8, grid 8×8", "6 of 6 blocks"]),
        (["fashion"], ["K = 256, D = 8, grid 16×16", "4 of 4 blocks"]),
        (["emoji"], ["K = 1024, D = 8, grid 16×16", "4 of 4 blocks"]),
        (["emoji", *FSQ], ["K = 1024, D = 5, grid 16×16", "4 of 4 blocks"]),
        (["folder"], ["K = 1024, D = 8, grid 8×8", "12 of 12 blocks", "no classes"]),
        (
            ["ffhq128", *NARROW, "--data.image-size", "64"],
            ["vq-f8 with random weights: K = 16384, D = 4, grid 8×8", "no classes", "2 of 2 blocks"],
        ),
        (
            ["paper-code-b", "--network.depth", "2", "--data.image-size", "64", "--objective.name", "dfm"],
            ["vq-f8 with random weights: K = 16384, D = 4, grid 8×8", "1000 classes", "cross_entropy 9.704"],
        ),
        (
            ["imagenet256-xl", "--tokenizer.arch", "vq-ds8-c2i", "--data.image-size", "64"],
            ["vq-ds8-c2i with random weights: K = 16384, D = 8, grid 8×8", "1000 classes", "2 of 28 blocks"],
        ),
    ],
    ids=lambda value: value[0],
)
def test_a_dry_run_needs_no_data_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], expected: list[str]
) -> None:
    done = run_cli("train", *arguments, "--dry-run", cwd=tmp_path, timeout=800)
    assert done.returncode == 0, done.stderr
    for part in expected:
        assert part in done.stdout
    assert "first step" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_first_loss_of_a_dry_run_is_the_uniform_posteriors(digits_recipe: object) -> None:
    recipe = get_recipe("digits")
    text = dry_run(replace(recipe, network=DiTConfig(depth=1, width=32, heads=2, patch_size=1)))
    assert "cross_entropy 5.545" in text  # ln 256
    assert "bits_per_code 8" in text


def test_a_dry_run_finds_what_does_not_fit() -> None:
    recipe = get_recipe("imagenet256-b")
    with pytest.raises(InputError, match="does not divide the grid"):
        dry_run(replace(recipe, network=replace(recipe.network, patch_size=3)))


def test_a_public_tokenizer_must_be_given_in_earnest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert main(["train", "ffhq", "--data.root", str(tmp_path), "--data.test-fraction", "0"]) == 2
    assert "uses the public tokenizer vq-f8: give its checkpoint" in capsys.readouterr().err
    assert main(["train", "imagenet256-b", "--data.root", str(tmp_path)]) == 2
    assert "holds 0 classes; data.classes says 1000" in capsys.readouterr().err


def images(root: Path, count: int, size: tuple[int, int], *, colour: bool) -> Path:
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        shape = (size[1], size[0], 3) if colour else (size[1], size[0])
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / f"{number}.png")
    (root / "broken.png").write_text("text")
    return root


@pytest.mark.parametrize(
    ("size", "chosen", "patch"), [((40, 36), 32, 2), ((64, 90), 64, 1), ((140, 130), 128, 1), ((300, 260), 256, 2)]
)
def test_sizes_fit_the_images(tmp_path: Path, size: tuple[int, int], chosen: int, patch: int) -> None:
    root = images(tmp_path / "images", 9, size, colour=chosen != 64)
    recipe = get_recipe("folder")
    fitted, said = fit_to_images(recipe, replace(recipe.data, root=str(root), test_fraction=0))
    assert fitted.data.image_size == chosen
    assert fitted.data.channels == (1 if chosen == 64 else 3)
    assert fitted.network == DiTConfig.preset(f"mini/{patch}")
    assert f"{chosen}×{chosen} pixels" in said
    assert not fitted.data.flips  # letters and clocks do not mirror
    assert fitted.tokenizer.model.normalisation == ("none" if chosen == 32 else "group")
    assert chosen // fitted.tokenizer.model.downsampling == {32: 16, 64: 8, 128: 16, 256: 32}[chosen]
    assert fitted.tokenizer.model.codebook_size == (1024 if chosen == 256 else 256)  # 9 images of that many sites
    check_config(replace(fitted, data=replace(fitted.data, root=str(root), test_fraction=0)))


@pytest.mark.parametrize(("count", "share"), [(60, 0.2), (400, 0.13), (1100, 0.05)])
def test_small_folders_hold_out_a_larger_share(tmp_path: Path, count: int, share: float) -> None:
    """The count is that of the training images, of which 5 % are held out before."""
    root = images(tmp_path / "images", count, (8, 8), colour=False)
    recipe = get_recipe("folder")
    fitted, _ = fit_to_images(recipe, replace(recipe.data, root=str(root)))
    assert fitted.data.test_fraction == pytest.approx(share, abs=0.011)


def test_options_win_over_the_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = images(tmp_path / "images", 9, (140, 130), colour=True)
    options = ["--data.root", str(root), "--data.image-size", "32", "--network.depth", "1", "--dry-run"]
    assert main(["train", "folder", *options]) == 0
    said = capsys.readouterr().out
    assert "32×32 pixels, a grid of 16×16 codes" in said
    assert "DiT, 1 blocks, width 128" in said


def test_an_unknown_public_tokenizer_is_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "imagenet256-b", "--tokenizer.arch", "vq-f61", "--dry-run"]) == 2
    assert "did you mean 'vq-f16'" in capsys.readouterr().err.strip().splitlines()[-1]
