"""The report of a comparison: curves, final metrics, and how many times fewer steps an entry needs."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from purrception.comparison.rows import Rows
from purrception.comparison.speed import SpeedRatio, speed_ratios
from purrception.evaluation.metrics.intervals import DIFFERENCE
from purrception.experiment.config import RunConfig
from purrception.storage import save_png, write_file
from purrception.storage.report import REPORT_JSON, REPORT_MARKDOWN, REPORT_PICTURE
from purrception.utils.text import table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"step": "training steps", "seconds": "seconds of training", "flops": "training FLOPs"}
METRICS = {
    "frechet": "Fréchet distance",
    "bits_per_code": "bound, bits per code",
    "precision": "precision",
    "recall": "recall",
}
RANKED = ("frechet", "bits_per_code")
"""Lower is better; speed and advantages are measured by these."""
FAR = 4.0
"""A floor that many times below every measurement is written into a picture, not drawn."""
FINAL = ("frechet", "bits_per_code", "precision", "recall", "recognised", "cross_entropy", "mean_error")
HOW_SPEED_IS_MEASURED = (
    "A falling curve is fitted to each entry's measurements; the ratio compares what both need to reach the "
    "worse of the two ends. In brackets is the interval of 95 % over seeds, drawn again together for both; "
    "where it contains 1, the two cannot be told apart. ≥ and ≤: one of them was there at its first "
    "measurement; both at once: each was, so that nothing is known of how much less either needed."
)


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


def write_report(folder: Path, rows: Rows, recipe: RunConfig, floor: float, accuracy: float) -> Path:
    """Write Markdown, JSON and a picture of ``rows`` into ``folder``; returns the Markdown's path."""
    entries = list(dict.fromkeys(row["entry"] for row in rows))
    lines = [f"# Comparison on {recipe.name}", "", _protocol(rows, recipe, floor, accuracy), ""]
    lines += ["## At the end of training", "", _final_table(rows, entries), ""]
    if any("tuned" in row for row in rows):
        lines += ["## Tuned: each training at its own best temperature and guidance scale of a few", ""]
        lines += [_tuned_table(rows, entries), ""]
    lines += ["## Speed", "", HOW_SPEED_IS_MEASURED, ""] if len(entries) > 1 else []
    found: dict[str, dict[str, Any]] = {}
    for metric in RANKED if len(entries) > 1 else ():
        for axis, title in AXES.items():
            ratios = speed_ratios(rows, entries, axis, metric)
            lines += [f"### {METRICS[metric]}: how many times fewer {title}", ""]
            lines += [_ratio_table(ratios, entries), ""]
            found[f"{metric} by {axis}"] = {f"{a} than {b}": asdict(value) for (a, b), value in ratios.items()}
    lines += [f"![curves]({REPORT_PICTURE})", ""]
    _draw(rows, entries, floor, folder / REPORT_PICTURE)
    result = {"frechet_floor": floor, "classifier_accuracy": accuracy, "rows": rows, "times_fewer": found}
    write_file(folder / REPORT_JSON, json.dumps(result, indent=2))
    write_file(folder / REPORT_MARKDOWN, "\n".join(lines))
    return folder / REPORT_MARKDOWN


def _protocol(rows: Rows, recipe: RunConfig, floor: float, accuracy: float) -> str:
    seeds = sorted({row["seed"] for row in rows})
    return (
        f"{recipe.training.steps} steps of {recipe.training.batch_size} images, seeds {seeds}; mean ± standard "
        "deviation over seeds. Same tokenizer, tokens, data order, noise, times, optimiser, EMA and budget, and "
        f"the same initial weights where shapes agree. Distances are in {recipe.evaluation.features} features, to "
        f"the real test images; as many real training images are at {floor:.2f}. By chance is how far two "
        "distances of equal models, one training each, differ in 5 % of cases because other images were drawn "
        "(bootstrap); differences between training seeds come on top. The bound is of the held-out codes. "
        f"The classifier recognises {accuracy:.1%} of the real test images."
    )


def _final_table(rows: Rows, entries: list[str]) -> str:
    last = max(row["step"] for row in rows)
    header = ["entry", "Fréchet", "by chance", "bits per code", "precision", "recall", "recognised"]
    header += ["cross-entropy", "error of the mean", "parameters", "seconds", "sampling"]
    lines = []
    for entry in entries:
        final = [row for row in rows if row["entry"] == entry and row["step"] == last]
        if not final:
            continue
        cells = [mean_and_spread([row[name] for row in final]) for name in FINAL]
        cells.insert(1, _by_chance(final))
        used = final[0]["sampling"]
        seconds = fmean(row["seconds"] for row in final)
        sampling = f"{used['solver']}, NFE {final[0]['nfe']}, {_guidance_and_temperature(used)}"
        lines.append([entry, *cells, f"{final[0]['parameters']:,}", f"{seconds:.0f}", sampling])
    return table(header, lines)


def _guidance_and_temperature(sampling: dict[str, Any]) -> str:
    return f"guidance {sampling['guidance_scale']:g}, τ {sampling['temperature']}"


def _by_chance(rows: Rows) -> str:
    """How much two distances differ by chance; a dash where rows of earlier versions have no interval."""
    reaches = [row["frechet_high"] - row["frechet"] for row in rows if "frechet_high" in row]
    return f"± {DIFFERENCE * fmean(reaches):.2g}" if reaches else "–"


def _tuned_table(rows: Rows, entries: list[str]) -> str:
    """Each entry at its best sampling settings of a small search."""
    columns = ("frechet", "precision", "recall", "recognised")
    lines = []
    for entry in entries:
        tuned = [row["tuned"] for row in rows if row["entry"] == entry and "tuned" in row]
        if not tuned:
            continue
        cells = [mean_and_spread([result[name] for result in tuned]) for name in columns]
        best = [f"{_guidance_and_temperature(result['sampling'])}, NFE {result['nfe']}" for result in tuned]
        lines.append([entry, *cells, tuned[0]["tried"], "; ".join(best)])
    header = ["entry", "Fréchet", "precision", "recall", "recognised", "settings tried", "chosen, by seed"]
    return table(header, lines)


def _ratio_table(ratios: dict[tuple[str, str], SpeedRatio], entries: list[str]) -> str:
    """Row A, column B: A needs so many times less than B."""
    return table(
        ["A ↓ needs less than B → by", *entries],
        [[a, *("–" if a == b else str(ratios[a, b]) for b in entries)] for a in entries],
    )


def draw_floor(panel: Axes, floor: float, distances: Sequence[float]) -> None:
    """A line at the distance of real images or, where it would squeeze the others together, a note of it."""
    if floor > min(distances) / FAR:
        panel.axhline(floor, color="grey", linestyle=":", label="real training images")
    else:
        text = f"real training images: {floor:.3g}"
        panel.text(0.03, 0.04, text, transform=panel.transAxes, color="grey", fontsize=8)


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
                draw_floor(panel, floor, [row["frechet"] for row in rows])
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
                panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                panel.yaxis.set_minor_locator(NullLocator())
            panel.set(xscale="log", xlabel=axis_title, ylabel=metric_title)
            # Often less than a decade, on which a logarithmic axis has no ticks or too many.
            low, high = (end(row[axis] for row in rows) for end in (min, max))
            panel.set_xticks([low, math.sqrt(low * high), high] if low < high else [low])
            panel.xaxis.set_major_formatter(short)
            panel.xaxis.set_minor_locator(NullLocator())
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    save_png(figure, path)
