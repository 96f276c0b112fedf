"""The measurements as one report."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch

from purrception.bench.config import BenchConfig
from purrception.bench.measure import Measured, measure_alone, peak_memory, ratio, seconds_in_turns
from purrception.bench.peaks import known_peak
from purrception.bench.workloads import REFERENCE, WORKLOADS, Variant
from purrception.models import training_flops
from purrception.models.flops import forward_flops
from purrception.storage import write_file, writing
from purrception.utils.devices import resolve_device
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.progress import ProgressBar

MEGABYTE = 2**20
COLUMNS = (
    "work",
    "variant",
    "ms",
    "images/s",
    "codes/s",
    "× the reference",
    "× ours",
    "GFLOP/s",
    "MFU",
    "peak MB",
    "MB an image",
    "× the reference's memory",
    "MB beyond the weights",
)


@dataclass(frozen=True)
class Row:
    """One variant of one kind of work."""

    part: str
    variant: str
    setting: int | str | None
    """Of what is varied."""
    seconds: float
    """Median of a step."""
    images_per_second: float
    codes_per_second: float
    times_the_reference: float | None
    """Its seconds over the reference's: the median of the ratios of each round."""
    times_ours: float | None
    """Its seconds over those of the first variant, likewise."""
    flops_per_second: float | None
    """Of the model, for training and sampling steps: what the mathematics needs, not what was recomputed."""
    utilisation: float | None
    """That over the peak of the GPU."""
    bytes: float | None
    """Peak memory of a step, weights and optimiser included."""
    bytes_per_image: float | None
    """Memory of one more image in the batch."""
    memory_of_the_reference: float | None
    """That over the reference's."""
    bytes_beyond_weights: float | None
    """Of the head alone: the peak without its weights, their gradients and the codebook."""

    def cells(self) -> tuple[str, ...]:
        """For the table, as in ``COLUMNS``."""

        def shown(value: float | None, form: str, unit: float = 1.0) -> str:
            return "–" if value is None else format(value / unit, form)

        name = self.variant if self.setting is None else f"{self.variant}, {self.setting}"
        return (
            WORKLOADS[self.part].title,
            name,
            shown(1e3 * self.seconds, ".0f"),
            shown(self.images_per_second, ".2f"),
            shown(self.codes_per_second, ".0f"),
            shown(self.times_the_reference, ".2f"),
            shown(self.times_ours, ".2f"),
            shown(self.flops_per_second, ".0f", 1e9),
            shown(self.utilisation, ".1%"),
            shown(self.bytes, ".0f", MEGABYTE),
            shown(self.bytes_per_image, ".1f", MEGABYTE),
            shown(self.memory_of_the_reference, ".2f"),
            shown(self.bytes_beyond_weights, ".1f", MEGABYTE),
        )


@dataclass(frozen=True)
class Growth:
    """How a variant's cost grows with what is varied: the exponents of the power laws of least squares."""

    part: str
    variant: str
    seconds: float
    bytes_beyond_weights: float | None


@dataclass(frozen=True)
class Report:
    """All rows, and what they were measured on."""

    config: BenchConfig
    device: str
    threads: int
    torch: str
    vary: str
    rows: tuple[Row, ...]
    growth: tuple[Growth, ...] = ()
    left_out: tuple[str, ...] = ()
    """What the memory of the device did not suffice for."""

    def json(self) -> str:
        """For machines."""
        return json.dumps(asdict(self), indent=2)

    def markdown(self) -> str:
        """For people; columns in which nothing stands are left out."""
        used = self.config
        sizes = (
            f"DiT-{used.network}, K = {used.codebook_size}, {used.grid}×{used.grid} sites of {used.codebook_dim} "
            f"numbers, {used.head} head{' with evidence' if used.evidence else ''}, batch {used.batch_size}, "
            f"precision {used.precision}{', compiled' if used.compile else ''}"
            f"{', blocks recomputed' if used.recompute else ''}"
        )
        table = [COLUMNS, *(row.cells() for row in self.rows)]
        kept = [column for column in zip(*table, strict=True) if any(cell != "–" for cell in column[1:])]
        heading, *body = ("| " + " | ".join(cells) + " |" for cells in zip(*kept, strict=True))
        lines = [
            "# Bench",
            "",
            f"{sizes}{f'; {self.vary} varied' if self.vary else ''}; {self.device}, {self.threads} threads, torch "
            f"{self.torch}. Medians of {used.repeats} runs, ratios round by round; the reference holds all logits "
            "of a linear head. Memory an image is that of one more in the batch.",
            "",
            heading,
            "|" + "---|" * len(kept),
            *body,
        ]
        if self.left_out:
            lines += ["", f"No memory for: {'; '.join(self.left_out)}."]
        for growth in self.growth:
            grown = f"seconds grow as {self.vary}^{growth.seconds:.2f}"
            if growth.bytes_beyond_weights is not None:
                grown += f", memory beyond the weights as {self.vary}^{growth.bytes_beyond_weights:.3f}"
            lines += ["", f"{WORKLOADS[growth.part].title}, {growth.variant}: {grown}."]
        return "\n".join(lines) + "\n"


