"""Broken images among those that a tokenizer learns from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purrception.cli import main
from purrception.data import (
    DataConfig,
    NothingReadableError,
    ReadableImages,
    Skipped,
    describe_report,
    open_images,
    write_report,
)
from purrception.evaluation import ClassifierConfig
from purrception.tokens import TokenDataset
from tests.conftest import run_cli

TINY = [
    "--runs",
    "runs",
    "--data.image-size",
    "16",
    "--tokenizer.training.steps",
    "3",
    "--tokenizer.training.batch-size",
    "4",
    "--tokenizer.model.codebook-size",
    "8",
    "--tokenizer.model.channels",
    "8",
    "8",
    "8",
    "--tokenizer.model.layers",
    "1",
    "--network.depth",
    "1",
    "--network.width",
    "16",
    "--network.heads",
    "2",
    "--training.steps",
    "2",
    "--training.batch-size",
    "4",
    "--training.sample-every",
    "2",
    "--training.validate-every",
    "2",
    "--training.checkpoint-every",
    "2",
    "--sampling.num-inference-steps",
    "2",
]


def fill(root: Path, broken: int, whole: int = 12) -> Path:
    """Two classes; of the second, ``broken`` files are empty."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(whole):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    for number in range(broken):
        (root / "dog" / f"{number:02d}.png").write_bytes(b"")
    return root


def test_a_broken_image_has_a_stand_in_always_the_same(tmp_path: Path) -> None:
    source = open_images(DataConfig("folder", str(fill(tmp_path, 10)), channels=3, test_fraction=0), "train")
    images = ReadableImages(source)
    shown = [images[row][0].tobytes() for row in range(24)]
    assert shown == [ReadableImages(source)[row][0].tobytes() for row in range(24)]
    good = [source[row][0].tobytes() for row in range(24) if row not in range(12, 22)]
    assert [shown[row] for row in (*range(12), 22, 23)] == good
    stand_ins = [good.index(shown[row]) for row in range(12, 22)]
    assert len(set(stand_ins)) > 4  # spread over the others, not the neighbour ten times
    assert sorted(Path(one.name).name for one in images.skipped) == [f"{number:02d}.png" for number in range(10)]
    assert {one.reason for one in images.skipped} == {"the file is empty"}
    assert len(images.spread(24)) == 14


def test_all_broken_is_an_error(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"")
    images = ReadableImages(open_images(DataConfig("folder", str(tmp_path), test_fraction=0), "train"))
    with pytest.raises(
        NothingReadableError, match=r"none of the 3 images can be read; the first, .*file is empty"
    ):
        images[1]


def test_a_name_that_is_no_utf8_can_be_told(tmp_path: Path) -> None:
    write_report(tmp_path, [Skipped("caf\udce9.png", "the file is empty")])
    assert describe_report(tmp_path).startswith(
        r"1 skipped, such as caf\udce9.png (the file is empty); the list: "
    )


def test_train_folder_goes_on_without_broken_images_and_says_so_once(tmp_path: Path) -> None:
    fill(tmp_path / "pictures", 6)
    (tmp_path / "pictures/cat/notes.txt").write_text("a text")
    done = run_cli("train", "folder", "--data.root", "pictures", "--name", "it", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tokens = tmp_path / "runs/it/tokens"
    reports = {split: tokens / split / "report.jsonl" for split in ("train", "test")}
    lines = [json.loads(line) for file in reports.values() for line in file.read_text().splitlines()]
    assert {Path(line["image"]).name for line in lines if "image" in line} == {f"0{n}.png" for n in range(6)}
    assert [Path(line["file"]).name for line in lines if "file" in line] == ["notes.txt"]
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("train images: ")]
    assert f"skipped, such as {tmp_path / 'pictures/dog/0'}" in told
    assert "(the file is empty)" in told
    assert f"1 other file ignored, such as {tmp_path / 'pictures/cat/notes.txt'}" in told
    assert told.endswith("the list: runs/it/tokens/train/report.jsonl")
    train = TokenDataset(tokens / "train")
    assert train.manifest.class_names == ("cat", "dog")


def test_held_out_images_that_are_all_broken_stop_nothing(tmp_path: Path) -> None:
    """The tokenizer is measured on training images, and nothing is held out."""
    root = fill(tmp_path / "pictures", 0)
    held_out = open_images(DataConfig("folder", str(root), test_fraction=0.05), "test")
    names = [held_out.name(row) for row in range(len(held_out))]  # type: ignore[attr-defined]
    assert names
    for name in names:
        Path(name).write_bytes(b"")
    share = ("--data.test-fraction", "0.05")
    done = run_cli("train", "folder", "--data.root", "pictures", "--name", "it", *share, *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"test images: {len(names)} skipped" in done.stdout
    assert not (tmp_path / "runs/it/tokens/test/manifest.json").exists()


def test_training_a_tokenizer_alone_tells_what_it_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "pictures", 11)
    options = ["--data.image-size", "16", "--training.steps", "3", "--training.batch-size", "16"]
    options += ["--model.codebook-size", "8", "--model.channels", "8", "8", "8", "--model.layers", "1"]
    done = run_cli("tokenizer", "train", "pictures", "--out", "made", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("images: ")]
    assert told.endswith("the list: made/report.jsonl")
    assert (tmp_path / "made/report.jsonl").is_file()
    options = ["--data.image-size", "16", "--data.test-fraction", "0", "--out", "report"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("purrception.evaluation.tokenizer.report.CLASSIFIER", ClassifierConfig(steps=5))
    assert main(["tokenizer", "report", "made", "pictures", *options]) == 0
    assert "images: 11 skipped, such as pictures/dog/00.png (the file is empty)" in capsys.readouterr().out
