"""Real comparisons and sweeps at tiny size, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from purrception.data import DataConfig, open_images
from purrception.flow import SamplingConfig
from purrception.storage import load_settings
from tests.conftest import run_cli

ENTRIES = ["purrception", "cfm", "cfm-endpoint", "dfm", "purrception+geometric+evidence"]


@pytest.fixture(scope="module")
def comparison(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    sizes = "--points 2 --num 20 --out cmp --training.steps 4 --data.test-fraction 0.05 --network.depth 1"
    fixed = ["compare", tiny_run / "config.yaml", *sizes.split()]
    begun = run_cli(*fixed, "--objectives", "cfm,purrception", "--seeds", "1", cwd=folder)
    assert begun.returncode == 0, begun.stderr
    arguments = [*fixed, "--objectives", ",".join(ENTRIES), "--seeds", "2"]
    done = run_cli(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "cfm seed 0" not in done.stdout  # measured before
    again = run_cli(*arguments, cwd=folder)  # nothing is left to train
    assert again.returncode == 0, again.stderr
    assert "training" not in again.stderr
    other = run_cli(*arguments, "--training.learning-rate", "1", cwd=folder)
    assert other.returncode == 2
    assert "another comparison" in other.stderr
    assert run_cli(*fixed, "--objectives", "cfm", "--seeds", "2", cwd=folder).returncode == 2
    return folder / "cmp"


@pytest.mark.slow
def test_every_entry_is_measured_at_every_point_with_its_settings(comparison: Path) -> None:
    report = json.loads((comparison / "report.json").read_text())
    rows = report["rows"]
    assert {(row["entry"], row["seed"], row["step"]) for row in rows} == {
        (entry, seed, step) for entry in ENTRIES for seed in (0, 1) for step in (3, 4)
    }
    by_entry = {row["entry"]: row for row in rows}
    assert by_entry["cfm"]["cross_entropy"] is None
    assert by_entry["dfm"]["mean_error"] is None
    assert by_entry["purrception"]["cross_entropy"] > 0
    assert all(row["bits_per_code"] > 0 and row["nfe"] == 3 and row["flops"] > 0 for row in rows)
    assert by_entry["cfm"]["sampling"]["temperature"] == 1.0
    text = (comparison / "report.md").read_text()
    assert f"The classifier recognises {report['classifier_accuracy']:.1%} of the real test images." in text
    for wanted in ("| entry |", "A ↓ needs less than B", "seconds of training", "NFE 3"):
        assert wanted in text
    assert (comparison / "report.png").stat().st_size > 10_000


def test_held_out_images_that_are_all_broken_are_told_in_a_line(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "my pictures", tmp_path / "pictures")
    data = DataConfig("folder", str(tmp_path / "pictures"), test_fraction=0.3)
    held_out = open_images(data, "test")
    for number in range(len(held_out)):
        Path(held_out.name(number)).write_bytes(b"")  # type: ignore[attr-defined]
    options = ["--data.root", "pictures", "--points", "1", "--num", "10", "--seeds", "1", "--objectives", "cfm"]
    done = run_cli("compare", project / "tiny.yaml", *options, "--out", "cmp", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert f"a comparison needs held-out images; {len(held_out)} skipped, such as " in said
    assert "the list: " in said


@pytest.mark.slow
def test_each_entry_is_tuned_on_request(tiny_run: Path, tmp_path: Path) -> None:
    options = ["--objectives", "purrception,cfm", "--seeds", "1", "--points", "1", "--num", "20", "--tune"]
    done = run_cli(
        "compare", tiny_run / "config.yaml", *options, "--out", "cmp", "--training.steps", "2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    tuned = {
        row["entry"]: row["tuned"] for row in json.loads((tmp_path / "cmp" / "report.json").read_text())["rows"]
    }
    assert tuned["cfm"]["sampling"]["temperature"] == 1.0  # it has none to choose
    assert (tuned["purrception"]["tried"], tuned["cfm"]["tried"]) == (9, 3)
    text = (tmp_path / "cmp" / "report.md").read_text()
    assert "## Tuned" in text
    assert "settings tried" in text


@pytest.mark.slow
def test_entries_share_data_order_and_initial_weights(tiny_run: Path, comparison: Path) -> None:
    from purrception.comparison.run import _share_initial_weights
    from purrception.experiment.build import build_network
    from purrception.experiment.config import load_config
    from purrception.tokenizers import VQTokenizer
    from purrception.tokens import TokenDataset

    tokens, tokenizer = TokenDataset(comparison / "tokens/train"), VQTokenizer.load(comparison / "tokenizer")
    plain = None
    for entry in ENTRIES:
        config = load_config(comparison / f"{entry}-seed1" / "config.yaml")
        assert config.seed == 1
        network = build_network(config, tokens.manifest, tokenizer)
        _share_initial_weights(network, config, tokens, tokenizer)
        weights = {name: value for name, value in network.named_parameters() if "backbone" in name}
        plain = plain or weights
        same = [name for name in weights if weights[name].shape == plain[name].shape]
        assert len(same) >= len(plain) - 1  # dfm's first layer sees one more channel
        assert all(torch.equal(weights[name], plain[name]) for name in same)
    trained = [
        load_file(next((comparison / f"{entry}-seed1/checkpoints/step-00000004/network").iterdir()))
        for entry in ENTRIES
    ]
    assert len({state["backbone.final_modulation.bias"].numpy().tobytes() for state in trained}) == len(ENTRIES)


@pytest.mark.slow
def test_sweep_writes_a_table_a_front_and_presets_that_sample_takes(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    options = ["--temperatures", "1.0", "linear:1.0:0.7", "--guidances", "1.0", "2.0", "--steps", "2", "4"]
    done = run_cli("sweep", run, *options, "--solvers", "euler", "heun", "--num", "20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = run / "sweeps/000"
    report = json.loads((folder / "report.json").read_text())
    assert len(report["rows"]) == 16
    assert {row["nfe"] for row in report["rows"]} == {2, 3, 4, 7, 6, 8, 14}
    best = min(report["rows"], key=lambda row: row["frechet"])
    assert set(report["again"]) == {"best.yaml", "fast.yaml"}
    assert report["again"]["best.yaml"] != best["frechet"]  # of another noise
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert f"another: {report['again']['best.yaml']:.2f}" in text
    assert f"The classifier recognises {report['classifier_accuracy']:.1%} of the real test images." in text
    preset = load_settings(SamplingConfig, folder / "best.yaml")
    assert (preset.solver, preset.num_inference_steps, str(preset.temperature)) == (
        best["solver"],
        best["num_inference_steps"],
        str(best["temperature"]),
    )
    sampled = run_cli("sample", run, "--num", "3", "--preset", folder / "fast.yaml", cwd=tmp_path)
    assert sampled.returncode == 0, sampled.stderr
    manifest = json.loads((run / "generated/000/manifest.json").read_text())
    fast = load_settings(SamplingConfig, folder / "fast.yaml")
    assert (manifest["solver"], manifest["num_inference_steps"]) == (fast.solver, fast.num_inference_steps)


@pytest.mark.slow
def test_runs_without_a_posterior_sample_but_have_no_temperature(tiny_run: Path, tmp_path: Path) -> None:
    options = ["--objective.name", "cfm", "--runs", "runs", "--tokenizer.path", tiny_run / "tokenizer"]
    done = run_cli("train", tiny_run / "config.yaml", *options, "--sampling.temperature", "0.9", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sampled = run_cli("sample", "runs/tiny", "--num", "2", "--solver", "heun", cwd=tmp_path)
    assert sampled.returncode == 0, sampled.stderr
    assert not (tmp_path / "runs/tiny/generated/000/entropy.png").exists()
    for arguments in (
        ("sample", "runs/tiny", "--temperature", "0.8"),
        ("sample", "runs/tiny", "--top-k", "3"),
        ("sweep", "runs/tiny", "--temperatures", "1.0", "0.9"),
    ):
        refused = run_cli(*arguments, cwd=tmp_path)
        assert refused.returncode == 2
        assert "posterior" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
