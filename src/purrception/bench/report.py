"""The measurements as one report."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from purrception.bench.config import BenchConfig
from purrception.bench.measure import peak_memory, seconds_in_turns
from purrception.bench.workloads import REFERENCE, WORKLOADS
from purrception.errors import unknown_name
from purrception.models import training_flops
from purrception.models.cost import forward_flops
from purrception.training.config import resolve_device

MEGABYTE = 2**20


@dataclass(frozen=True)
class Row:
    """One variant of one kind of work."""

    part: str
    variant: str
    seconds: float
    """Median of a step."""
    images_per_second: float
    codes_per_second: float
    times_the_reference: float
    """Its seconds over the reference's, both medians of this run."""
    flops_per_second: float | None
    """Of the model, for training and sampling steps: what the mathematics needs, not what was recomputed."""
    bytes_per_image: float | None
    """Memory of one more image in the batch."""
    memory_of_the_reference: float | None
    """That over the reference's."""


@dataclass(frozen=True)
class Report:
    """All rows, and what they were measured on."""

    config: BenchConfig
    device: str
    threads: int
    torch: str
    rows: tuple[Row, ...]

    def json(self) -> str:
        """For machines."""
        return json.dumps(asdict(self), indent=2)

    def markdown(self) -> str:
        """For people."""
        used = self.config
        lines = [
            "# Bench",
            "",
            f"DiT-{used.network}, K = {used.codebook_size}, {used.grid}×{used.grid} sites of {used.codebook_dim} "
            f"numbers, {used.head} head{' with evidence' if used.evidence else ''}, batch {used.batch_size}, "
            f"precision {used.precision}{', compiled' if used.compile else ''}; {self.device}, "
            f"{self.threads} threads, torch {self.torch}. Medians of {used.repeats} runs in turns; the reference "
            "holds all logits of a linear head. Memory is that of one more image in the batch.",
            "",
            "| work | variant | ms | images/s | codes/s | × the reference's time | GFLOP/s | MB an image "
            "| × the reference's memory |",
            "|" + "---|" * 9,
        ]
        for row in self.rows:
            flops = "–" if row.flops_per_second is None else f"{row.flops_per_second / 1e9:.0f}"
            memory = "–" if row.bytes_per_image is None else f"{row.bytes_per_image / MEGABYTE:.1f}"
            share = "–" if row.memory_of_the_reference is None else f"{row.memory_of_the_reference:.2f}"
            lines.append(
                f"| {WORKLOADS[row.part].title} | {row.variant} | {1e3 * row.seconds:.0f} | "
                f"{row.images_per_second:.2f} | {row.codes_per_second:.0f} | {row.times_the_reference:.2f} | "
                f"{flops} | {memory} | {share} |"
            )
        return "\n".join(lines) + "\n"


def bench(config: BenchConfig, parts: tuple[str, ...]) -> Report:
    """Measure ``parts``, or all of them where none are named.

    Raises:
        InputError: an unknown part, or no memory for one.
    """
    for part in parts:
        if part not in WORKLOADS:
            raise unknown_name("part", part, WORKLOADS)
    device = resolve_device(config.device)
    rows = [row for part in parts or WORKLOADS for row in _measure(config, part, device)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    return Report(config, name, torch.get_num_threads(), torch.__version__, tuple(rows))


def _measure(config: BenchConfig, part: str, device: torch.device) -> list[Row]:
    """Time all variants in turns, then the memory of each."""
    variants = WORKLOADS[part].variants
    steps = {name: build(config, config.batch_size, device) for name, build in variants.items()}
    seconds = seconds_in_turns(part, steps, config.repeats, device)
    del steps
    memory = {name: _bytes_per_image(config, part, name) if config.memory else None for name in variants}
    codes = config.batch_size * config.grid**2
    reference = memory[REFERENCE]
    return [
        Row(
            part=part,
            variant=name,
            seconds=seconds[name],
            images_per_second=config.batch_size / seconds[name],
            codes_per_second=codes / seconds[name],
            times_the_reference=seconds[name] / seconds[REFERENCE],
            flops_per_second=_flops(config, part, name, device, seconds[name]),
            bytes_per_image=memory[name],
            memory_of_the_reference=None if not reference else (memory[name] or 0.0) / reference,
        )
        for name in variants
    ]


def _bytes_per_image(config: BenchConfig, part: str, variant: str) -> float:
    """Slope of the peak memory between a batch and twice that batch."""
    small, large = (peak_memory(config, part, variant, count * config.batch_size) for count in (1, 2))
    return (large - small) / config.batch_size


def _flops(config: BenchConfig, part: str, variant: str, device: torch.device, seconds: float) -> float | None:
    if part == "head":
        return None
    head = {"factored head": "factored", REFERENCE: "linear"}.get(variant)
    network = config.build(device, head)
    if part == "training":
        return training_flops(network, config.batch_size) / seconds
    passes = 2 if variant == "guided" else 1
    head_flops = network.head.flops(config.grid**2)
    backbone = forward_flops(network) - head_flops
    return config.batch_size * (passes * backbone + head_flops) / seconds


def write(report: Report, folder: Path) -> Path:
    """``report.md`` and ``report.json`` in ``folder``; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(report.json())
    (folder / "report.md").write_text(report.markdown())
    return folder / "report.md"
