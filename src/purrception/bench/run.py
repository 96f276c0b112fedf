"""Measuring workloads in all their variants."""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial

import torch

from purrception.bench.config import BenchConfig
from purrception.bench.measure import Measurement, measure_alone, peak_memory, ratio, seconds_in_turns
from purrception.bench.peaks import known_peak
from purrception.bench.report import Growth, Report, Row
from purrception.bench.workloads import REFERENCE, WORKLOADS, Variant
from purrception.models import training_flops
from purrception.models.flops import forward_flops
from purrception.utils.errors import InputError, unknown_name
from purrception.utils.progress import ProgressBar

Settings = dict[int | str | None, BenchConfig]
"""The configuration by each value of the setting that is varied; by ``None`` if none is."""
Measurements = dict[tuple[int | str | None, str], Measurement | None]
"""By value of the setting and name of the variant; ``None`` where the memory did not suffice."""


def bench(
    config: BenchConfig,
    parts: Sequence[str] = (),
    variants: Sequence[str] = (),
    vary: str = "",
    values: Sequence[str] = (),
) -> Report:
    """Measure workloads in several variants.

    Args:
        config: sizes.
        parts: names of workloads; empty: all.
        variants: names of variants, empty: all; a workload that has none of them is left out.
        vary: a field of ``config`` that takes each of ``values``; all of them are timed in the same rounds.
        values: as on a command line.

    Raises:
        InputError: a part, variant or field is unknown, or the memory does not suffice.
    """
    known = {name for work in WORKLOADS.values() for name in work.variants}
    for kind, names, accepted in (("part", parts, list(WORKLOADS)), ("variant", variants, sorted(known))):
        for name in names:
            if name not in accepted:
                raise unknown_name(kind, name, accepted)
    device = config.prepare()
    settings = _settings(config, vary, values)
    left_out: list[str] = []
    rows = [row for part in parts or WORKLOADS for row in _measure(settings, part, variants, device, left_out)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    growth = _growth(rows) if len(settings) > 1 and all(isinstance(value, int) for value in settings) else ()
    threads = torch.get_num_threads()
    return Report(config, name, threads, torch.__version__, vary, tuple(rows), growth, tuple(left_out))


def _settings(config: BenchConfig, vary: str, values: Sequence[str]) -> Settings:
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
    """A row for each variant at each setting; what does not fit into memory is added to ``left_out``."""
    variants = {name: variant for name, variant in WORKLOADS[part].variants.items() if not only or name in only}
    if not variants:
        return []
    alone = next(iter(settings.values())).alone(device)
    measurements = (_one_by_one if alone else _in_turns)(settings, part, variants, device)
    rows = []
    for (setting, name), measured in measurements.items():
        config, variant = settings[setting], variants[name]
        if measured is None:
            left_out.append(_title(part, name, setting))
            continue
        reference, ours = (measurements.get((setting, other)) for other in (REFERENCE, next(iter(variants))))
        seconds, slope = statistics.median(measured.seconds), measured.bytes_per_image
        per_second = config.batch_size / seconds
        flops, peak = _flops(variant.of(config), part, variant.passes), _peak_flops(config, device)
        reference_slope = reference and reference.bytes_per_image
        beyond = measured.bytes - _weight_bytes(variant, config) if measured.bytes and part == "head" else None
        rows.append(
            Row(
                part=part,
                variant=name,
                setting=setting,
                seconds=seconds,
                images_per_second=per_second,
                codes_per_second=per_second * config.grid**2,
                times_the_reference=ratio(measured.seconds, reference.seconds) if reference else None,
                times_ours=ratio(measured.seconds, ours.seconds) if ours else None,
                flops_per_second=flops and flops * per_second,
                utilisation=flops * per_second / peak if flops and peak else None,
                bytes=measured.bytes,
                bytes_per_image=slope,
                memory_of_the_reference=slope / reference_slope if slope and reference_slope else None,
                bytes_beyond_weights=beyond,
            )
        )
    return rows


def _in_turns(settings: Settings, part: str, variants: dict[str, Variant], device: torch.device) -> Measurements:
    """Time all variants at all settings in turns, then measure the memory of each in a process of its own."""
    steps = {
        (setting, name): variant.start(config, config.batch_size, device)
        for setting, config in settings.items()
        for name, variant in variants.items()
    }
    seconds = seconds_in_turns(part, steps, next(iter(settings.values())).repeats, device)
    del steps
    measurements: Measurements = {}
    for (setting, name), taken in seconds.items():
        config = settings[setting]
        if config.memory:
            small, large = (peak_memory(config, part, name, count * config.batch_size) for count in (1, 2))
            measurements[setting, name] = Measurement(taken, small, (large - small) / config.batch_size)
        else:
            measurements[setting, name] = Measurement(taken)
    return measurements


def _one_by_one(settings: Settings, part: str, variants: dict[str, Variant], device: torch.device) -> Measurements:
    """Time and memory of one variant at one setting after the other."""
    measurements: Measurements = {}
    with ProgressBar(part, len(settings) * len(variants)) as bar:
        for setting, config in settings.items():
            for name, variant in variants.items():
                measured = measurements[setting, name] = _with_slope(variant, config, device)
                bar.note(f"{_title(part, name, setting)}: {measured or 'out of memory'}")  # in case the rest fails
                bar.update(len(measurements))
    return measurements


def _title(part: str, variant: str, setting: int | str | None) -> str:
    return f"{WORKLOADS[part].title}, {variant}{'' if setting is None else f' at {setting}'}"


def _with_slope(variant: Variant, config: BenchConfig, device: torch.device) -> Measurement | None:
    """Measure a variant alone, and the memory of an image as the slope between half the batch and all of it."""
    images, half = config.batch_size, config.batch_size // 2
    whole = measure_alone(partial(variant.start, config, images, device), config.repeats, device)
    if whole is None or whole.bytes is None or not config.memory or not half:
        return whole
    smaller = measure_alone(partial(variant.start, config, half, device), 1, device)
    if smaller is None or smaller.bytes is None:
        return whole
    return replace(whole, bytes_per_image=(whole.bytes - smaller.bytes) / (images - half))


def _weight_bytes(variant: Variant, config: BenchConfig) -> int:
    """Bytes of the head's weights, their gradients and the codebook."""
    head = variant.of(config).build_head(torch.device("meta"))
    return 4 * (2 * head.parameter_count() + head.codebook.numel())


def _flops(config: BenchConfig, part: str, passes: int) -> float | None:
    """Operations of one image, without the decoder; ``passes`` counts those of the backbone."""
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
    tflops = config.tflops or known_peak(torch.cuda.get_device_name(device))
    return 1e12 * tflops if tflops else None


def _growth(rows: Sequence[Row]) -> tuple[Growth, ...]:
    def exponent(settings: Sequence[float], costs: Sequence[float | None]) -> float | None:
        points = [(x, y) for x, y in zip(settings, costs, strict=True) if y is not None and y > 0]
        if len(points) < len(costs):
            return None
        logs = [(math.log(x), math.log(y)) for x, y in points]
        return statistics.linear_regression(*zip(*logs, strict=True)).slope

    growth = []
    for part, variant in dict.fromkeys((row.part, row.variant) for row in rows):
        own = [row for row in rows if (row.part, row.variant) == (part, variant)]
        settings = [float(row.setting) for row in own if row.setting is not None]
        if len(settings) < 2:  # the memory did not suffice for the others
            continue
        seconds = exponent(settings, [row.seconds for row in own])
        assert seconds is not None
        growth.append(
            Growth(part, variant, seconds, exponent(settings, [row.bytes_beyond_weights for row in own]))
        )
    return tuple(growth)
