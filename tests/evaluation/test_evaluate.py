"""``purrception evaluate`` as a person meets it: runs, folders, references, manifests, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from purrception.cli import main
from purrception.data import DataConfig, array_to_pil, open_images
from purrception.evaluation.generation import GeneratedCodes
from purrception.evaluation.image_sets import NpzImages
from purrception.evaluation.references import open_reference
from tests.conftest import run_torchrun


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one's own, evaluated once: report in ``evaluation/000``."""
    copy = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(tiny_run, copy)
    assert evaluate(copy, "--num", 140, "--guidances", 1.5) == 0
    return copy


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said in one line when the arguments are refused."""
    capsys.readouterr()
    assert evaluate(*arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    return said[-1]


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 real test digits in class folders, and 60 training digits."""
    root = tmp_path_factory.mktemp("digits")
    for split in ("train", "test"):
        source = open_images(DataConfig(), split)  # type: ignore[arg-type]
        for row in range(60):
            array, label = source[row]
            folder = root / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            array_to_pil(array).save(folder / f"{row:03d}.png")
    return root


@pytest.mark.slow
def test_the_report_names_its_protocol_and_carries_its_manifest(run: Path) -> None:
    report = report_of(run / "evaluation/000")
    manifest, row = report["manifest"], report["rows"][0]
    assert manifest["reference"]["protocol"] == "val"
    assert manifest["features"]["name"] == "classifier"
    assert manifest["images"]["sampling"]["solver"] == "euler"
    assert (manifest["images"]["nfe"], manifest["images"]["labels"]) == ([6], "balanced")
    assert {"transformer_hash", "tokenizer_hash", "precision", "seed"} <= manifest["images"].keys()
    assert row["frechet_low"] < row["frechet"] < row["frechet_high"]
    assert {"kid", "density", "coverage", "spatial_frechet", "inception_score", "perplexity"} <= row.keys()
    assert 0 < row["codes_used"] <= 1
    assert [floor["count"] for floor in report["floors"]] == [140, 140]
    assert report["floors"][0]["frechet"] == report["frechet_floor"] < row["frechet"]
    worst = [one["figures"]["kid"] for one in report["classes"]]
    assert len(worst) == 10
    assert worst == sorted(worst, reverse=True)
    text = (run / "evaluation/000/report.md").read_text()
    assert "Protocol `val` (held-out images): test split of digits, 355 images" in text
    assert "## Manifest" in text
    with Image.open(run / "evaluation/000/report.png") as picture:
        assert picture.size[0] > 500


@pytest.mark.slow
def test_the_report_says_what_is_memorised_by_features_and_by_codes(run: Path) -> None:
    report = report_of(run / "evaluation/000")
    by = {row["by"]: row for row in report["memorisation"]["rows"]}
    assert by.keys() == {"features", "codes"}
    for row in by.values():
        assert (row["guidance"], row["count"], row["held_out"], row["training"]) == (1.5, 140, 355, 1442)
        assert row["copied_low"] <= row["copied"] <= row["copied_high"]
        assert row["from_training_low"] <= row["from_training"] <= row["from_training_high"]
        assert row["expected_from_training"] == pytest.approx(1442 / 1797)
    gap = report["memorisation"]["gap"]
    assert gap["gap"] == pytest.approx(gap["held_out"] - gap["training"])
    assert gap["gap_low"] < gap["gap"] < gap["gap_high"]
    assert abs(gap["gap"]) < 0.2  # eight steps teach nothing by heart
    assert report["memorisation"]["missing"] == []
    text = (run / "evaluation/000/report.md").read_text()
    assert "## Memorisation" in text
    assert "| guidance | by | count | copied | nearer than held-out | C_T |" in text
    assert f"Loss on {gap['count']} training images" in text


