"""Training on a shared CPU: python benchmarks/shared_processor.py [--trials 10] [--steps 100].

Steps per second of the recipe digits, alone and next to endless loops, with GNU OpenMP's own limit of spinning and
with the limit that ``import purrception`` sets. Tokenizer and tokens are made once; every number is from a fresh
process, in turns. Nothing else should run meanwhile. The loops end with this script, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

import purrception

LOOP = "import os; parent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"
GNU_SPINS = 300_000
"""GNU OpenMP's own limit (manual of libgomp, GOMP_SPINCOUNT)."""
BUSY_AT_LEAST, ALONE_AT_LEAST = 1 / 3, 0.85
CASES = {"gnu": GNU_SPINS, "ours": purrception.SPINS}


@dataclass(frozen=True)
class Options:
    """How long to measure."""

    trials: int = 10
    """Rounds; each takes every case once, alone and busy."""
    steps: int = 100
    """Training steps of a figure, after ten that do not count."""
    gnu_busy: bool = True
    """Also measure GNU's own limit next to the loops, which takes as long as everything else."""
    loops: int = 2
    """Number of endless loops next to the training."""
    limit: float = 120.0
    """Seconds after which a figure is that of the steps taken until then."""


@contextlib.contextmanager
def others(count: int) -> Iterator[None]:
    """``count`` processes that never wait; they are gone afterwards."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            started.append(subprocess.Popen([sys.executable, "-c", LOOP], stderr=subprocess.DEVNULL))
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def prepare(folder: Path) -> None:
    """A tokenizer of a few steps and its tokens; how good they are changes no speed."""
    from purrception.experiment.recipes import get_recipe
    from purrception.experiment.run import prepare_tokenizer, prepare_tokens
    from purrception.storage import dump_settings
    from purrception.training import RunDirectory

    recipe = get_recipe("digits")
    quick = replace(recipe.tokenizer, training=replace(recipe.tokenizer.training, steps=20))
    run = RunDirectory.create(folder, dump_settings(replace(recipe, tokenizer=quick)))
    prepare_tokens(recipe, run, prepare_tokenizer(replace(recipe, tokenizer=quick), run))


def steps_per_second(folder: Path, steps: int, limit: float) -> float:
    """Of training in this process, on what :func:`prepare` made."""
    from purrception.experiment.recipes import get_recipe
    from purrception.experiment.run import build_trainer, prepare_tokenizer, prepare_tokens
    from purrception.training import RunDirectory

    recipe, run = get_recipe("digits"), RunDirectory(folder)
    tokenizer = prepare_tokenizer(recipe, run)
    train, held_out = prepare_tokens(recipe, run, tokenizer)
    trainer = build_trainer(recipe, run, tokenizer, train, held_out)
    for _ in range(10):
        trainer.try_step()
    began, taken = time.perf_counter(), 0
    while taken < steps and (taken == 0 or time.perf_counter() - began < limit):
        trainer.try_step()
        taken += 1
    return taken / (time.perf_counter() - began)


def measure(folder: Path, spins: int, options: Options) -> float:
    """Steps per second of a fresh process that spins so often."""
    order = json.dumps([str(folder), options.steps, options.limit])
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    child = subprocess.run(
        [sys.executable, __file__, "--child", order],
        env=environment | {"GOMP_SPINCOUNT": str(spins)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(child.stdout.split()[-1])


def main(options: tyro.conf.OmitArgPrefixes[Options]) -> None:
    """Print a line as each trial ends, the table, and the requirements."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the loops end
    wanted = [(case, busy) for case in CASES for busy in (False, True)]
    if not options.gnu_busy:
        wanted.remove(("gnu", True))
    found: dict[tuple[str, bool], list[float]] = {key: [] for key in wanted}
    heading = [f"{CASES[case]} spins, {'busy' if busy else 'alone'}" for case, busy in found]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        prepare(folder)
        heading += [f"busy / alone, {CASES['ours']} spins"]
        print(f"| trial | {' | '.join(heading)} |\n|{'---|' * (len(heading) + 1)}", flush=True)
        for trial in range(options.trials):
            for (case, busy), speeds in found.items():
                with others(options.loops if busy else 0):
                    speeds.append(measure(folder, CASES[case], options))
            row = " | ".join(f"{speeds[-1]:.2f}" for speeds in found.values())
            print(
                f"| {trial + 1} | {row} | {found['ours', True][-1] / found['ours', False][-1]:.2f} |", flush=True
            )
    median = {key: statistics.median(speeds) for key, speeds in found.items()}
    worst = min(busy / alone for busy, alone in zip(found["ours", True], found["ours", False], strict=True))
    kept = median["ours", False] / median["gnu", False]
    print(f"| median | {' | '.join(f'{speed:.2f}' for speed in median.values())} | |\n")
    print(f"busy / alone, worst trial: {worst:.2f} (asked for: {BUSY_AT_LEAST:.2f})")
    print(f"alone, with the bound / without it, medians: {kept:.2f} (asked for: {ALONE_AT_LEAST:.2f})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(steps_per_second(*json.loads(sys.argv[2])))
    else:
        tyro.cli(main)
