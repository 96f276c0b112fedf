"""The report of a comparison: curves, final figures, and how many times fewer steps one needs than another."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from purrception.config import RunConfig

REPORT_MARKDOWN, REPORT_JSON, REPORT_PICTURE = "report.md", "report.json", "report.png"
AXES = {"step": "training steps", "seconds": "seconds of training", "flops": "training FLOPs"}
METRICS = {
    "frechet": "Fréchet distance",
    "bits_per_code": "bound, bits per code",
    "precision": "precision",
    "recall": "recall",
}
RANKED = ("frechet", "bits_per_code")  # lower is better; these are what speed is measured by

FINAL = ("frechet", "bits_per_code", "precision", "recall", "recognised", "cross_entropy", "mean_error")

Rows = list[dict[str, Any]]


def mean_and_spread(values: Sequence[float | None]) -> str:
    """``mean ± standard deviation`` over seeds; the mean alone for one seed, a dash where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = fmean(known)
    return f"{mean:.3g} ± {stdev(known):.2g}" if len(known) > 1 else f"{mean:.3g}"


def curve(rows: Rows, entry: str, axis: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds at each measured step: (positions on the axis, values)."""
    by_step: dict[int, Rows] = defaultdict(list)
    for row in rows:
        if row["entry"] == entry:
            by_step[row["step"]].append(row)
    steps = sorted(by_step)
    return (
        np.array([fmean(row[axis] for row in by_step[step]) for step in steps], dtype=float),
        np.array([fmean(row[metric] for row in by_step[step]) for step in steps], dtype=float),
    )


def first_reach(positions: np.ndarray, values: np.ndarray, target: float) -> float:
    """Where a curve first comes down to ``target``, linear between points in the logarithm of the position.

    Infinite when it never does; the first position when it starts there.
    """
    if values[0] <= target:
        return float(positions[0])
    for i in range(1, len(values)):
        if values[i] <= target:
            share = (values[i - 1] - target) / (values[i - 1] - values[i])
            low, high = math.log(positions[i - 1]), math.log(positions[i])
            return math.exp(low + share * (high - low))
    return math.inf


def speed_ratios(rows: Rows, axis: str, metric: str) -> dict[tuple[str, str], tuple[float, bool]]:
    """(A, B) → how many times less of ``axis`` A needs to reach B's final value, and whether it is only a bound.

    0 stands for never within the budget. Where A was there at its first measurement already, the ratio is a
    lower bound.
    """
    entries = list(dict.fromkeys(row["entry"] for row in rows))
    ratios = {}
    for a in entries:
        for b in entries:
            end, final = (part[-1] for part in curve(rows, b, axis, metric))
            positions, values = curve(rows, a, axis, metric)
            reach = first_reach(positions, values, float(final))
            ratio = float(end) / reach if math.isfinite(reach) else 0.0
            ratios[a, b] = ratio, bool(values[0] <= final)
    return ratios


def write_report(folder: Path, rows: Rows, recipe: RunConfig, floor: float) -> Path:
    """Write Markdown, JSON and a picture of ``rows`` into ``folder``; returns the Markdown's path."""
    entries = list(dict.fromkeys(row["entry"] for row in rows))
    lines = [f"# Comparison on {recipe.name}", "", *_protocol(rows, recipe, floor), ""]
    lines += ["## At the end of training", "", *_final_table(rows, entries), ""]
    lines += _tuned_table(rows, entries)
    for metric in RANKED:
        for axis, title in AXES.items():
            lines += [f"## {METRICS[metric]}: how many times fewer {title}", ""]
            lines += [*_ratio_table(rows, entries, axis, metric), ""]
    lines += [f"![curves]({REPORT_PICTURE})", ""]
    _draw(rows, entries, floor, folder / REPORT_PICTURE)
    ratios = {
        f"{metric} by {axis}": {
            f"{a} to {b}": value for (a, b), (value, _) in speed_ratios(rows, axis, metric).items()
        }
        for metric in RANKED
        for axis in AXES
    }
    result = {"frechet_floor": floor, "rows": rows, "times_fewer": ratios}
    (folder / REPORT_JSON).write_text(json.dumps(result, indent=2), encoding="utf-8")
    (folder / REPORT_MARKDOWN).write_text("\n".join(lines), encoding="utf-8")
    return folder / REPORT_MARKDOWN


def _protocol(rows: Rows, recipe: RunConfig, floor: float) -> list[str]:
    seeds = sorted({row["seed"] for row in rows})
    return [
        f"{recipe.training.steps} steps of {recipe.training.batch_size} images, seeds {seeds}; mean ± standard "
        "deviation over seeds. Same tokenizer, tokens, data order, noise, times, optimiser, EMA and budget, and "
        f"the same initial weights where shapes agree. Distances are in {recipe.evaluation.features} features, to "
        f"the real test images; as many real training images are at {floor:.2f}. By chance is half the width of "
        "the 95 % bootstrap interval of a distance: a difference within it may be luck. The bound is of the "
        "held-out codes.",
    ]


def _final_table(rows: Rows, entries: list[str]) -> list[str]:
    last = max(row["step"] for row in rows)
    lines = [
        "| entry | Fréchet | by chance | bits per code | precision | recall | recognised | cross-entropy "
        "| error of the mean | parameters | seconds | sampling |",
        "|" + "---|" * 12,
    ]
    for entry in entries:
        final = [row for row in rows if row["entry"] == entry and row["step"] == last]
        if not final:
            continue
        cells = [mean_and_spread([row[name] for row in final]) for name in FINAL]
        cells.insert(1, _half_width(final))
        used = final[0]["sampling"]
        sampling = (
            f"{used['solver']}, NFE {final[0]['nfe']}, guidance {used['guidance']:g}, τ {used['temperature']}"
        )
        lines.append(
            f"| {entry} | {' | '.join(cells)} | {final[0]['parameters']:,} | "
            f"{fmean(row['seconds'] for row in final):.0f} | {sampling} |"
        )
    return lines


def _half_width(rows: Rows) -> str:
    """Of the bootstrap intervals of the distances, on average; a dash where older rows have none."""
    widths = [row["frechet_high"] - row["frechet_low"] for row in rows if "frechet_high" in row]
    return f"± {fmean(widths) / 2:.2g}" if widths else "–"


def _tuned_table(rows: Rows, entries: list[str]) -> list[str]:
    """Each entry at its own best of the tuned grid, where a comparison was asked to tune."""
    if not any("tuned" in row for row in rows):
        return []
    lines = [
        "## Tuned: each training at its own best of a small grid of temperatures and guidances",
        "",
        "| entry | Fréchet | precision | recall | recognised | settings tried | chosen, by seed |",
        "|" + "---|" * 7,
    ]
    for entry in entries:
        tuned = [row["tuned"] for row in rows if row["entry"] == entry and "tuned" in row]
        if not tuned:
            continue
        cells = [
            mean_and_spread([result[name] for result in tuned])
            for name in ("frechet", "precision", "recall", "recognised")
        ]
        chosen = "; ".join(
            f"τ {used['temperature']}, guidance {used['guidance']:g}, NFE {result['nfe']}"
            for result in tuned
            for used in (result["sampling"],)
        )
        lines.append(f"| {entry} | {' | '.join(cells)} | {tuned[0]['tried']} | {chosen} |")
    return [*lines, ""]


def _ratio_table(rows: Rows, entries: list[str], axis: str, metric: str) -> list[str]:
    """Row A, column B: A reaches B's final quality with so many times less."""
    ratios = speed_ratios(rows, axis, metric)
    lines = [f"| A ↓ reaches the end of B → | {' | '.join(entries)} |", "|---" * (len(entries) + 1) + "|"]
    for a in entries:
        cells = [_ratio(*ratios[a, b]) for b in entries]
        lines.append(f"| {a} | {' | '.join(cells)} |")
    return lines


def _ratio(value: float, only_a_bound: bool) -> str:
    if not value:
        return "not reached"
    return f"{'≥ ' if only_a_bound else ''}{value:.2f}×"


def _draw(rows: Rows, entries: list[str], floor: float, path: Path) -> None:
    """Quality against steps, seconds and FLOPs: a thin line a seed, a thick one the mean."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

    large = EngFormatter(places=1)
    short = FuncFormatter(lambda value, _: large(value) if value >= 1e4 else f"{value:.0f}")
    figure = Figure(figsize=(4.2 * len(AXES), 2.9 * len(METRICS)), layout="constrained")
    panels = figure.subplots(len(METRICS), len(AXES), squeeze=False)
    for line, (metric, metric_title) in enumerate(METRICS.items()):
        for column, (axis, axis_title) in enumerate(AXES.items()):
            panel = panels[line][column]
            for number, entry in enumerate(entries):
                colour = f"C{number}"
                for seed in sorted({row["seed"] for row in rows}):
                    own = [row for row in rows if row["seed"] == seed]
                    panel.plot(*curve(own, entry, axis, metric), color=colour, alpha=0.25, linewidth=0.8)
                panel.plot(*curve(rows, entry, axis, metric), color=colour, marker="o", ms=3, label=entry)
            if metric == "frechet":
                panel.axhline(floor, color="grey", linestyle=":", label="real training images")
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                panel.yaxis.set_minor_locator(NullLocator())
            panel.set(xscale="log", xlabel=axis_title, ylabel=metric_title)
            # Often less than a decade, where the usual ticks of a logarithmic axis are none or too many.
            low, high = (end(row[axis] for row in rows) for end in (min, max))
            panel.set_xticks([low, math.sqrt(low * high), high] if low < high else [low])
            panel.xaxis.set_major_formatter(short)
            panel.xaxis.set_minor_locator(NullLocator())
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=110)