@pytest.mark.slow
def test_every_metric_has_a_floor_and_an_interval(run: Path) -> None:
    report = report_of(run / "evaluation/000")
    accuracy = report["classifier_accuracy"]
    halves, made = report["floors"][1], report["rows"][0]
    for name in ("frechet", "kid", "precision", "recall", "density", "coverage", "recognised"):
        for row in (halves, made):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], (name, row["images"])
    assert report["floors"][0]["recognised"] is None  # of images that the classifier has learned
    assert halves["recognised"] == pytest.approx(accuracy, abs=0.2)


def test_where_nothing_can_be_compared_with_the_report_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--num", 20, "--guidances", 1.5, "--bootstrap", 0]
    assert evaluate(run, *common, "--training-images", 0, "--out", tmp_path / "unasked") == 0
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    for split, expected in (
        ("train", "by codes: the token shards"),
        ("test", "by features and by codes: no token"),
    ):
        shutil.rmtree(moved / "tokens" / split)
        assert evaluate(moved, *common, "--out", tmp_path / split) == 0
        memorisation = report_of(tmp_path / split)["memorisation"]
        assert memorisation["missing"][0].startswith(expected)
        assert memorisation["gap"] is None
        assert "Not measured: " + expected in (tmp_path / split / "report.md").read_text()
    assert [row["by"] for row in report_of(tmp_path / "train")["memorisation"]["rows"]] == ["features"]
    assert report_of(tmp_path / "test")["memorisation"]["rows"] == []
    assert "--training-images 0" in report_of(tmp_path / "unasked")["memorisation"]["missing"][0]
    assert "training_images is 0" in refusal(capsys, run, "--training-images", 1)


@pytest.mark.slow
def test_batches_processes_and_kills_change_nothing(run: Path, tmp_path: Path) -> None:
    samples = run / "evaluation/samples"
    codes = next(samples.iterdir())
    expected = {path.name: path.read_bytes() for path in codes.glob("codes-*")}
    assert len(expected) == 2
    same = ["--num", 140, "--guidances", 1.5, "--classifier", run / "evaluation/000/classifier.safetensors"]
    reports = []
    for batch in (1, 7, 64):
        shutil.rmtree(samples)
        out = tmp_path / f"batch-{batch}"
        assert evaluate(run, *same, "--batch-size", batch, "--cache", tmp_path / f"c{batch}", "--out", out) == 0
        assert {path.name: path.read_bytes() for path in codes.glob("codes-*")} == expected
        reports.append(report_of(out))
    assert reports[0] == reports[1] == reports[2]
    # Killed while it wrote its second file: the first is kept, the rest is made again.
    kept = codes / "codes-00000.safetensors"
    when = kept.stat().st_mtime_ns
    (codes / "codes-00001.safetensors").rename(codes / ".codes-00001.safetensors.partial")
    out = tmp_path / "two"
    done = run_torchrun(
        "-m",
        "--",
        "purrception",
        "evaluate",
        run,
        *map(str, same),
        "--cache",
        tmp_path / "c2",
        "--out",
        out,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in codes.glob("codes-*")} == expected
    assert kept.stat().st_mtime_ns == when
    two = report_of(out)
    assert two["manifest"] == reports[0]["manifest"]
    one, other = reports[0]["rows"][0], two["rows"][0]
    assert one["content"] == other["content"]  # every pixel
    for name in ("frechet", "frechet_low", "spatial_frechet", "kid", "precision", "density", "recognised"):
        assert other[name] == pytest.approx(one[name], rel=1e-10), name
    for found, expected in zip(two["memorisation"]["rows"], reports[0]["memorisation"]["rows"], strict=True):
        for name in ("copied", "copied_high", "nearer", "c_t", "from_training", "from_training_low"):
            assert found[name] == pytest.approx(expected[name], rel=1e-6), name


