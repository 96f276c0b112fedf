"""Two processes on one run: the second is told, the first loses nothing, and a killed one is in nobody's way."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from purrception.experiment.config import load_config
from purrception.storage import LOCK_FILE, read_json_lines
from tests.conftest import run_cli
from tests.forked import python


@contextmanager
def started(arguments: list[object], until: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the background, once it has written ``until``; killed in the end."""
    command = [python(), "-m", "purrception", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 120
            while not until.exists() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            assert until.exists()
            yield process
        finally:
            process.kill()


def writer_of(folder: Path) -> str:
    """The process that holds the lock of ``folder``, which runs."""
    number = (folder / LOCK_FILE).read_text(encoding="utf-8").split()[1]
    assert "python" in Path(f"/proc/{number}/cmdline").read_text(encoding="utf-8")
    return f"process {number} on "


@pytest.mark.slow
def test_a_run_has_one_writer(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "long"
    training = ["--training.steps", 100_000, "--training.checkpoint-every", 20, "--training.sample-every", 0]
    beginning = ["train", tiny_run / "config.yaml", "--runs", tmp_path, "--name", "long", *training]
    with started(beginning, run / "checkpoints/step-00000020") as first:
        for again in (beginning, ["train", "--resume", run]):
            second = run_cli(*again, cwd=tmp_path)
            assert second.returncode == 2
            assert writer_of(run) in second.stderr
            assert f"is writing to {run}: wait until it is done" in second.stderr
            assert "Traceback" not in second.stderr
        sampled = run_cli("sample", run, "--num", 1, "--steps", 2, cwd=tmp_path)  # reading needs no lock
        assert sampled.returncode == 0, sampled.stderr
        assert first.poll() is None
        first.send_signal(signal.SIGKILL)
        first.wait()
    steps = [row["step"] for row in read_json_lines(run / "metrics.jsonl") if "loss" in row]
    every = load_config(run / "config.yaml").training.log_every
    assert steps == list(range(every, steps[-1] + 1, every))  # no row is lost
    last = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    resumed = run_cli("train", "--resume", run, "--training.steps", last + 4, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.slow
def test_the_training_of_a_tokenizer_has_one_writer(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    sizes = ["--model.codebook-size", 16, "--model.codebook-dim", 3, "--model.channels", 8, 8]
    training = ["--training.steps", 100_000, "--training.batch-size", 8, "--training.checkpoint-every", 5]
    beginning = ["tokenizer", "train", "digits", *sizes, *training, "--out", folder]
    with started(beginning, folder / "checkpoints/step-00000005.safetensors") as first:
        second = run_cli("tokenizer", "train", "--resume", folder, cwd=tmp_path)
        assert second.returncode == 2
        assert writer_of(folder) in second.stderr
        assert "Traceback" not in second.stderr
        assert first.poll() is None
