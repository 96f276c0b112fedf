"""``purrception prepare`` as people use it: kills, several processes, broken files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from purrception.cli import main
from purrception.tokenizers import VQConfig, VQTokenizer
from purrception.tokens import TokenDataset
from tests.conftest import run_cli, run_torchrun
from tests.data.unusual_images import BROKEN, READABLE, make_unusual_images
from tests.forked import python

NUMBER = 60
OPTIONS = ["--image-size", "16", "--images-per-shard", "6", "--test-fraction", "0.2", "--flips", "True"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tokenizer whose codes lie where its latents do."""
    torch.manual_seed(0)
    vq = VQConfig(codebook_size=32, codebook_dim=3, channels=(8, 8, 8)).build(3, 16)
    vq.quantize.embedding.weight.data.normal_()
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    VQTokenizer(vq).save(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, a file of text among them."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(NUMBER):
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (root / "dog" / "broken.png").write_text("text")
    return root


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, images: Path, tokenizer: Path) -> dict[str, str]:
    out = tmp_path_factory.mktemp("out") / "tokens"
    done = prepare(images, tokenizer, out)
    assert done.returncode == 0, done.stderr
    assert "1 skipped" in done.stdout
    return contents(out)


def prepare(source: Path | str, tokenizer: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run_cli("prepare", source, "--tokenizer", tokenizer, "--out", out, *OPTIONS, *more, cwd=out.parent)


def contents(out: Path) -> dict[str, str]:
    """A hash of every file but the summary, which holds seconds."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "summary.json"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def manifest(out: Path, split: str = "train") -> dict:
    return json.loads((out / split / "manifest.json").read_text())


def test_shards_report_and_summary_of_a_folder(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    assert prepare(images, tokenizer, tmp_path / "t").returncode == 0
    train, test = (TokenDataset(tmp_path / "t" / split) for split in ("train", "test"))
    assert train.manifest.class_names == ("cat", "dog")
    assert len(train) + 2 * len(test) == 2 * NUMBER  # flips in training only
    assert train.manifest.standardisation == test.manifest.standardisation
    reports = [tmp_path / "t" / split / "report.jsonl" for split in ("train", "test")]
    lines = [json.loads(line) for report in reports for line in report.read_text().splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["broken.png"]
    summary = json.loads((tmp_path / "t/train/summary.json").read_text())
    assert summary["rows"] == len(train)
    assert 0 <= summary["share_outside_encoder"] < 1
    assert not (tmp_path / "t/train/progress").exists()


def wait_for_shards(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Until some shards are finished and others are not."""
    while process.poll() is None and len(list(out.glob("train/progress/*.json"))) < 2:
        time.sleep(0.002)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    images: Path, tokenizer: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    out = tmp_path / "tokens"
    slow = (
        "import sys, time; from purrception.tokenizers import VQTokenizer; encode = VQTokenizer.encode\n"
        "def crawl(self, images): time.sleep(0.2); return encode(self, images)\n"
        "VQTokenizer.encode = crawl\n"
        "from purrception.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["prepare", str(images), "--tokenizer", str(tokenizer), "--out", str(out), *OPTIONS]
    process = subprocess.Popen(
        [python(), "-c", slow, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    wait_for_shards(out, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # to the end of its output, which is its own end
    assert process.returncode == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in (out / "train").glob("shard-*")}
    assert len(finished) >= 2
    assert not (out / "train/manifest.json").exists()
    done = prepare(images, tokenizer, out)
    assert done.returncode == 0, done.stderr
    recorded = sorted(finished)[:2]
    assert all(path.stat().st_mtime_ns == finished[path] for path in recorded)  # not made again
    assert contents(out) == undisturbed


@pytest.mark.slow
def test_two_processes_make_the_same_bytes(
    images: Path, tokenizer: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    command = ["prepare", images, "--tokenizer", tokenizer, "--out", "tokens", *OPTIONS]
    done = run_torchrun("-m", "--", "purrception", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: ") == 1
    assert contents(tmp_path / "tokens") == undisturbed


def test_a_finished_folder_is_left_alone_and_another_plan_refused(
    images: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokens"
    arguments = ["prepare", str(images), "--tokenizer", str(tokenizer), "--out", str(out), *OPTIONS]
    assert main(arguments) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    assert main([*arguments, "--images-per-shard", "7"]) == 2
    assert "begun with another images_per_shard" in capsys.readouterr().err


def test_strict_stops_at_the_first_broken_image(
    images: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prepare", str(images), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "t"), *OPTIONS]
    assert main([*arguments, "--strict", "True"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "broken.png: not an image in a known format" in error


def test_a_folder_of_unusual_images(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_unusual_images(tmp_path / "unusual folder, ž")
    options = ["--tokenizer", str(tokenizer), "--out", str(tmp_path / "t"), "--image-size", "16"]
    assert main(["prepare", str(root), *options, "--test-fraction", "0"]) == 2
    assert "classes 0" in capsys.readouterr().err
    assert main(["prepare", str(root), *options, "--test-fraction", "0", "--classes", "0"]) == 0
    assert f"{READABLE} rows of {READABLE + len(BROKEN)} images, {len(BROKEN)} skipped" in capsys.readouterr().out
    report = [json.loads(line) for line in (tmp_path / "t/train/report.jsonl").read_text().splitlines()]
    assert {Path(line["image"]).name for line in report if "image" in line} == BROKEN.keys()
    assert [Path(line["file"]).name for line in report if "file" in line] == ["notes.txt"]
    assert all(line["reason"] for line in report)


def test_nothing_readable_is_one_line(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_text("text")
    options = ["--tokenizer", str(tokenizer), "--out", str(tmp_path / "t"), "--test-fraction", "0"]
    assert main(["prepare", str(tmp_path / "images"), *options, "--image-size", "16"]) == 2
    assert "none of the 1 images" in capsys.readouterr().err


def test_a_full_disk_loses_nothing_finished(
    images: Path,
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, str],
) -> None:
    arguments = ["prepare", str(images), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "t"), *OPTIONS]
    flushed = 0

    def full(descriptor: int) -> None:
        nonlocal flushed
        flushed += 1
        if flushed > 14:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert main(arguments) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "t/train").glob("shard-*"))
    assert not list((tmp_path / "t").rglob("*.partial"))
    assert main(arguments) == 0
    assert contents(tmp_path / "t") == undisturbed


def test_crops_depend_on_seed_image_and_view_alone(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    options = ["--tokenizer", str(tokenizer), *OPTIONS, "--views", "3"]
    for name, more in {"a": [], "b": ["--batch-size", "5", "--workers", "1"], "c": ["--seed", "1"]}.items():
        assert main(["prepare", str(images), "--out", str(tmp_path / name), *options, *more]) == 0
    rows = {name: TokenDataset(tmp_path / name / "train").rows(np.arange(60))[0] for name in "abc"}
    assert np.array_equal(rows["a"], rows["b"])
    assert not np.array_equal(rows["a"], rows["c"])
    assert not np.array_equal(rows["a"][0::3], rows["a"][1::3])
    assert manifest(tmp_path / "a")["views"] == 3
    assert manifest(tmp_path / "a", "test")["views"] == 0


def make_tar(path: Path, images: Path, labels: dict[str, str], json_labels: bool = False) -> Path:
    """The images of a folder, with labels beside them."""

    def add(name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))

    with tarfile.open(path, "w") as archive:
        for file in sorted(images.rglob("*.png")):
            key, label = f"x/{file.stem}", labels[file.parent.name]
            add(f"{key}.png", file.read_bytes())
            add(
                *(
                    (f"{key}.json", json.dumps({"label": int(label)}).encode())
                    if json_labels
                    else (f"{key}.cls", label.encode())
                )
            )
    return path


@pytest.mark.parametrize("json_labels", [False, True])
def test_tars_give_the_rows_of_the_folder(
    images: Path, tokenizer: Path, tmp_path: Path, json_labels: bool
) -> None:
    make_tar(tmp_path / "in-000.tar", images / "cat", {"cat": "0"}, json_labels)
    make_tar(tmp_path / "in-001.tar", images / "dog", {"dog": "1"}, json_labels)
    options = ["--tokenizer", str(tokenizer), "--image-size", "16", "--test-fraction", "0"]
    assert main(["prepare", str(tmp_path / "in-{000..001}.tar"), *options, "--out", str(tmp_path / "tar")]) == 0
    assert main(["prepare", str(images), *options, "--out", str(tmp_path / "folder")]) == 0
    rows = [TokenDataset(tmp_path / name / "train").rows(np.arange(NUMBER)) for name in ("tar", "folder")]
    assert np.array_equal(rows[0][1], rows[1][1])
    assert np.array_equal(rows[0][0], rows[1][0])
    assert manifest(tmp_path / "tar")["class_names"] == ["0", "1"]


@pytest.mark.parametrize("damage", ["header", "content", "end"])
def test_a_damaged_tar_loses_the_damaged_member_only(
    images: Path, tokenizer: Path, tmp_path: Path, damage: str
) -> None:
    tar = make_tar(tmp_path / "in.tar", images / "cat", {"cat": "0"})
    with tarfile.open(tar) as archive:
        members = [member for member in archive if member.name.endswith(".png")]
    victim = members[-1] if damage == "end" else members[10]
    content = bytearray(tar.read_bytes())
    if damage == "header":
        content[victim.offset : victim.offset_data] = b"\xa5" * 512
    elif damage == "content":
        content[victim.offset_data + 30 : victim.offset_data + 200] = bytes(170)
    else:
        content = content[: victim.offset_data + 100]
    tar.write_bytes(content)
    options = ["--tokenizer", str(tokenizer), "--image-size", "16", "--test-fraction", "0", "--classes", "0"]
    assert main(["prepare", str(tar), *options, "--out", str(tmp_path / "t")]) == 0
    assert len(TokenDataset(tmp_path / "t/train")) == NUMBER // 2 - 1
    report = [json.loads(line) for line in (tmp_path / "t/train/report.jsonl").read_text().splitlines()]
    (line,) = [line for line in report if "image" in line]  # beside it the label of the lost member
    wording = {"header": "header in the tar is damaged", "content": "", "end": "the tar ends within it"}
    assert wording[damage] in line["reason"]
    assert damage == "header" or line["image"] == f"{tar}:{victim.name}"


def test_a_compressed_or_missing_tar_is_refused(
    images: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "in.tar", "w:gz") as archive:
        archive.add(images)
    for name, message in (("in.tar", "compressed"), ("gone-{0..2}.tar", "no tar at")):
        options = ["--tokenizer", str(tokenizer), "--out", str(tmp_path / "t"), "--image-size", "16"]
        assert main(["prepare", str(tmp_path / name), *options]) == 2
        assert message in capsys.readouterr().err


def test_a_hub_data_set_gives_the_rows_of_the_folder(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = sorted((images / "cat").glob("*.png")) + sorted((images / "dog").glob("*.png"))
    labels = [int(file.parent.name == "dog") for file in files]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    columns = {"image": [{"bytes": file.read_bytes(), "path": None} for file in files], "label": labels}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    options = ["--tokenizer", str(tokenizer), "--image-size", "16", "--test-fraction", "0"]
    assert main(["prepare", str(tmp_path / "saved"), *options, "--out", str(tmp_path / "hub")]) == 0
    assert main(["prepare", str(images), *options, "--out", str(tmp_path / "folder")]) == 0
    rows = [TokenDataset(tmp_path / name / "train").rows(np.arange(NUMBER)) for name in ("hub", "folder")]
    assert np.array_equal(rows[0][0], rows[1][0])
    assert np.array_equal(rows[0][1], rows[1][1])
    assert manifest(tmp_path / "hub")["class_names"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits"], "give --tokenizer DIR --out DIR"),
        (["digits", "--tokenizer", "nowhere", "--out", "t"], "no tokenizer at nowhere"),
        (["digits", "--tokenizr", "nowhere"], "did you mean '--tokenizer'?"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"), [("--image-size", "18", "a multiple"), ("--classes", "3", "says 3")]
)
def test_options_that_do_not_fit(
    images: Path,
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    message: str,
) -> None:
    options = ["--tokenizer", str(tokenizer), "--out", str(tmp_path / "t"), "--image-size", "16", option, value]
    assert main(["prepare", str(images), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "t").exists()
