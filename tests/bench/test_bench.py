"""Bench: every part is measured, beside a reference that computes the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from purrception.bench import BenchConfig, bench
from purrception.bench.generation import generate, generate_plainly
from purrception.bench.measure import peak_on_processor
from purrception.bench.others import others
from purrception.bench.reference import reference_loss, reference_mean
from purrception.bench.workloads import REFERENCE, WORKLOADS, Z_LOSS
from purrception.models import training_flops
from purrception.utils.errors import InputError
from tests.conftest import ROOT, run_cli
from tests.forked import python

TINY = ["--network", "nano/2", "--grid", "4", "--codebook-size", "33", "--batch-size", "1", "--repeats", "1"]
SMALL = BenchConfig(network="nano/2", grid=4, codebook_size=33)


def test_the_reference_computes_what_we_do() -> None:
    config = BenchConfig(grid=4, codebook_size=33)
    head = config.build_head(torch.device("cpu"))
    features, targets = torch.randn(2, 2, 2, 384), torch.randint(33, (2, 4, 4))
    ours = head.loss(features, targets, Z_LOSS).total
    torch.testing.assert_close(ours, reference_loss(head, features, targets, Z_LOSS))
    mean, entropy = reference_mean(head, features, 0.9)
    posterior = head.posterior(features, temperature=0.9)
    torch.testing.assert_close(posterior.mean, mean)
    torch.testing.assert_close(posterior.entropy, entropy)


def test_every_part_is_measured_in_every_variant() -> None:
    report = bench(replace(SMALL, batch_size=1, steps=2, repeats=1, memory=False, tokenizer_channels=(8, 8)))
    measured = {(row.part, row.variant) for row in report.rows}
    assert measured == {(part, name) for part, work in WORKLOADS.items() for name in work.variants}
    assert all(row.seconds > 0 and row.bytes_per_image is None for row in report.rows)


def test_both_ways_of_generating_give_images_of_the_same_shape() -> None:
    config = replace(SMALL, steps=2, tokenizer_channels=(8, 8))
    ours, plain = (make(config, 3, torch.device("cpu"))() for make in (generate, generate_plainly))
    assert ours.shape == plain.shape == (3, 3, 8, 8)


def test_bench_on_the_command_line_measures_time_and_memory(tmp_path: Path) -> None:
    result = run_cli(
        "bench",
        *TINY,
        "--parts",
        "head",
        "--variants",
        "ours",
        REFERENCE,
        "--json",
        "--out",
        tmp_path / "out",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert all(row["seconds"] > 0 and row["bytes_per_image"] is not None for row in report["rows"])
    reference = [row for row in report["rows"] if row["variant"] == REFERENCE]
    assert all(row["times_the_reference"] == 1 for row in reference)
    assert "Vocabulary head alone" in (tmp_path / "out" / "report.md").read_text()


TORCHS_OWN = "linear_cross_entropy, no z-loss"


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="newer torch alone has it")
def test_torchs_own_cross_entropy_is_given_the_same_problem() -> None:
    head = BenchConfig(grid=4, codebook_size=33).build_head(torch.device("cpu"))
    features, targets = torch.randn(2, 2, 2, 384), torch.randint(33, (2, 4, 4))
    own = others()[TORCHS_OWN](head, features, targets)
    torch.testing.assert_close(own, head.loss(features, targets).total)


def test_a_torch_without_its_own_cross_entropy_is_measured_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    assert TORCHS_OWN not in others()


def test_sizes_are_varied_within_one_run_and_growth_is_fitted() -> None:
    config = replace(SMALL, grid=8, batch_size=1, repeats=1, memory=False)
    report = bench(config, ["head"], ["ours", REFERENCE], "codebook_size", ["40", "4000"])
    assert [(row.variant, row.setting) for row in report.rows] == [
        ("ours", 40),
        (REFERENCE, 40),
        ("ours", 4000),
        (REFERENCE, 4000),
    ]
    assert {growth.variant for growth in report.growth} == {"ours", REFERENCE}
    assert "codebook_size^" in report.markdown()
    named = bench(config, ["head"], ["factored head"], "network", ["S/2", "B/2"])
    assert not named.growth
    for vary, values, message in (
        ("codebook", ["40"], "did you mean 'codebook_"),
        ("grid", [], "needs --values"),
        ("grid", ["x"], "whole"),
    ):
        with pytest.raises(InputError, match=message):
            bench(config, ["head"], vary=vary, values=values)


def test_the_peak_is_what_was_held_at_a_time() -> None:
    def work() -> None:
        first = torch.ones(1000)
        torch.ones(5000)  # gone at once
        second = torch.ones(3000)
        assert len(first) + len(second) == 4000

    assert 4 * 6000 <= peak_on_processor(work) < 4 * 6100


def run_gpu_script(folder: Path, timeout: float = 580, **settings: str) -> subprocess.CompletedProcess[str]:
    """``benchmarks/gpu.sh`` at its tiny size."""
    environment = os.environ | {"DRY": "1", "PYTHON": python()} | settings
    return subprocess.run(
        ["bash", str(ROOT / "benchmarks/gpu.sh"), "figures"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def results(folder: Path) -> dict[str, str]:
    """What became of each part, by the summary."""
    rows = (folder / "figures/summary.md").read_text().splitlines()
    cells = [[cell.strip() for cell in row.split("|")] for row in rows if row.startswith("|")]
    return {name: result for _, name, _, result, _ in cells[2:]}


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_dry(tiny_run: Path, tmp_path: Path) -> None:
    archive = tmp_path / "figures.tar.gz"
    done = run_gpu_script(tmp_path, ARCHIVE=str(archive), LIMIT="560", TINY_RUN=str(tiny_run))
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(results(tmp_path).values()) == {"done"}
    made = {path.parent.name for path in tmp_path.glob("figures/*/report.json")}
    compiled = {"training-compiled", "training-large", "generation"}
    assert made == {"training", *compiled, "head", "sampling", "codebook", "recomputed", "emoji"}
    assert (tmp_path / "figures/profile/profile.md").read_text().count("The head takes") == 2
    assert Image.open(tmp_path / "figures/digits.png").size[0] > 100
    with tarfile.open(archive) as opened:
        assert {"figures/summary.md", "figures/digits.png", "figures/tests.log"} <= set(opened.getnames())


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_others(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        """#!/usr/bin/env bash
case "$*" in
    *"--parts training --variants ours --vary"*) sleep 60 ;;
    *"--parts head --batch-size"*) echo broken; exit 3 ;;
    *gpu_profile*) sleep 60 ;;
    *) echo fine ;;