@pytest.mark.slow
def test_images_are_written_for_other_evaluators_each_under_its_own_name(run: Path, tmp_path: Path) -> None:
    common = [run, "--num", 20, "--guidances", 1.0, "--bootstrap", 0, "--labels", "data"]
    for kind in ("png", "npz"):
        assert evaluate(*common, "--save-images", kind, "--out", tmp_path / kind) == 0
    png, npz = (Path(report_of(tmp_path / kind)["rows"][0]["saved"]) for kind in ("png", "npz"))
    assert [path.name for path in sorted(png.iterdir())] == [f"{number:06d}.png" for number in range(20)]
    with np.load(npz) as content:
        images, labels = content["arr_0"], content["arr_1"]
        assert json.loads(str(content["manifest"]))["nfe"] == 3
    assert (images.shape, images.dtype, len(labels)) == ((20, 16, 16, 3), np.uint8, 20)
    assert labels.tolist() != [number % 10 for number in range(20)]
    for number in (0, 7, 19):
        with Image.open(png / f"{number:06d}.png") as image:
            assert np.array_equal(np.asarray(image), images[number, :, :, 0])
    read = NpzImages(npz).read(range(5, 9))
    assert np.array_equal(np.stack([image for image, _ in read]), images[5:9])
    codes = GeneratedCodes(npz.parent, 20)
    assert codes.rows(np.arange(20))[1].tolist() == labels.tolist()
    assert codes.counts(16).sum() == 20 * 4 * 4


@pytest.mark.slow
def test_images_against_a_folder_and_against_its_saved_statistics(run: Path, digits: Path, tmp_path: Path) -> None:
    stats, given = tmp_path / "test.npz", run / "evaluation/000/classifier.safetensors"
    assert evaluate(digits / "test", "--save-stats", stats, "--protocol", "val", "--classifier", given) == 0
    classifier = tmp_path / "test.classifier.safetensors"
    assert classifier.read_bytes() == given.read_bytes()
    options = ["--classifier", classifier, "--cache", tmp_path / "c"]
    assert evaluate(digits / "train", "--reference", digits / "test", *options, "--out", tmp_path / "a") == 0
    assert evaluate(digits / "train", "--reference", stats, *options, "--out", tmp_path / "b") == 0
    folder, saved = report_of(tmp_path / "a"), report_of(tmp_path / "b")
    assert folder["manifest"]["reference"]["protocol"] == "custom"
    assert saved["manifest"]["reference"]["protocol"] == "val"
    for name in ("content", "count"):
        assert folder["manifest"]["reference"][name] == saved["manifest"]["reference"][name]
    for name in ("frechet", "kid", "precision", "spatial_frechet", "recognised"):
        assert saved["rows"][0][name] == pytest.approx(folder["rows"][0][name], rel=1e-9), name
    assert any("too few for features of 64" in warning for warning in folder["warnings"])
    assert evaluate(digits / "test", "--reference", stats, *options, "--out", tmp_path / "same") == 0
    assert report_of(tmp_path / "same")["rows"][0]["frechet"] < 1e-6


