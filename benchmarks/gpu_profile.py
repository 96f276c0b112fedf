"""Where the time of a training step and of a sampling step goes: python benchmarks/gpu_profile.py [--key value …].

Options are those of ``purrception bench``. For each step: the twenty most expensive kernels; the share of the
head; the gaps in which the GPU was idle, and the kernel that ended each; every line at which the CPU waited for
the GPU; the copies. On a CPU there are neither gaps nor waits, and operations take the place of kernels. Writes
profile.md, and a trace of each step for chrome://tracing or Perfetto, into --out.
"""

from __future__ import annotations

import gzip
import shutil
import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from purrception.bench import BenchConfig
from purrception.bench.workloads import WORKLOADS, Step
from purrception.models import CategoricalHead
from purrception.utils.devices import resolve_device

HEAD = "vocabulary head"
WARM_UPS, STEPS, KERNELS, GAPS = 3, 3, 20, 8
SHORT = 2.0
"""Microseconds between two kernels that no processor could fill."""


@dataclass(frozen=True)
class Gap:
    """A time in which the GPU had nothing to do."""

    microseconds: float
    before: str
    """The kernel that ended it."""


def name_the_head() -> None:
    """Mark what the head does, in every head that is built from here on."""
    for name in ("loss", "posterior"):
        inner = getattr(CategoricalHead, name)

        def marked(*arguments: Any, inner: Callable[..., Any] = inner, **options: Any) -> Any:
            with record_function(HEAD):
                return inner(*arguments, **options)

        setattr(CategoricalHead, name, marked)


def waits(step: Step, device: torch.device) -> Counter[str]:
    """Lines of ours from which the processor waited for the GPU, with how often."""
    found: Counter[str] = Counter()
    if device.type != "cuda":
        return found

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" not in str(message):
            return
        frames = traceback.extract_stack()[:-1]
        frame = next((frame for frame in reversed(frames) if "/purrception/" in frame.filename), frames[-1])
        found[f"{Path(frame.filename).name}:{frame.lineno} `{frame.line}`"] += 1

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return found


def gaps_between(kernels: list[Any]) -> tuple[float, float, list[Gap]]:
    """(microseconds from the first kernel to the end of the last, those idle among them, the longest gaps)."""
    ordered = sorted(kernels, key=lambda event: event.time_range.start)
    end, idle, gaps = ordered[0].time_range.start, 0.0, []
    begin = end
    for event in ordered:
        wait = event.time_range.start - end
        if wait > SHORT:
            idle += wait
            gaps.append(Gap(wait, event.name))
        end = max(end, event.time_range.end)
    return end - begin, idle, sorted(gaps, key=lambda gap: -gap.microseconds)[:GAPS]


def seconds_of(step: Step, device: torch.device) -> float:
    """Median of a step that nobody looks at."""
    taken = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def profile_step(title: str, step: Step, device: torch.device, out: Path) -> list[str]:
    """Lines of the report."""
    for _ in range(WARM_UPS):
        step()
    stops, seconds = waits(step, device), seconds_of(step, device)
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as recorded:
        for _ in range(STEPS):
            step()
        if on_gpu:
            torch.cuda.synchronize(device)
    _keep_trace(recorded, out / f"{title.replace(' ', '-')}.json.gz")
    events = recorded.events()
    marks = [event for event in events if event.name == HEAD and event.device_type == DeviceType.CPU]
    if on_gpu:
        work = [event for event in events if event.device_type == DeviceType.CUDA and event.name != HEAD]
        cost = {id(event): event.time_range.elapsed_us() for event in work}
        head = sum(event.device_time_total for event in marks)
    else:
        work = [event for event in events if event.name != HEAD and not event.is_user_annotation]
        cost = {id(event): event.self_cpu_time_total for event in work}
        head = sum(event.cpu_time_total for event in marks)
    total = sum(cost.values())
    lines = [f"## {title}", "", f"{1e3 * seconds:.1f} ms a step, unwatched; {STEPS} steps watched."]
    if total:
        lines += [f"The head takes {head / total:.1%} of the time of all {'kernels' if on_gpu else 'operations'}."]
    if on_gpu and work:
        span, idle, longest = gaps_between(work)
        lines += [f"The GPU had nothing to do for {idle / span:.1%} of {span / 1e3:.1f} ms.", ""]
        lines += ["| longest gaps, µs | ended by |", "|---|---|"]
        lines += [f"| {gap.microseconds:.0f} | `{gap.before[:90]}` |" for gap in longest]
        copies = Counter(event.name for event in work if "Memcpy" in event.name or "Memset" in event.name)
        lines += [
            "",
            "Copies: " + ("; ".join(f"{count} × {name}" for name, count in copies.items()) or "none") + ".",
        ]
        lines += ["", "Waits for the GPU in a step: " + ("none." if not stops else "")]
        lines += [f"- {count} × {place}" for place, count in stops.most_common()]
    by_name: dict[str, list[float]] = {}
    for event in work:
        by_name.setdefault(event.name, []).append(cost[id(event)])
    costliest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:KERNELS]
    lines += ["", "| share | ms a step | times a step | what |", "|---|---|---|---|"]
    for name, costs in costliest:
        share, each = sum(costs) / max(total, 1e-9), sum(costs) / STEPS / 1e3
        lines += [f"| {share:.1%} | {each:.2f} | {len(costs) / STEPS:.0f} | `{name[:110]}` |"]
    return [*lines, ""]


def _keep_trace(recorded: profile, file: Path) -> None:
    plain = file.with_suffix("")
    recorded.export_chrome_trace(str(plain))
    with plain.open("rb") as source, gzip.open(file, "wb") as target:
        shutil.copyfileobj(source, target)
    plain.unlink()


def main(config: tyro.conf.OmitArgPrefixes[BenchConfig], out: Path = Path("gpu-profile")) -> None:
    """Profile a training step and a guided sampling step."""
    out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(config.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    lines = [
        f"# Profile: DiT-{config.network}, K = {config.codebook_size}, batch {config.batch_size}, "
        f"{'compiled' if config.compile else 'eager'}, {name}, torch {torch.__version__}",
        "",
    ]
    name_the_head()
    for title, part, variant in (("training step", "training", "ours"), ("sampling step", "sampling", "guided")):
        step = WORKLOADS[part].variants[variant].start(config, config.batch_size, device)
        lines += profile_step(title, step, device, out)
        del step
        # What is known so far, should the rest fail.
        (out / "profile.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.FlagConversionOff,))  # as `purrception bench` reads its options