esac
"""
    )
    python.chmod(0o755)
    done = run_gpu_script(tmp_path, PYTHON=str(python), LIMIT="5", PARTS="training head profile sampling")
    assert done.returncode == 1
    found = results(tmp_path)
    assert found["training"] == "out of time"
    assert {found[name] for name in ("head", "profile", "sampling")} == {"left out: no time"}
    done = run_gpu_script(tmp_path, PYTHON=str(python), PARTS="head sampling")
    assert done.returncode == 1
    assert "broken" in done.stdout
    assert results(tmp_path) == {"head": "failed (3)", "sampling": "done"}


def test_one_by_one_each_figure_is_shown_as_it_comes(capfd: pytest.CaptureFixture[str]) -> None:
    config = replace(SMALL, repeats=2, order="alone")
    report = bench(config, ["head"], ["ours", REFERENCE], "batch_size", ["1", "2"])
    assert [(row.variant, row.setting) for row in report.rows] == [
        ("ours", 1),
        (REFERENCE, 1),
        ("ours", 2),
        (REFERENCE, 2),
    ]
    shown = re.findall(r"forward and backward, (ours|reference) at (\d): [\d.]+ ms", capfd.readouterr().err)
    assert shown == [("ours", "1"), (REFERENCE, "1"), ("ours", "2"), (REFERENCE, "2")]


def test_shapes_alone_need_neither_kernels_nor_a_compiler() -> None:
    """Operations of a variant are counted on the meta device, where no kernel runs."""
    config = replace(SMALL, kernel="triton", compile=True)
    network, head = config.build(torch.device("meta")), config.build_head(torch.device("meta"))
    assert training_flops(network, 2) == training_flops(
        replace(config, kernel="torch").build(torch.device("meta")), 2
    )
    assert network.head.flops(16) == head.flops(16) == 2 * 16 * 64 * 33
    with pytest.raises(InputError, match="the kernel 'triton'"):
        config.build(torch.device("cpu"))


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'sampling'"):
        bench(BenchConfig(memory=False), ["samplin"])
    with pytest.raises(InputError, match="did you mean 'guided'"):
        bench(BenchConfig(memory=False), variants=["guide"])
    with pytest.raises(InputError, match="repeats"):
        BenchConfig(repeats=0)