def test_classes_of_two_parts_are_also_judged_part_by_part(digits: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for digit, name in enumerate(("round · even", "straight · odd", "round · odd", "straight · even")):
            shutil.copytree(digits / split / str(digit), tmp_path / split / name)
    out = tmp_path / "out"
    options = ["--reference", tmp_path / "test", "--cache", tmp_path / "cache", "--classifier.steps", 30]
    assert evaluate(tmp_path / "train", *options, "--out", out) == 0
    report = report_of(out)
    (row,), real = report["rows"], report["classifier_accuracy_parts"]
    for parts, whole in ((row["parts"], row["recognised"]), (real, report["classifier_accuracy"])):
        assert [part["values"] for part in parts] == [["round", "straight"], ["even", "odd"]]
        for part in parts:
            assert part["recognised"] >= whole - 0.1
            assert part["recognised_low"] < part["recognised"] <= part["recognised_high"]
    text = (out / "report.md").read_text()
    assert "| images | round, straight | even, odd |" in text
    assert "| real reference images |" in text


@pytest.mark.slow
def test_results_are_ranked_only_where_that_means_something(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--features", "texture", "--cache", tmp_path / "cache"]
    assert evaluate(digits / "train", "--reference", digits / "test", *options, "--out", tmp_path / "a") == 0
    assert evaluate(digits / "test", "--reference", digits / "test", *options, "--out", tmp_path / "b") == 0
    assert evaluate(digits / "test", "--reference", digits / "train", *options, "--out", tmp_path / "c") == 0
    capsys.readouterr()
    assert evaluate("--diff", tmp_path / "a", tmp_path / "b") == 0
    said = capsys.readouterr().out
    assert "| images.path |" in said
    assert "B's best row is nearer" in said
    assert "not ranked: the two differ in reference" in refusal(capsys, "--diff", tmp_path / "a", tmp_path / "c")
    assert evaluate("--diff", tmp_path / "a", tmp_path / "c", "--anyway") == 0
    assert "WARNING: the two differ in reference" in capsys.readouterr().out
    assert "no result at" in refusal(capsys, "--diff", tmp_path / "a", tmp_path / "nothing")
    assert "usage: purrception evaluate --diff A B" in refusal(capsys, "--diff", tmp_path / "a")


def test_token_shards_and_splits_are_references(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [run, "--num", 20, "--guidances", 1.5, "--bootstrap", 0, "--out"]
    assert evaluate(*common, run.parent / "tokens", "--reference", run / "tokens/test") == 0
    assert evaluate(*common, run.parent / "train", "--reference", "train") == 0
    decoded, train = report_of(run.parent / "tokens"), report_of(run.parent / "train")
    assert decoded["manifest"]["reference"]["count"] == 355
    assert decoded["manifest"]["reference"]["protocol"] == "custom"
    assert train["manifest"]["reference"]["protocol"] == "adm-train"
    assert train["floors"][0]["images"] == "real held-out images (floor)"
    assert "not empty" in refusal(capsys, *common, run.parent / "train")


def test_adms_files_hold_statistics_of_inception_and_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "adm.npz", arr_0=images, mu=np.zeros(4), sigma=np.eye(4), mu_s=np.ones(3), sigma_s=np.eye(3)
    )
    reference = open_reference(str(tmp_path / "adm.npz"), None, None)
    assert reference.protocol == "adm-train"
    assert reference.origin is not None
    assert reference.origin.features == "inception"
    assert reference.saved is not None
    assert reference.saved.spatial is not None
    assert torch.equal(reference.saved.statistics.covariance, torch.eye(4).double())
    assert reference.images is not None
    assert np.array_equal(np.stack([image for image, _ in reference.images.read(range(2, 6))]), images[2:])  # type: ignore[misc]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The same grey images as a folder and as an .npz, and coloured ones, 16 of 20×20 pixels each."""
    draw = np.random.default_rng(0)
    grey = np.repeat(draw.integers(0, 256, (16, 20, 20, 1), dtype=np.uint8), 3, axis=-1)
    coloured = draw.integers(0, 256, (16, 20, 20, 3), dtype=np.uint8)
    coloured[:15] = coloured[:15, ..., :1]  # one alone has any colour
    np.savez(tmp_path / "grey.npz", arr_0=grey)
    for name, images in (("grey", grey), ("coloured", coloured), ("small", coloured[:, :16, :16])):
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image[..., 0] if name == "grey" else image).save(tmp_path / name / f"{number:02}.png")
    return tmp_path


def test_grey_images_are_compared_in_colour_where_the_reference_has_some(pictures: Path) -> None:
    common = ["--features", "texture", "--bootstrap", 0, "--cache", "none"]
    stats = pictures / "coloured.npz"
    assert evaluate(pictures / "coloured", "--save-stats", stats, *common) == 0
    found = {}
    for judged in ("grey", "grey.npz"):
        for reference in ("coloured", "coloured.npz", "grey", "grey.npz"):
            out = pictures / f"{judged}-{reference}"
            assert evaluate(pictures / judged, "--reference", pictures / reference, *common, "--out", out) == 0
            report = report_of(out)
            found[judged, reference] = report["rows"][0], report["manifest"]["features"]["dimension"]
    for reference, dimension in (("coloured", 38), ("coloured.npz", 38), ("grey", 34), ("grey.npz", 34)):
        (folder, own), (packed, other) = found["grey", reference], found["grey.npz", reference]
        assert own == other == dimension
        assert {**folder, "images": ""} == {**packed, "images": ""}
    assert found["grey", "grey"][0]["frechet"] < 1e-9
    assert found["grey", "coloured"][0]["frechet"] == pytest.approx(found["grey", "coloured.npz"][0]["frechet"])


def test_what_was_not_taken_of_a_folder_is_told_in_a_line_and_listed(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged, out = pictures / "grey", pictures / "out"
    (judged / "03.png").write_bytes(b"")
    (judged / "notes.txt").write_text("no image")
    common = ["--features", "texture", "--bootstrap", 0, "--cache", "none"]
    (pictures / "coloured/more.md").write_text("no image")
    assert evaluate(judged, "--reference", pictures / "coloured", *common, "--out", out) == 0
    listed = [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]
    assert [Path(one.get("image") or one["file"]).name for one in listed] == ["more.md", "03.png", "notes.txt"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"report: {out}"
    (said,) = (line for line in lines if line.startswith("images:"))
    assert said.startswith(f"images: 1 skipped, such as {judged / '03.png'} (the file is empty")
    assert f"; 2 other files ignored, such as {pictures / 'coloured/more.md'} (" in said
    assert said.endswith(f"; the list: {out / 'report.jsonl'}")
    assert evaluate(judged, "--save-stats", pictures / "stats.npz", *common) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"images: 1 skipped, such as {judged / '03.png'}")
    assert f"; 1 other file ignored, such as {judged / 'notes.txt'}" in said
    assert "the list" not in said


def test_images_of_another_size_are_refused_where_features_depend_on_it(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [pictures / "small", "--reference", pictures / "coloured", "--features", "texture"]
    for more in ([], ["--bootstrap", 0]):
        said = refusal(capsys, *given, *more, "--cache", "none", "--out", pictures / "out")
        assert "have 16×16 pixels, the reference 20×20; texture features compare images of one size" in said


def test_what_cannot_be_evaluated_is_refused_in_a_line(
    run: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = digits / "test"
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "stats.npz", mu=np.zeros(4), sigma=np.eye(4))
    (tmp_path / "damaged.npz").write_bytes(b"PK damaged")
    (tmp_path / "one").mkdir()
    Image.new("L", (16, 16)).save(tmp_path / "one" / "only.png")
    texture = ["--features", "texture"]
    for arguments, expected in (
        ([tmp_path / "nowhere"], "no run at"),
        ([images], "give some with --reference"),
        ([images, "--reference", tmp_path / "other.npz", *texture], "holds x; expected are mu and sigma"),
        ([images, "--reference", tmp_path / "damaged.npz", *texture], "is not an .npz that can be read"),
        ([images, "--reference", tmp_path / "missing.npz", *texture], "no file at"),
        ([images, "--reference", tmp_path / "stats.npz", *texture], "holds statistics of inception features"),
        ([images, "--reference", "test", *texture], "is a split of a run's data"),
        ([images, "--reference", run / "tokens/test", *texture], "which a run's tokenizer decodes"),
        ([images, "--reference", tmp_path / "one", *texture], "at least 2 images; given 1"),
        ([tmp_path / "one", "--reference", images, *texture], "at least 2 images; given 1"),
        ([images, "--reference", images, "--num", "5"], "--num say how a run makes some"),
        ([images, "--reference", images, "--features", "inception"], "--weights"),
        ([images, "--reference", images, "--protocol", "vall", *texture], "did you mean 'val'"),
        ([tmp_path / "stats.npz", "--reference", images, *texture], "give it as --reference"),
        ([run, "--batch-size", 0], "batch_size at least 1"),
        ([run, "--reference", tmp_path / "nothing"], "no reference at"),
        ([run, "--save-stats", "stats.txt"], "names an .npz file"),
    ):
        assert expected in refusal(capsys, *arguments, "--out", tmp_path / "out"), arguments
    assert not (tmp_path / "out").exists()
