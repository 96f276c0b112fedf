"""The command line as a person meets it."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from purrception.cli import GROUPS, VERBS, main
from purrception.experiment.config import load_config
from purrception.storage import plain_reason
from purrception.utils.errors import InputError, in_words
from tests.conftest import run_cli


def fails_with_one_line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("purrception: ")
    assert "Traceback" not in "".join(lines)
    assert "[Errno" not in lines[-1]
    return lines[-1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), "/a/b: Read-only file system"),
        (
            OSError(errno.EXDEV, "Invalid cross-device link", b"a", None, Path("b")),
            "a: b: Invalid cross-device link",
        ),
        (OSError(errno.EBADF, "Bad file descriptor", 7), "Bad file descriptor"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("of a library,\nin two lines"), "of a library, in two lines"),
        (InputError("given 3"), "given 3"),
    ],
)
def test_what_the_system_refuses_is_told_in_words(error: Exception, said: str) -> None:
    assert in_words(error) == plain_reason(error) == said


def test_help_of_every_verb_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(name.split()[0] in overview for name in VERBS)
    for group in GROUPS:
        assert main([group, "--help"]) == 0
        overview = capsys.readouterr().out
        assert all(f"  {name.split()[1]} " in overview for name in VERBS if name.startswith(f"{group} "))
    for name, verb in VERBS.items():
        assert main([*name.split(), "--help"]) == 0
        assert "Example: " + verb.example.split()[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["train"], "usage: purrception train"),
        (["train", "--resume"], "--resume needs the directory"),
        (["train", "digit"], "unknown recipe 'digit': did you mean 'digits'?"),
        (["train", "digits", "--trainin.steps", "3"], "did you mean '--training.steps'?"),
        (["train", "digits", "--training.steps", "many"], "--training.steps"),
        (["train", "digits", "--training.steps", "0"], "training.steps must be at least 1; given 0"),
        (["train", "digits", "--data.source", "foldr"], "did you mean 'folder'?"),
        (["train", "digits", "--name", "a/b"], "plain folder name"),
        (["train", "digits", "--head.kind", "geometrc"], "did you mean 'geometric'?"),
        (["train", "digits", "--head.kind", "regression"], "accepted linear, factored, geometric"),
        (["train", "digits", "--sampling.grid", "cosin"], "did you mean 'cosine'?"),
        (["train", "digits", "--sampling.temperature", "linear:1:0"], "temperature"),
        (["train", "digits", "--sampling.top-p", "0"], "top_p"),
        (["compare", "digits", "--objectives", "purrception,cfmm"], "did you mean 'cfm'?"),
        (["compare", "digits", "--objectives", "cfm", "--seeds", "0"], "at least 1 seed"),
        (["compare", "digits", "--data.test-fraction", "0"], "at least 2 held-out images and 2 classes"),
        (["train", "digits", "--objective.name", "purception"], "did you mean 'purrception'?"),
        (["train", "folder", "--data.root", "nowhere"], "no folder of images at 'nowhere'"),
        (["train", "missing.yaml"], "no configuration file at missing.yaml"),
        (["train", "--resume", "nowhere"], "no run at nowhere"),
        (["sample", "nowhere"], "no run at nowhere"),
        (["evaluate", "nowhere"], "no run at nowhere"),
        (["edit", "inpiant"], "unknown edit command 'inpiant': did you mean 'inpaint'?"),
        (["edit", "inpaint"], "usage: purrception edit inpaint"),
        (["edit", "vary", "nowhere"], "no run at nowhere"),
        (["edit", "vary", "nowhere", "--strenth", "1"], "did you mean '--strength'?"),
        (["tokenizer", "convrt"], "unknown tokenizer command 'convrt': did you mean 'convert'?"),
        (["tokenizer", "convert"], "usage: purrception tokenizer convert"),
        (["tokenizer", "convert", "nowhere"], "no tokenizer at nowhere"),
        (["tokenizer", "convert", "a.ckpt", "--arch", "vq-f8"], "no weights file at a.ckpt"),
        (["tokenizer", "convert", "a.ckpt", "--arch", "vqf8"], "did you mean 'vq-f8'?"),
        (["tokenizer", "convert", "a.ckpt", "--arc", "vq-f8"], "did you mean '--arch'?"),
        (["train", "digits", "--tokenizer.path", "a.ckpt", "--tokenizer.arch", "vq-f8"], "no weights file"),
        (["convert", "a.pth"], "give the tokenizer that the checkpoint was trained with"),
        (["convert", "a.pth", "--tokenizer", "nowhere"], "no tokenizer at nowhere"),
        (["tokenizer", "trian"], "unknown tokenizer command 'trian': did you mean 'train'?"),
        (["tokenizer", "train"], "usage: purrception tokenizer train"),
        (["tokenizer", "train", "digit"], "did you mean 'digits'?"),
        (["tokenizer", "train", "digits", "--trainin.steps", "3"], "did you mean '--training.steps'?"),
        (["tokenizer", "train", "digits", "--decoder-only"], "give the tokenizer with --init-from DIR"),
        (["tokenizer", "train", "digits", "--init-from", "nowhere"], "no tokenizer at nowhere"),
        (["tokenizer", "train", "digits", "--training.quantiser", "cosin"], "did you mean 'cosine'?"),
        (["tokenizer", "train", "digits", "--training.quantiser", "fsq"], "fsq_levels"),
        (
            ["tokenizer", "train", "digits", "--training.quantiser", "fsq", "--training.fsq-levels", "4", "4"],
            "make 16 codes of dimension 2; given codebook_size 256 and codebook_dim 4",
        ),
        (["tokenizer", "train", "digits", "--training.loss.perceptual", "1"], "belong together"),
        (["tokenizer", "train", "digits", "--training.adversarial.weight", "1"], "it needs 24 pixels"),
        (["tokenizer", "train", "--resume", "nowhere"], "no training of a tokenizer at nowhere"),
        (["tokenizer", "train", "--resume"], "such as purrception tokenizer train --resume"),
        (["tokenizer", "report", "nowhere"], "usage: purrception tokenizer report"),
        (["tokenizer", "report", "nowhere", "digits"], "no tokenizer at nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in fails_with_one_line(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "3", "11"], "class labels are 0 to 9; given 11"),
        (["--classes", "cat"], "unknown class 'cat'"),
        (["--steps", "0"], "at least 1 step"),
        (["--solver", "eulr"], "did you mean 'euler'?"),
        (["--temperature", "-1"], "positive number"),
        (["--temprature", "1"], "did you mean '--temperature'?"),
        (["--num", "0"], "at least one image"),
        (["--seed", "-1"], "a seed lies in"),
        (["--guidance-interval", "0.6", "0.2"], "within 0 to 1"),
        (["--preset", "missing.yaml"], "no configuration file at missing.yaml"),
        (["--out", "/proc/nowhere/x"], "cannot make the folder /proc/nowhere/x (No such file or directory)"),
    ],
)
def test_sampling_mistakes(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, options: list[str], message: str
) -> None:
    assert message in fails_with_one_line(capsys, "sample", tiny_run, *options)
    assert not (tiny_run / "generated").exists()


def test_a_run_that_is_there_is_not_overwritten(capsys: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    message = fails_with_one_line(capsys, "train", tiny_run / "config.yaml")
    assert "already there and not empty" in message
    assert "--resume" in message
    after = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    assert {path for path in after if after[path] != before[path]} <= {tiny_run / ".lock"}
    assert after.keys() == before.keys()


def test_an_unreadable_image_stops_before_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_run: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "broken.png").write_bytes(b"no image")
    arguments = ["--data.source", "folder", "--data.root", images, "--runs", tmp_path / "runs"]
    message = fails_with_one_line(
        capsys, "train", tiny_run / "config.yaml", *arguments, "--data.test-fraction", "0"
    )
    assert "none of the 1 images can be read; the first, " in message
    assert "broken.png" in message


@pytest.mark.parametrize("damage", ["shard", "tokenizer", "checkpoint", "foreign tokenizer"])
def test_damage_is_named_on_resume(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, tmp_path: Path, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    files = {
        "shard": run / "tokens/train/shard-00000.safetensors",
        "tokenizer": run / "tokenizer/diffusion_pytorch_model.safetensors",
        "checkpoint": next((run / "checkpoints/step-00000008/network").iterdir()),
    }
    if damage == "foreign tokenizer":
        from purrception.tokenizers import VQTokenizer

        other = VQTokenizer.load(run / "tokenizer")
        other.codebook.mul_(2)
        other.save(run / "tokenizer")
        assert "made with another tokenizer" in fails_with_one_line(capsys, "train", "--resume", run)
        return
    content = files[damage].read_bytes()
    files[damage].write_bytes(content[: len(content) // 2])
    shutil.rmtree(run / "checkpoints/step-00000004")  # which a damaged later one would give way to
    message = fails_with_one_line(capsys, "train", "--resume", run)
    places = {"shard": files["shard"], "tokenizer": run / "tokenizer", "checkpoint": run / "checkpoints"}
    assert str(places[damage]) in message


def test_a_finished_run_can_be_trained_longer_but_not_changed(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    message = fails_with_one_line(capsys, "train", "--resume", run, "--network.depth", "3")
    assert "keeps its network" in message
    before = (run / "config.yaml").read_text()
    message = fails_with_one_line(capsys, "train", "--resume", run, "--training.device", "nothing")
    assert "cannot be used here" in message
    assert (run / "pipeline/model_index.json").is_file()  # a refused change destroys nothing
    assert (run / "config.yaml").read_text() == before
    assert main(["train", "--resume", str(run), "--training.steps", "10"]) == 0
    assert (run / "checkpoints/step-00000010").is_dir()
    assert load_config(run / "config.yaml").training.steps == 10


def test_a_longer_training_never_leaves_the_shorter_ones_pipeline(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)

    def no_space(*arguments: object, **options: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("purrception.generation.pipeline.PurrceptionPipeline.save_pretrained", no_space)
        message = fails_with_one_line(capsys, "train", "--resume", run, "--training.steps", "10")
        assert "No space left" in message
    assert main(["train", "--resume", str(run)]) == 0
    saved = load_file(run / "pipeline/transformer/diffusion_pytorch_model.safetensors")
    trained = load_file(next((run / "checkpoints/step-00000010/ema").iterdir()))
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], trained[name]) for name in saved)


@pytest.mark.slow
def test_sample_writes_images_maps_grid_and_a_manifest_that_reproduces_them(
    tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    options = ["--classes", "3", "3", "7", "--steps", "4", "--guidance", "1.5", "--seed", "9"]
    done = run_cli("sample", run, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = run / "generated/000"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    images = [f"{number:05d}.png" for number in range(3)]
    assert names == sorted(
        [*images, *(f"entropy/{name}" for name in images), "entropy.png", "grid.png", "manifest.json"]
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["nfe"] == 8
    assert [entry["label"] for entry in manifest["images"]] == [3, 3, 7]
    assert {"transformer_hash", "tokenizer_hash", "versions", "temperature", "solver"} <= manifest.keys()
    with Image.open(folder / "entropy/00000.png") as heat:
        assert heat.mode == "RGB"
        assert len(np.unique(np.asarray(heat).reshape(-1, 3), axis=0)) > 1
    again = run_cli(*manifest["command"].split()[1:], "--out", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    for name in images:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    refused = run_cli(*manifest["command"].split()[1:], "--out", "again", cwd=tmp_path)
    assert refused.returncode == 2
    assert "not empty" in refused.stderr


@pytest.mark.slow
def test_evaluate_reports_figures_with_their_protocol(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    done = run_cli("evaluate", run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((run / "evaluation/000/report.json").read_text())
    assert [row["guidance"] for row in report["rows"]] == [1.0, 1.5]
    assert [row["nfe"] for row in report["rows"]] == [3, 6]
    assert report["num"] == 20
    assert report["manifest"]["reference"]["count"] == 355
    assert report["frechet_floor"] > 0
    assert "times the floor" in done.stdout
    assert "transformer_hash" not in done.stdout  # the manifest is in the file
    assert done.stdout.splitlines()[-1] == f"report: {run / 'evaluation/000'}"


@pytest.mark.slow
def test_a_folder_without_classes_trains_an_unconditional_model(tiny_run: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(images / f"{number}.png")
    options = ["--data.source", "folder", "--data.root", "images", "--data.channels", "3"]
    options += ["--data.flips", "True", "--runs", "runs", "--training.steps", "4"]
    done = run_cli("train", tiny_run / "config.yaml", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs/tiny/tokens/train/manifest.json").read_text())
    assert manifest["class_names"] == []
    assert manifest["flips"] is True
    done = run_cli("sample", "runs/tiny", "--num", "5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "runs/tiny/generated/000/00004.png") as image:
        assert image.mode == "RGB"
    again = json.loads((tmp_path / "runs/tiny/generated/000/manifest.json").read_text())["command"]
    repeated = run_cli(*again.split()[1:], "--out", "again", cwd=tmp_path)
    assert repeated.returncode == 0, repeated.stderr
    assert (tmp_path / "again/00004.png").read_bytes() == (
        tmp_path / "runs/tiny/generated/000/00004.png"
    ).read_bytes()
    guided = run_cli("sample", "runs/tiny", "--guidance", "2", cwd=tmp_path)
    assert guided.returncode == 2
    assert "no classes" in guided.stderr
    labelled = run_cli("sample", "runs/tiny", "--classes", "1", cwd=tmp_path)
    assert labelled.returncode == 2
    assert "no classes" in labelled.stderr
