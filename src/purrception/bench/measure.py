"""Seconds of runs in turns; memory as the peak of a process that does nothing else."""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from purrception.bench.config import BenchConfig
from purrception.bench.workloads import WORKLOADS, Step
from purrception.errors import InputError
from purrception.progress import ProgressBar

K = TypeVar("K")
PEAK_RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def seconds_in_turns(
    title: str, steps: Mapping[K, Step], repeats: int, device: torch.device
) -> dict[K, list[float]]:
    """Seconds of each step in each round, after one that does not count.

    Taken in turns, so that what else the machine does falls on all, and figures of a round may be compared.
    """
    taken: dict[K, list[float]] = {name: [] for name in steps}
    with ProgressBar(title, (repeats + 1) * len(steps)) as bar:
        for repeat in range(repeats + 1):
            for number, (name, step) in enumerate(steps.items(), start=1):
                _synchronise(device)
                began = time.perf_counter()
                step()
                _synchronise(device)
                if repeat:
                    taken[name].append(time.perf_counter() - began)
                bar.update(repeat * len(steps) + number)
    return taken


def ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Median over rounds of one step's time over another's: a slow minute slows both."""
    return statistics.median(one / other for one, other in zip(seconds, others, strict=True))


def peak_memory(config: BenchConfig, part: str, variant: str, images: int) -> int:
    """Bytes that two steps need beyond what Python and its libraries hold, in a process of its own.

    On a GPU, the allocator's peak; elsewhere the peak of the resident set, weights and optimiser included.

    Raises:
        InputError: the process failed, most likely for want of memory.
    """
    order = json.dumps([dataclasses.asdict(config), part, variant, images])
    child = subprocess.run([sys.executable, "-m", __name__, order], capture_output=True, text=True, check=False)
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise InputError(f"{part} ({variant}) with {images} images could not be measured: {reason}")
    return int(child.stdout)


def _measure_here(config: BenchConfig, part: str, variant: str, images: int) -> int:
    from purrception.training.config import resolve_device

    device = resolve_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.ones(1, device=device).sum()
    before = _resident()
    step = WORKLOADS[part].variants[variant].start(config, images, device)
    if PEAK_RESET.exists():
        PEAK_RESET.write_text("5")  # the peak so far is forgotten
    for _ in range(2):
        step()
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _peak_resident() - before


def _resident() -> int:
    return _from_status("VmRSS") or _peak_resident()


def _peak_resident() -> int:
    return _from_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _from_status(name: str) -> int:
    """A figure of this process, bytes; 0 where the system does not tell."""
    if not STATUS.exists():
        return 0
    lines = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    settings, *rest = json.loads(sys.argv[1])
    print(_measure_here(BenchConfig(**settings), *rest))
