"""``kill -9`` at a random moment of every verb; the command is given again, and ends with what it always makes.

One moment of some in CI; ``KILLS=10 pytest tests/test_kills.py`` tries ten of every verb, and with ``KILLS_SEED``
others.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from purrception.storage import dump_settings
from tests.conftest import CLASS_FOLDERS, run_cli, save_pictures, tiny_config
from tests.forked import python

KILLS, SEED = int(os.environ.get("KILLS", "0")), int(os.environ.get("KILLS_SEED", "0"))
VOLATILE = ("second", "share_outside", "created", "date", "duration", "codes_per")
"""What keys are called whose values differ from one run to the next."""
NO_RESULT = ("out/report.png", "events.out", "SHA256SUMS", ".md", "seconds.json")
TRAINED = "trained"
"""Where a finished tiny run lies for the verbs that take one."""


@dataclass(frozen=True)
class Job:
    """A command, and what is given after it was killed, in the folder where both run."""

    command: str
    results: str
    """Folder of what it makes."""
    resume: str = ""
    """Given in place of the command once ``begun`` is there; empty: the command itself."""
    begun: str = ""


PICTURE = f"pictures/{CLASS_FOLDERS[0]}/0.png"
ENTRIES = "--objectives purrception,cfm --seeds 1 --points 2 --num 12 --out out"
TOKENIZER = (
    "--model.codebook-size 16 --model.codebook-dim 3 --model.channels 8 8 8 --training.steps 12 "
    "--training.batch-size 8 --training.report-every 2 --training.checkpoint-every 2"
)
JOBS = {
    "train": Job("train tiny.yaml", "runs/tiny", "train --resume runs/tiny", "runs/tiny/config.yaml"),
    "tokenizer train": Job(
        f"tokenizer train digits {TOKENIZER} --out out", "out", "tokenizer train --resume out", "out/training.yaml"
    ),
    "prepare": Job(
        f"prepare pictures --tokenizer {TRAINED}/tokenizer --image-size 16 --images-per-shard 3 "
        "--test-fraction 0.2 --out out",
        "out",
    ),
    "compare": Job(f"compare tiny.yaml {ENTRIES}", "out"),
    "evaluate": Job(f"evaluate {TRAINED} --steps 2 --cache none --out out", "out"),
    "sample": Job(f"sample {TRAINED} --num 6 --steps 2 --batch-size 2 --out out", "out"),
    "edit": Job(f"edit vary {TRAINED} --image {PICTURE} --strength 0.5 --steps 3 --out out", "out"),
    "sweep": Job(f"sweep {TRAINED} --steps 2 --num 12 --guidances 1 --temperatures 1 0.9 --out out", "out"),
    "tokenizer report": Job(f"tokenizer report {TRAINED}/tokenizer digits --num 20 --out out", "out"),
    "tokenizer convert": Job(f"tokenizer convert {TRAINED}/tokenizer --out out", "out"),
    "export": Job(f"export {TRAINED} --out out", "out"),
}


TRIED = tuple(JOBS) if KILLS else ("train", "tokenizer train", "prepare", "evaluate")


def make_place(folder: Path, tiny_run: Path) -> None:
    """A working folder with everything that the commands need; always of the same name, which results may hold."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copytree(tiny_run, folder / TRAINED)
    save_pictures(folder / "pictures", CLASS_FOLDERS)
    config = tiny_config(Path("runs"))
    training = replace(config.training, checkpoint_every=2, sample_every=2)
    (folder / "tiny.yaml").write_text(dump_settings(replace(config, training=training)), encoding="utf-8")


def plain(value: Any) -> Any:
    """Values without those that differ from one run to the next."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if not any(word in key for word in VOLATILE)}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def results(folder: Path) -> dict[str, Any]:
    """Every file of a result, by name: JSON without what is volatile, anything else to the byte."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder.parent).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_dir() or hidden or any(mark in name for mark in NO_RESULT):
            continue
        if path.suffix in (".json", ".jsonl"):
            lines = (
                path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            )
            found[name] = [plain(json.loads(line)) for line in lines]
        elif path.suffix == ".safetensors":  # the order of its metadata is chance
            with safe_open(path, "np") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                kept = {key: (value.dtype, value.shape, value.tobytes()) for key, value in tensors.items()}
                found[name] = kept, file.metadata()
        else:
            found[name] = path.read_bytes()
    return found


def run(job: Job, place: Path) -> subprocess.CompletedProcess[str]:
    command = job.resume if job.resume and (place / job.begun).is_file() else job.command
    return run_cli(*command.split(), cwd=place)


def differing(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    return sorted(name for name in here | there if here.get(name) != there.get(name))


@pytest.fixture
def undisturbed(request: pytest.FixtureRequest, tiny_run: Path, tmp_path: Path) -> tuple[dict[str, Any], float]:
    """What a job makes when nobody kills it, and the seconds that it takes."""
    place, job = tmp_path / "place", JOBS[request.param]
    make_place(place, tiny_run)
    began = time.monotonic()
    done = run(job, place)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    return results(place / job.results), seconds


@pytest.mark.slow
@pytest.mark.parametrize(("name", "undisturbed"), [(name, name) for name in TRIED], indirect=["undisturbed"])
def test_a_verb_that_is_killed_ends_with_what_it_always_makes(
    name: str, undisturbed: tuple[dict[str, Any], float], tiny_run: Path, tmp_path: Path
) -> None:
    expected, seconds = undisturbed
    job, place = JOBS[name], tmp_path / "place"
    for number in range(KILLS or 1):
        moment = seconds * random.Random(f"{name} {SEED} {number}").random()
        make_place(place, tiny_run)
        process = subprocess.Popen(
            [python(), "-m", "purrception", *job.command.split()],
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=moment)
        process.kill()
        process.communicate()  # to the end of its output, which is its own end
        killed = process.returncode != 0
        done = run(job, place)
        told = f"{name}, killed after {moment:.3f} s of {seconds:.1f}"
        if done.returncode:  # it was killed when all was done, and a second result is refused
            assert "already there" in done.stderr, f"{told}: {done.stderr}"
        else:
            assert killed or job.resume or name in ("prepare", "compare"), told
        found = results(place / job.results)
        assert not differing(found, expected), f"{told}: {differing(found, expected)}"
