"""Diagnoses of real tiny runs, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from purrception.cli import main
from purrception.diagnose.run import PARTS, choose_parts
from tests.cli.test_cli import fails_with_one_line
from tests.conftest import run_cli

FEW = ["--num", "8"]


@pytest.fixture(scope="module")
def report(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parts on the tiny run, written elsewhere."""
    folder = tmp_path_factory.mktemp("diagnosis") / "report"
    done = run_cli("diagnose", tiny_run, *FEW, "--out", folder, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert all(f"{name}: " in done.stderr for name in PARTS)
    return folder


@pytest.mark.slow
def test_a_report_has_every_part_with_figures_and_pictures(report: Path) -> None:
    found = json.loads((report / "report.json").read_text())
    assert set(found) == {"protocol", *PARTS}
    text = (report / "report.md").read_text()
    pictures = [line.split("(")[1][:-1] for line in text.splitlines() if line.startswith("![")]
    assert len(pictures) == len(set(pictures)) >= 12
    assert all((report / name).stat().st_size > 2000 for name in pictures)
    assert "{" not in text
    calibration = found["calibration"]["overall"]
    assert set(calibration) >= {"as trained", "a τ for each t"}
    assert 0 <= calibration["as trained"]["error"] <= 1
    assert found["bound"]["check"]["held"]
    assert len(found["smoothness"]["stiffness"]) == 2  # both checkpoints of the run
    assert found["smoothness"]["proposed_grids"]["10"][-1] == 1.0
    assert len(found["oracle"]["gaps"]["training"]) == 9
    assert found["oracle"]["landed"]["euler"]["32"] > 0.9
    assert found["drift"]["over_training"]["steps"][-1] == 8
    assert len(found["temperature"]["rows"]) >= 11
    assert found["codebook"]["sample_codes"] >= 1


def test_parts_are_chosen_by_name_and_nothing_is_overwritten(
    tiny_run: Path, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose_parts(["oracle", "calibration"]) == ["calibration", "oracle"]
    assert main(["diagnose", str(tiny_run), "--only", "drift", *FEW, "--out", str(tmp_path / "r")]) == 0
    found = json.loads((tmp_path / "r" / "report.json").read_text())
    assert set(found) == {"protocol", "drift"}
    assert "choose another folder" in fails_with_one_line(capsys, "diagnose", tiny_run, *FEW, "--out", report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no run at nowhere"),
        ([], "usage: purrception diagnose"),
        (["RUN", "--only", "calibratoin"], "did you mean 'calibration'?"),
        (["RUN", "--num", "2"], "needs at least 4 images"),
        (["RUN", "--onyl", "drift"], "did you mean '--only'?"),
        (["RUN", "--suite"], "takes no run"),
        (["--suite", "--sets", "digits@big"], "NAME@PIXELS"),
        (["--suite", "--sets", "digit@16"], "no folder of images at 'digit'"),
        (["--suite", "--objectives", "cfmm"], "did you mean 'cfm'?"),
    ],
)
def test_mistakes_are_told_in_one_line(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, arguments: list[str], message: str
) -> None:
    words = [str(tiny_run) if word == "RUN" else word for word in arguments]
    assert message in fails_with_one_line(capsys, "diagnose", *words)
    assert not (tiny_run / "diagnostics").exists()


def test_what_a_run_lacks_is_told_in_one_line(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / "tokens" / "test")
    only = ["--only", "calibration"]
    assert "holds no images out" in fails_with_one_line(capsys, "diagnose", run, *only, *FEW)
    assert main(["diagnose", str(run), "--only", "drift", *FEW]) == 0  # measured on training images instead
    assert "training images" in (run / "diagnostics" / "000" / "report.md").read_text()
    shutil.rmtree(run / "pipeline")
    assert main(["diagnose", str(run), "--only", "drift", *FEW]) == 0  # from its latest checkpoint
    shutil.rmtree(run / "tokenizer")
    assert "the tokenizer of the run is gone" in fails_with_one_line(capsys, "diagnose", run, *FEW)
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint yet" in fails_with_one_line(capsys, "diagnose", run, *FEW)


@pytest.mark.slow
def test_a_run_without_a_posterior_is_given_the_parts_that_apply(tiny_run: Path, tmp_path: Path) -> None:
    for name, applies, split in (
        ("cfm", {"codebook", "oracle", "smoothness"}, 0.9),  # few images for the exact posterior
        ("dfm", {"calibration", "codebook", "drift", "temperature"}, 0.2),
    ):
        options = ["--objective.name", name, "--runs", "runs", "--name", name, "--training.steps", "2"]
        options += ["--data.test-fraction", str(split)]
        words = ["train", tiny_run / "config.yaml", *options, "--tokenizer.path", tiny_run / "tokenizer"]
        done = run_cli(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        done = run_cli("diagnose", f"runs/{name}", *FEW, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "without uncertainty: a" in done.stderr
        found = json.loads((tmp_path / "runs" / name / "diagnostics" / "000" / "report.json").read_text())
        assert set(found) == {"protocol", *applies}
        assert "left out: uncertainty" in found["protocol"]


def test_training_writes_signs_of_trouble(tiny_run: Path) -> None:
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    watched = [line for line in lines if "watch/sample_perplexity" in line]
    assert [line["step"] for line in watched] == [4, 8]
    assert {"watch/calibration_error", "watch/entropy", "watch/class_agreement", "watch/logsumexp_at_most"} <= set(
        watched[0]
    )
