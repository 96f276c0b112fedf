"""Every verb that writes, on a disk that is full: one line, nothing half-made, and the same command goes on.

``THOROUGH=1 pytest tests/test_full_disk.py`` also fills the disk half-way and later.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors import safe_open

from purrception.cli import main
from tests.bench.test_bench import TINY
from tests.conftest import run_cli, save_pictures
from tests.generation.test_public_checkpoints import HEADS, random_network, save

PAGE = 4096
SIZE = 64 * 2**20
THOROUGH = bool(os.environ.get("THOROUGH"))
FREE = (0.0, 0.1, 0.4, 0.7, 0.9) if THOROUGH else (0.0,)
"""Of what a command needs."""
WHOLE = {
    "tokenizer convert": ["tokenizer", "convert", "RUN/tokenizer"],
    "tokenizer report": ["tokenizer", "report", "RUN/tokenizer", "pictures", "--data.test-fraction", "0"],
    "sample": ["sample", "RUN", "--num", "4", "--steps", "2"],
    "edit": ["edit", "interpolate", "RUN", "--num", "2", "--steps", "2"],
    "export": ["export", "RUN"],
    "sweep": [
        "sweep",
        "RUN",
        "--steps",
        "2",
        "--solvers",
        "euler",
        "--temperatures",
        "1.0",
        "--guidances",
        "1.0",
        "--num",
        "10",
    ],
    "diagnose": ["diagnose", "RUN", "--only", "codebook", "--num", "8"],
    "convert": ["convert", "last.pth", "--tokenizer", "RUN/tokenizer", "--heads", str(HEADS)],
    "evaluate": ["evaluate", "RUN", "--num", "10", "--bootstrap", "0"],
}
"""What writes a folder that is there whole or not at all."""
IN_PARTS = {
    "train": ["train", "RUN/config.yaml", "--runs", ".", "--name", "out"],
    "tokenizer train": [
        "tokenizer",
        "train",
        "RUN/config.yaml",
        "--training.steps",
        "4",
        "--training.checkpoint-every",
        "2",
    ],
    "prepare": [
        "prepare",
        "digits",
        "--tokenizer",
        "RUN/tokenizer",
        "--image-size",
        "16",
        "--images-per-shard",
        "500",
    ],
    "compare": [
        "compare",
        "RUN/config.yaml",
        "--objectives",
        "cfm",
        "--seeds",
        "1",
        "--points",
        "1",
        "--num",
        "10",
        "--training.steps",
        "2",
    ],
    "bench": ["bench", *TINY, "--parts", "head", "--variants", "ours", "--memory", "False"],
}
"""What goes on with what there is, so that each file is there whole or not at all."""
RESUMED = {
    "train": ("config.yaml", ["train", "--resume", "out"]),
    "tokenizer train": ("training.yaml", ["tokenizer", "train", "--resume", "out"]),
}
"""What is there once a training has begun, and the command that goes on with it."""


@dataclass(frozen=True)
class Disk:
    """A small file system with a run in it, or a plain folder where none can be mounted."""

    folder: Path
    run: Path

    def begin(self) -> None:
        """The run and nothing else."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.run, self.folder / "RUN")
        save(random_network("purrception", size=16), self.folder / "last.pth")
        save_pictures(self.folder / "pictures", ("1",))

    def room(self) -> int:
        """Bytes that are free."""
        return os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_bsize

    def leave(self, free: int) -> None:
        """Fill it but for so many bytes."""
        with (self.folder / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.room() - free // PAGE * PAGE)


@pytest.fixture
def disk(tiny_run: Path, tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield Disk(folder, tiny_run)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def words_of(name: str) -> list[str]:
    words = (WHOLE | IN_PARTS)[name]
    return words if name == "train" else [*words, "--out", "out"]


def check_refusal(done: subprocess.CompletedProcess[str], reason: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("purrception: ")]
    assert len(said) == 1, done.stderr
    assert reason in said[0]
    assert "/" in said[0] or " out" in said[0]  # the place


READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".yaml": lambda path: dict(yaml.safe_load(path.read_text())),
    ".safetensors": lambda path: safe_open(path, "pt").keys(),
    ".png": lambda path: Image.open(path).load(),
}


def check_nothing_is_half_made(name: str, out: Path) -> None:
    """What has a name of its own is whole; names that begin with a dot are those of what is being written."""
    if name in WHOLE:
        assert not out.exists()
    for path in out.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(out).parts):
            READERS.get(path.suffix, Path.read_bytes)(path)


def go_on(name: str, folder: Path) -> None:
    begun, resume = RESUMED.get(name, ("", []))
    words = resume if begun and (folder / "out" / begun).is_file() else words_of(name)
    done = run_cli(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    check_nothing_is_half_made("", folder / "out")
    assert not [path for path in (folder / "out").rglob(".*") if path.name != ".lock"]


def test_a_library_s_own_error_about_a_full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr("purrception.cli.run_verb", fail)
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert main(["sample"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    said = "something else"
    with pytest.raises(RuntimeError, match="something else"):
        main(["sample"])


def needed_by(name: str, disk: Disk) -> int:
    """Bytes that a command fills."""
    disk.begin()
    before = disk.room()
    done = run_cli(*words_of(name), cwd=disk.folder)
    assert done.returncode == 0, done.stderr
    return before - disk.room()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WHOLE, *IN_PARTS])
def test_a_full_disk_is_one_line_and_the_command_goes_on(disk: Disk, name: str) -> None:
    out = disk.folder / "out"
    needed = needed_by(name, disk) if THOROUGH else 0
    for share in FREE:
        disk.begin()
        disk.leave(int(needed * share))
        check_refusal(run_cli(*words_of(name), cwd=disk.folder), "No space left on device")
        check_nothing_is_half_made(name, out)
        (disk.folder / "ballast").unlink()
    go_on(name, disk.folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sample", "export", "evaluate", "train", "compare"] if THOROUGH else ["train"])
def test_a_limit_on_the_size_of_a_file_is_one_line(tiny_run: Path, tmp_path: Path, name: str) -> None:
    disk = Disk(tmp_path / "disk", tiny_run)
    disk.folder.mkdir()
    disk.begin()
    done = run_cli(*words_of(name), cwd=disk.folder)
    assert done.returncode == 0, done.stderr
    out = disk.folder / "out"
    largest = max(path.stat().st_size for path in out.rglob("*") if path.is_file())
    disk.begin()
    limits = largest // 2, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    refused = run_cli(
        *words_of(name), cwd=disk.folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    )
    check_refusal(refused, "File too large")
    check_nothing_is_half_made(name, out)
    go_on(name, disk.folder)
