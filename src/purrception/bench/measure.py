"""Measuring the time of steps, in turns or one by one, and their peak memory."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from purrception.bench.config import BenchConfig
from purrception.bench.workloads import WORKLOADS, Step
from purrception.utils.errors import InputError
from purrception.utils.progress import ProgressBar

K = TypeVar("K")


def seconds_in_turns(
    title: str, steps: Mapping[K, Step], repeats: int, device: torch.device
) -> dict[K, list[float]]:
    """Seconds of each step in each round, after a warm-up round.

    The steps take turns, so that other load on the machine affects all of them and times of a round can be
    compared.
    """
    taken: dict[K, list[float]] = {name: [] for name in steps}
    with ProgressBar(title, (repeats + 1) * len(steps)) as bar:
        for repeat in range(repeats + 1):
            for number, (name, step) in enumerate(steps.items(), start=1):
                seconds = _seconds(step, device)
                if repeat:
                    taken[name].append(seconds)
                bar.update(repeat * len(steps) + number)
    return taken


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Time and memory of a step."""

    seconds: list[float]
    """Of each repetition."""
    bytes: int | None = None
    """Peak memory of its tensors."""
    bytes_per_image: float | None = None
    """Memory of one more image: the slope between two batch sizes."""

    def __str__(self) -> str:
        """In one line, for a log."""
        memory = "" if self.bytes is None else f", at most {self.bytes / 2**20:.0f} MB"
        return f"{1e3 * statistics.median(self.seconds):.1f} ms{memory}"


def measure_alone(start: Callable[[], Step], repeats: int, device: torch.device) -> Measurement | None:
    """Build a step, measure it, and free it, because a GPU has room for few large networks at a time.

    There are two warm-up runs, for compilation and the optimizer's state.

    Returns:
        ``None`` if the memory of the device does not suffice.
    """
    on_gpu = device.type == "cuda"
    gc.collect()  # the step before may be held by a cycle
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        step = start()
        taken = [_seconds(step, device) for _ in range(2 + repeats)]
    except torch.OutOfMemoryError:
        return None
    return Measurement(taken[2:], int(torch.cuda.max_memory_allocated(device)) if on_gpu else None)


def ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Median over rounds of one step's time over another's, since a slow minute slows both."""
    return statistics.median(one / other for one, other in zip(seconds, others, strict=True))


def peak_memory(config: BenchConfig, part: str, variant: str, images: int) -> int:
    """Peak bytes of tensors in two steps, weights and optimiser included, measured in a process of its own.

    Raises:
        InputError: the process failed, most likely because it ran out of memory.
    """
    task = json.dumps([dataclasses.asdict(config), part, variant, images])
    child = subprocess.run([sys.executable, "-m", __name__, task], capture_output=True, text=True, check=False)
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise InputError(f"{part} ({variant}) with {images} images could not be measured: {reason}")
    return int(child.stdout)


def peak_of_steps(start: Callable[[], Step], device: torch.device) -> int:
    """Peak bytes of tensors in two steps, with all that ``start`` builds for them.

    On a GPU this is the peak of the process so far, so measure one thing per process.
    """

    def work() -> None:
        step = start()
        for _ in range(2):
            step()

    if device.type == "cuda":
        work()
        return int(torch.cuda.max_memory_allocated(device))
    return peak_on_processor(work)


def peak_on_processor(work: Callable[[], object]) -> int:
    """Peak bytes of tensors in ``work``, from the profiler's record of the allocator.

    The resident set size would also count pages of libraries and memory that the C library keeps for later.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(itertools.accumulate((size for _, size in changes), initial=0))


def _seconds(step: Step, device: torch.device) -> float:
    """The time that a step takes, on the device too."""
    _synchronise(device)
    began = time.perf_counter()
    step()
    _synchronise(device)
    return time.perf_counter() - began


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":  # the process of peak_memory
    sizes, part, variant, images = json.loads(sys.argv[1])
    config = BenchConfig(**sizes)
    device = config.prepare()
    start = functools.partial(WORKLOADS[part].variants[variant].start, config, images, device)
    print(peak_of_steps(start, device))