def bench(
    config: BenchConfig,
    parts: Sequence[str] = (),
    variants: Sequence[str] = (),
    vary: str = "",
    values: Sequence[str] = (),
) -> Report:
    """Measure ``parts`` in ``variants``, or all of them where none are named.

    Args:
        config: sizes.
        parts: kinds of work.
        variants: of each; a part that has none of them is left out.
        vary: a size of ``config`` that takes each of ``values``; all of them are timed in the same rounds.
        values: as on a command line.

    Raises:
        InputError: an unknown part, variant or size, or no memory for one.
    """
    known = {name for work in WORKLOADS.values() for name in work.variants}
    for kind, given, accepted in (("part", parts, list(WORKLOADS)), ("variant", variants, sorted(known))):
        for name in given:
            if name not in accepted:
                raise unknown_name(kind, name, accepted)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = resolve_device(config.device)
    settings = _settings(config, vary, values)
    left_out: list[str] = []
    rows = [row for part in parts or WORKLOADS for row in _measure(settings, part, variants, device, left_out)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    growth = _growth(rows) if len(settings) > 1 and all(isinstance(value, int) for value in settings) else ()
    return Report(
        config, name, torch.get_num_threads(), torch.__version__, vary, tuple(rows), growth, tuple(left_out)
    )


Settings = dict[int | str | None, BenchConfig]


def _settings(config: BenchConfig, vary: str, values: Sequence[str]) -> Settings:
    """The configuration at each value of what is varied."""
    if not vary:
        return {None: config}
    kinds = {field.name: type(getattr(config, field.name)) for field in fields(config)}
    accepted = [name for name, kind in kinds.items() if kind in (int, str)]
    if vary not in accepted:
        raise unknown_name("size to vary", vary, accepted)
    if not values:
        raise InputError(f"--vary {vary} needs --values, such as --values 16384 65536")
    try:
        typed = [kinds[vary](value) for value in values]
    except ValueError as error:
        raise InputError(f"{vary} takes whole numbers; given {', '.join(values)}") from error
    return {value: replace(config, **{vary: value}) for value in typed}


def _measure(
    settings: Settings, part: str, only: Sequence[str], device: torch.device, left_out: list[str]
) -> list[Row]:
    """A row for each variant at each setting; what the memory does not suffice for is named in ``left_out``."""
    work = {name: variant for name, variant in WORKLOADS[part].variants.items() if not only or name in only}
    if not work:
        return []
    alone = next(iter(settings.values())).alone(device)
    found = (_one_by_one if alone else _in_turns)(settings, part, work, device)
    rows = []
    for (setting, name), measured in found.items():
        config, variant = settings[setting], work[name]
        if measured is None:
            left_out.append(_named(part, name, setting))
            continue
        of_reference, of_ours = (found.get((setting, other)) for other in (REFERENCE, next(iter(work))))
        taken = measured.seconds
        per_second = config.batch_size / statistics.median(taken)
        flops = _flops(variant.of(config), part, variant.passes)
        peak = _peak_flops(config, device)
        others = None if of_reference is None else of_reference.bytes_per_image
        beyond = measured.bytes - _held(variant, config) if measured.bytes and part == "head" else None
        rows.append(
            Row(
                part=part,
                variant=name,
                setting=setting,
                seconds=statistics.median(taken),
                images_per_second=per_second,
                codes_per_second=per_second * config.grid**2,
                times_the_reference=ratio(taken, of_reference.seconds) if of_reference else None,
                times_ours=ratio(taken, of_ours.seconds) if of_ours else None,
                flops_per_second=flops and flops * per_second,
                utilisation=flops * per_second / peak if flops and peak else None,
                bytes=measured.bytes,
                bytes_per_image=measured.bytes_per_image,
                memory_of_the_reference=measured.bytes_per_image / others
                if others and measured.bytes_per_image
                else None,
                bytes_beyond_weights=beyond,
            )
        )
    return rows


Found = dict[tuple[int | str | None, str], Measured | None]


def _in_turns(settings: Settings, part: str, work: dict[str, Variant], device: torch.device) -> Found:
    """Time all variants at all settings in turns, then the memory of each in a process of its own."""
    steps = {
        (setting, name): variant.start(config, config.batch_size, device)
        for setting, config in settings.items()
        for name, variant in work.items()
    }
    seconds = seconds_in_turns(part, steps, next(iter(settings.values())).repeats, device)
    del steps
    found: Found = {}
    for (setting, name), taken in seconds.items():
        config = settings[setting]
        if config.memory:
            small, large = (peak_memory(config, part, name, count * config.batch_size) for count in (1, 2))
            found[setting, name] = Measured(taken, small, (large - small) / config.batch_size)
        else:
            found[setting, name] = Measured(taken)
    return found


def _one_by_one(settings: Settings, part: str, work: dict[str, Variant], device: torch.device) -> Found:
    """Time and memory of each variant at each setting; the slope of the memory is that from half the batch."""
    found: Found = {}
    with ProgressBar(part, len(settings) * len(work)) as bar:
        for setting, config in settings.items():
            for name, variant in work.items():
                measured = found[setting, name] = _by_itself(variant, config, device)
                bar.note(f"{_named(part, name, setting)}: {measured or 'no memory'}")  # should the rest not end
                bar.update(len(found))
    return found


def _named(part: str, variant: str, setting: int | str | None) -> str:
    return f"{WORKLOADS[part].title}, {variant}{'' if setting is None else f' at {setting}'}"


def _by_itself(variant: Variant, config: BenchConfig, device: torch.device) -> Measured | None:
    images, half = config.batch_size, config.batch_size // 2
    whole = measure_alone(partial(variant.start, config, images, device), config.repeats, device)
    if whole is None or whole.bytes is None or not config.memory or not half:
        return whole
    smaller = measure_alone(partial(variant.start, config, half, device), 1, device)
    if smaller is None or smaller.bytes is None:
        return whole
    return replace(whole, bytes_per_image=(whole.bytes - smaller.bytes) / (images - half))


def _held(variant: Variant, config: BenchConfig) -> int:
    """Bytes of the head's weights, their gradients and the codebook."""
    head = variant.of(config).build_head(torch.device("meta"))
    return 4 * (2 * head.parameter_count() + head.codebook.numel())


def _flops(config: BenchConfig, part: str, passes: int) -> float | None:
    """Of one image, where a network is used, without the decoder; ``passes`` counts those of the backbone."""
    if part not in ("training", "sampling", "generation"):
        return None
    with torch.device("meta"):
        network = config.build(torch.device("meta"))
        if part == "training":
            return training_flops(network, config.batch_size) / config.batch_size
        head = network.head.flops(config.grid**2)
        return (passes * (forward_flops(network) - head) + head) * (config.steps if part == "generation" else 1)


def _peak_flops(config: BenchConfig, device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    known = config.tflops or known_peak(torch.cuda.get_device_name(device))
    return 1e12 * known if known else None


def _growth(rows: Sequence[Row]) -> tuple[Growth, ...]:
    def exponent(points: Sequence[tuple[float, float | None]]) -> float | None:
        logs = [(math.log(x), math.log(y)) for x, y in points if y is not None and y > 0]
        if len(logs) < len(points):
            return None
        return statistics.linear_regression(*zip(*logs, strict=True)).slope

    found = []
    for part, variant in dict.fromkeys((row.part, row.variant) for row in rows):
        chosen = [row for row in rows if (row.part, row.variant) == (part, variant)]
        values = [float(row.setting) for row in chosen if row.setting is not None]
        if len(values) < 2:  # the memory did not suffice for the others
            continue
        seconds = exponent(list(zip(values, (row.seconds for row in chosen), strict=True)))
        assert seconds is not None
        beyond = exponent(list(zip(values, (row.bytes_beyond_weights for row in chosen), strict=True)))
        found.append(Growth(part, variant, seconds, beyond))
    return tuple(found)


def write(report: Report, folder: Path) -> Path:
    """``report.md`` and ``report.json`` in ``folder``; returns the first."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "report.json", report.json())
    write_file(folder / "report.md", report.markdown())
    return folder / "report.md"
