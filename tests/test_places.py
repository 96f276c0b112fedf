"""Other folders and machines: paths typed elsewhere, no home, names and terminals that are not UTF-8."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from purrception.cli import main
from purrception.cli.verbs import GROUPS, VERBS
from purrception.data import DataConfig
from purrception.evaluation.features import FeatureCache
from purrception.experiment.checks import describe_jump
from purrception.experiment.config import PATHS, RunConfig, TokenizerRunConfig, load_config
from purrception.experiment.saved_run import saved_config
from purrception.storage import dump_settings
from purrception.tokens.store import TokenStore
from purrception.training import RunDirectory, TrainingConfig
from purrception.utils.errors import InputError
from purrception.utils.folders import absolute
from purrception.utils.settings import option_names
from purrception.utils.text import make_output_encodable
from tests.conftest import run_cli, save_pictures, tiny_config


def test_a_path_holds_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    assert absolute("in") == str(tmp_path / "in")
    assert absolute("in/../in/") == str(tmp_path / "in")
    assert absolute("in/train-{000..146}.tar") == f"{tmp_path}/in/train-{{000..146}}.tar"
    for text in ("", "owner/name", "hub:owner/name", "s3://bucket/tokens", "file:///in/a.tar", "cifar10:plain"):
        assert absolute(text) == text
    (tmp_path / "a{b}").mkdir()
    monkeypatch.chdir(tmp_path / "a{b}")
    assert absolute("*.tar") == "*.tar"


def test_every_setting_that_is_a_path_is_known() -> None:
    """By its name; a new one called otherwise is to be added to both."""
    named = {"root", "tokens", "path", "init_from", "perceptual_weights"}
    known = {name for names in PATHS.values() for name in names}
    assert known == named
    for kind in (RunConfig, TokenizerRunConfig):
        options = {name.rsplit(".", 1)[-1] for name in option_names(kind)}
        assert named - options <= {"path"}
        assert not {name for name in options - named if name.endswith(("_path", "_file", "_dir", "_weights"))}
    assert all(name in {field.name for field in fields(kind)} for kind, names in PATHS.items() for name in names)


def test_a_run_is_evaluated_and_goes_on_from_another_folder(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = load_config(project / "my runs/tiny/config.yaml")
    assert config.data.root == str(project / "my pictures")
    shutil.copytree(project / "my runs/tiny", tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", "../moved", "--num", "6", "--guidances", "1.0", "--bootstrap", "0"]) == 0
    assert "my pictures" in capsys.readouterr().out
    assert main(["train", "--resume", "../moved", "--training.steps", "8"]) == 0
    told = capsys.readouterr().out
    assert "falls over 8 steps instead of 4, so that the learning rate rises from 0.00189 to 0.00525" in told
    assert "to stay at 0.00189, also give --training.decay constant --training.learning-rate 0.00189" in told
    assert load_config(tmp_path / "moved/config.yaml").training.steps == 8


def test_relative_paths_of_earlier_runs_are_found_where_training_was_started(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(project, tmp_path / "old")
    run = RunDirectory(tmp_path / "old/my runs/tiny")
    values = yaml.safe_load(run.config_file.read_text(encoding="utf-8"))
    values["data"]["root"] = "my pictures"
    run.config_file.write_text(yaml.safe_dump(values), encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert saved_config(run).data.root == str(tmp_path / "old/my pictures")
    assert saved_config(RunDirectory("../old/my runs/tiny")).data.root == str(tmp_path / "old/my pictures")
    assert capsys.readouterr().err == ""
    assert main(["train", "--resume", "../old/my runs/tiny", "--training.steps", "5"]) == 0
    assert load_config(run.config_file).data.root == str(tmp_path / "old/my pictures")

    run.config_file.write_text(yaml.safe_dump(values), encoding="utf-8")
    (tmp_path / "old/my pictures").rename(tmp_path / "old/gone")
    capsys.readouterr()
    assert main(["train", "--resume", "../old/my runs/tiny", "--training.steps", "6"]) == 2
    told = capsys.readouterr().err
    assert (
        f"keeps data.root 'my pictures' relative to the folder where its training was started, {tmp_path}/old"
        in told
    )
    run.root.rename(tmp_path / "moved")
    assert saved_config(RunDirectory(tmp_path / "moved")).data.root == "my pictures"
    assert "where its training was started and nothing is there" in capsys.readouterr().err


def test_a_longer_cosine_says_that_the_learning_rate_jumps() -> None:
    def config(**training: object) -> RunConfig:
        return RunConfig("a", training=TrainingConfig(**training))  # type: ignore[arg-type]

    saved = config(steps=100, decay="cosine", warmup_steps=0)
    told = describe_jump(saved, config(steps=200, decay="cosine", warmup_steps=0), 100)
    assert "from 5.02e-06 to 5.25e-05 at step 100" in told
    advised = config(steps=200, decay="constant", warmup_steps=0, learning_rate=5.02e-6)
    assert describe_jump(saved, advised, 100) == ""
    assert describe_jump(saved, saved, 50) == ""
    assert describe_jump(config(steps=100), config(steps=200), 100) == ""


@pytest.mark.parametrize("home", ["missing", "unknown", "read-only"])
def test_no_home_costs_the_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: str
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    if home == "missing":
        monkeypatch.setenv("HOME", "/proc/nowhere")
    elif home == "unknown":

        def unknown() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", unknown)
    else:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    made = [FeatureCache().folder, TokenStore("s3://bucket/tokens").folder]
    assert all(folder is not None and folder.parent.is_dir() for folder in made)
    assert all(tmp_path not in folder.parents for folder in made if folder is not None)
    assert "nothing is cached beyond this command" in capsys.readouterr().err
    assert FeatureCache("none").folder is None


def latin(name: str) -> str:
    """A file name whose bytes are Latin-1, as Python carries it."""
    return os.fsdecode(name.encode("latin-1"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pictures(tmp_path / "pictures", ("cat", latin("chat méchant")))
    save_pictures(tmp_path / latin("été"), ("cat", "dog"))
    for root, named in (("pictures", "chat m"), (latin("été"), "t\\udce9")):
        (tmp_path / "tiny.yaml").write_text(dump_settings(tiny_config(Path("runs"))), encoding="utf-8")
        assert main(["train", "tiny.yaml", "--data.source", "folder", "--data.root", root]) == 2
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert told.startswith("purrception: the name ")
        assert named in told
        assert "rename the file or folder" in told
    assert not (tmp_path / "runs").exists()
    with pytest.raises(InputError, match="cannot be recorded"):
        dump_settings(replace(tiny_config(tmp_path), data=DataConfig(root=latin("é"))))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_images_of_any_name_are_trained_on_and_judged(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_pictures(tmp_path / latin("été"), ("one",), each=6)
    (tmp_path / latin("été") / "one" / latin("é.png")).write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    arguments = ["--reference", str(project / "my pictures"), "--features", "texture", "--bootstrap", "0"]
    assert main(["evaluate", latin("été"), *arguments]) == 0
    folder = tmp_path / "evaluations/000"
    assert "\\udce9.png" in (folder / "report.md").read_text(encoding="utf-8")
    assert any(
        latin("é.png") in text for text in json.loads((folder / "report.json").read_text("utf-8"))["warnings"]
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_help_and_mistakes_are_told_on_any_terminal(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    words = [[], *([group] for group in GROUPS), ["diagnose", "--suite"], *(name.split() for name in VERBS)]
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        for verb in words:
            with contextlib.suppress(SystemExit):
                assert main([*verb, "--help"]) == 0
        assert main(["sample", "Hände → 手"]) == 2
        assert main(["train", "digits", "--training.steps", "τ"]) == 2
    out, error = (stream.buffer.getvalue() for stream in streams if not stream.flush())  # type: ignore[attr-defined]
    assert b"usage: purrception VERB ..." in out
    assert out.count(b"Example: ") == len(words) - 3
    assert b"tau of the posterior" in out
    hands = {"ascii": b"H\\xe4nde", "latin-1": b"H\xe4nde"}[encoding]
    assert b"no run at " + hands + b" -> \\u624b" in error


def test_file_names_that_are_no_text_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    make_output_encodable()
    print(f"Hände {latin('été')}", flush=True)
    assert stream.buffer.getvalue() == "Hände ".encode() + b"\\udce9t\\udce9\n"  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_machine_without_utf8_samples_and_trains(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(project / "my runs/tiny", tmp_path / "run")
    probe = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.stdout.encoding, sys.getfilesystemencoding())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "utf" not in probe.stdout.lower()
    done = run_cli("train", "--resume", "run", "--training.steps", "5", cwd=tmp_path, fresh=True)
    assert done.returncode == 0, done.stderr
    assert "training 5/5" in done.stderr
    assert "next: purrception sample run" in done.stdout
