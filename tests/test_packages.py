"""What is said where a package is missing or unfit, and running from a source tree that nobody installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import purrception
from purrception.cli import main
from purrception.tokens.store import TokenStore
from purrception.training.metrics import MetricsLog
from purrception.utils.errors import InputError
from purrception.utils.packages import is_foreign, require, versions
from tests.cli.test_cli import fails_with_one_line
from tests.forked import python

ELSEWHERE = """
from importlib.metadata import MetadataPathFinder
known = MetadataPathFinder.find_distributions
def others(*context):
    return (found for found in known(*context) if found.metadata["Name"] != "purrception")
MetadataPathFinder.find_distributions = others
"""
"""Read when Python starts: this package was never installed."""


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with nothing beside them."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(Path(purrception.__file__).parent, folder / "src" / "purrception")
    (folder / "src" / "sitecustomize.py").write_text(ELSEWHERE)
    return folder


def run_tree(tree: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``PYTHONPATH=src python …`` in the copy."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_it_runs_from_a_source_tree_without_metadata(source_tree: Path, tiny_run: Path) -> None:
    asked = "import importlib.metadata, purrception; print(purrception.__file__); importlib.metadata.version('{}')"
    hidden = run_tree(source_tree, "-c", asked.format("purrception"))
    assert hidden.stdout.startswith(str(source_tree))
    assert "PackageNotFoundError" in hidden.stderr
    assert run_tree(source_tree, "-c", asked.format("torch")).returncode == 0
    said = run_tree(source_tree, "-m", "purrception", "--version")
    assert said.stdout == f"purrception {purrception.__version__}\n", said.stderr
    out = source_tree / "images"
    made = run_tree(source_tree, "-m", "purrception", "sample", tiny_run, "--num", "2", "--out", out)
    assert made.returncode == 0, made.stderr
    assert json.loads((out / "manifest.json").read_text())["versions"] == versions("torch", "diffusers")
    assert versions("torch", "nothing-of-that-name").keys() == {"python", "purrception", "torch"}


WITHOUT = """
import sys
missing, *arguments = sys.argv[1:]
for name in [*sys.modules]:
    if name.split(".")[0] in ("purrception", missing) or name.startswith("torch.utils.tensorboard"):
        del sys.modules[name]
sys.modules[missing] = None
from purrception.cli import main
sys.exit(main(arguments))
"""
"""This package imported anew where another is missing; it costs no import of all the others."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "package", "arguments"),
    [
        ("tyro", "tyro<2,>=1", ["plan", "digits"]),
        ("diffusers", "diffusers<1,>=0.42.1", ["sample", "runs/digits"]),
        ("vector_quantize_pytorch", "vector-quantize-pytorch<2,>=1.30", ["train", "digits"]),
        ("yaml", "pyyaml>=6", ["train", "digits", "--dry-run"]),
        ("torch", "torch>=2.6", ["bench"]),
    ],
)
def test_what_it_cannot_do_without_is_named_in_one_line(
    tmp_path: Path, module: str, package: str, arguments: list[str]
) -> None:
    (tmp_path / "runs/digits").mkdir(parents=True)
    (tmp_path / "runs/digits/config.yaml").touch()
    command = [python(), "-c", WITHOUT, module, *arguments]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    name = re.split("[<>]", package)[0]
    wanted = f"purrception {arguments[0]} needs {name}, which is not installed: pip install '{package}'"
    assert (told.returncode, told.stderr.strip()) == (2, f"purrception: {wanted}")


def test_what_is_missing_is_named_with_the_versions_that_fit(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("datasets", "torchdiffeq", "s3fs"):
        monkeypatch.setitem(sys.modules, module, None)
    tokens = ("--tokenizer", tiny_run / "tokenizer", "--out", tmp_path / "tokens")
    message = fails_with_one_line(capsys, "prepare", "hub:someone/birds", *tokens)
    assert "the data source hub needs datasets, which is not installed: pip install 'datasets>=4'" in message
    message = fails_with_one_line(capsys, "sample", tiny_run, "--solver", "dopri5", "--out", tmp_path / "images")
    assert "solver dopri5 needs torchdiffeq, which is not installed: pip install 'torchdiffeq>=0.2.4'" in message
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"s3://bucket/tokens needs s3fs, .* pip install s3fs"):
        TokenStore("s3://bucket/tokens").fetch("manifest.json")


def test_training_goes_on_without_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [*sys.modules]:
        if module.startswith(("tensorboard", "torch.utils.tensorboard")):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(1, {"loss": 0.5})
    log.image(1, "samples", np.zeros((4, 4, 3), np.uint8))
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    told = (
        "no TensorBoard events are written: writing TensorBoard's events needs tensorboard, which is not installed"
    )
    assert capsys.readouterr().err == f"{told}: pip install 'tensorboard>=2.17'\n"


def test_a_tracker_that_was_asked_for_must_be_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    message = fails_with_one_line(capsys, "train", "digits", "--training.trackers", "tensorboard", "trackio")
    assert (
        "training.trackers trackio needs trackio, which is not installed: pip install 'trackio>=0.43'" in message
    )


@pytest.mark.parametrize("verb", ["evaluate", "sweep", "diagnose"])
def test_what_a_report_needs_is_asked_for_before_the_work(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = fails_with_one_line(capsys, verb, tiny_run)
    wanted = "the picture of a report needs matplotlib, which is not installed: pip install 'matplotlib>=3.8'"
    assert message == f"purrception: {wanted}"


def test_an_unfit_version_is_told_from_a_missing_package() -> None:
    with pytest.raises(InputError, match=rf"a dream needs another numpy .* {np.__version__} .*--upgrade 'numpy>="):
        require("numpy.nothing", "a dream")
    assert require("json", "a file") is json


def test_mistakes_of_our_own_are_not_put_down_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_foreign(ImportError("no such name", name="purrception.flow"))
    assert not is_foreign(ImportError("no name at all"))
    monkeypatch.setitem(sys.modules, "purrception.experiment.plan", None)
    with pytest.raises(ModuleNotFoundError, match=r"purrception\.experiment\.plan"):
        main(["plan", "digits"])
