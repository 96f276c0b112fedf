"""One run under many sampling settings, from the same noise: a table, a Pareto front and presets."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from purrception.comparison.report import draw_floor
from purrception.comparison.rows import Rows
from purrception.comparison.settings import SweepSpace
from purrception.evaluation.sample_quality import SampleEvaluator
from purrception.experiment.saved_run import load_pipeline, sampling_defaults, saved_config
from purrception.storage import dump_settings, save_png, whole_folder, write_file
from purrception.storage.report import REPORT_JSON, REPORT_MARKDOWN, REPORT_PICTURE
from purrception.training import RunDirectory
from purrception.utils.devices import resolve_device
from purrception.utils.errors import InputError
from purrception.utils.progress import ProgressBar
from purrception.utils.text import table

BEST_PRESET, FAST_PRESET = "best.yaml", "fast.yaml"
FAST_WITHIN = 1.1
TEMPERATURES = ("1.0", "0.9", "0.8", "0.7")
SOLVERS_TRIED = ("euler", "dpmpp_2m")
COLUMNS = {
    "solver": "solver",
    "num_inference_steps": "steps",
    "timestep_spacing": "spacing",
    "guidance_scale": "guidance",
    "temperature": "τ",
}
"""Settings that the report's table shows, and the titles of their columns."""


def pareto_front(rows: Rows) -> Rows:
    """The rows that no other beats in both NFE and Fréchet distance, by rising NFE."""
    front: Rows = []
    for row in sorted(rows, key=lambda row: (row["nfe"], row["frechet"])):
        if not front or row["frechet"] < front[-1]["frechet"]:
            front.append(row)
    return front


def sweep(target: str, space: SweepSpace, num: int, seed: int, folder: Path, device: str = "auto") -> Path:
    """Evaluate a run under every combination of ``space`` and write the report to ``folder``.

    Args:
        target: the run.
        space: what to combine.
        num: images per combination.
        seed: of the noise, the same for all.
        folder: where the report goes.
        device: where to sample.

    Raises:
        InputError: temperatures for a model without a posterior, or settings its objective cannot honour; the
            folder holds something, or the disk is full.
    """
    run = RunDirectory.open(target)
    config = saved_config(run)
    pipeline = load_pipeline(target).to(resolve_device(device))
    network, objective = pipeline.transformer.eval(), pipeline.objective
    has_posterior = objective.head_family == "categorical"
    if space.temperatures and not has_posterior:
        raise InputError(
            f"a {config.objective.name!r} run has no posterior, hence no temperature to sweep: leave out "
            "--temperatures"
        )
    defaults = sampling_defaults(target)
    if not space.temperatures:
        space = replace(space, temperatures=TEMPERATURES if has_posterior else ("1.0",))
    if not space.solvers:
        asked = [replace(defaults, solver=name) for name in SOLVERS_TRIED]
        space = replace(space, solvers=tuple({objective.supported(setting).solver: None for setting in asked}))
    settings = space.settings(defaults)
    for setting in settings:
        objective.check(network, setting)
    classifier, features = config.evaluation.classifier, config.evaluation.features
    evaluator = SampleEvaluator(
        config.data, pipeline.tokenizer, network.num_classes, num, classifier, features, seed
    )
    rows: Rows = []
    with ProgressBar("sweep", len(settings)) as bar:
        for done, setting in enumerate(settings, start=1):
            rows.append({**asdict(setting), **evaluator.measure(network, objective, setting)})
            bar.update(done, f"Fréchet {rows[-1]['frechet']:.2f} at {rows[-1]['nfe']} NFE")
    front = pareto_front(rows)
    best = front[-1]
    fast = next(row for row in front if row["frechet"] <= FAST_WITHIN * best["frechet"])
    presets = {name: settings[rows.index(row)] for name, row in ((BEST_PRESET, best), (FAST_PRESET, fast))}
    # The smallest of many distances is partly luck: another noise shows how much of it.
    again = {
        setting: evaluator.measure(network, objective, setting, seed=evaluator.seed + 1)["frechet"]
        for setting in set(presets.values())
    }
    with whole_folder(folder) as partial:
        for name, setting in presets.items():
            write_file(partial / name, dump_settings(setting))
        _write(rows, front, {name: again[setting] for name, setting in presets.items()}, evaluator, partial)
    return folder / REPORT_MARKDOWN


def _write(rows: Rows, front: Rows, again: dict[str, float], evaluator: SampleEvaluator, folder: Path) -> None:
    """Write the report; ``again`` holds the distances of the presets on another noise."""
    result = {
        "features": evaluator.features,
        "frechet_floor": evaluator.floor,
        "classifier_accuracy": evaluator.accuracy,
        "num": evaluator.num,
        "rows": rows,
        "again": again,
    }
    write_file(folder / REPORT_JSON, json.dumps(result, indent=2))
    lines = [
        "# Sweep",
        "",
        f"{evaluator.num} images a row, all from the same noise; Fréchet distance in {evaluator.features} "
        "features to the real test images, and where its mean over other noises lies with 95 % confidence (as "
        f"many real training images: {evaluator.floor:.2f}). The classifier recognises {evaluator.accuracy:.1%} "
        "of the real test images. Rows of the Pareto front (quality, NFE) are bold. "
        f"`{BEST_PRESET}` holds the best of all, `{FAST_PRESET}` the cheapest within {FAST_WITHIN:g} times of it; "
        f"chosen by this noise, they are measured again on another: {again[BEST_PRESET]:.2f} and "
        f"{again[FAST_PRESET]:.2f}.",
        "",
        table(
            ["NFE", "Fréchet", "95 %", "precision", "recall", "recognised", *COLUMNS.values()],
            [_cells(row, "**" if row in front else "") for row in sorted(rows, key=lambda row: row["frechet"])],
        ),
        "",
        f"![Pareto front]({REPORT_PICTURE})",
        "",
    ]
    _draw(rows, front, evaluator.floor, folder / REPORT_PICTURE)
    write_file(folder / REPORT_MARKDOWN, "\n".join(lines))


def _cells(row: dict[str, Any], mark: str) -> list[Any]:
    """A row of the table; ``mark`` is put around what ranks it."""
    return [
        f"{mark}{row['nfe']}{mark}",
        f"{mark}{row['frechet']:.2f}{mark}",
        f"{row['frechet_low']:.2f} to {row['frechet_high']:.2f}",
        f"{row['precision']:.3f}",
        f"{row['recall']:.3f}",
        f"{row['recognised']:.1%}",
        *(row[name] for name in COLUMNS),
    ]


def _draw(rows: Rows, front: Rows, floor: float, path: Path) -> None:
    """Quality against NFE, with the front; quality and diversity against temperature."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    cost, trade = figure.subplots(1, 2)
    for number, solver in enumerate(dict.fromkeys(row["solver"] for row in rows)):
        own = [row for row in rows if row["solver"] == solver]
        nfe, distance = ([row[name] for row in own] for name in ("nfe", "frechet"))
        cost.scatter(nfe, distance, s=14, alpha=0.6, color=f"C{number}", label=solver)
    cost.plot([row["nfe"] for row in front], [row["frechet"] for row in front], color="black", linewidth=1)
    draw_floor(cost, floor, [row["frechet"] for row in rows])
    cost.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel="Fréchet distance")
    cost.legend(fontsize=8)
    for number, temperature in enumerate(dict.fromkeys(str(row["temperature"]) for row in rows)):
        own = [row for row in rows if str(row["temperature"]) == temperature]
        recall, precision = ([row[name] for row in own] for name in ("recall", "precision"))
        trade.scatter(recall, precision, s=14, color=f"C{number}", label=f"τ {temperature}")
    trade.set(xlabel="recall", ylabel="precision")
    trade.legend(fontsize=8)
    save_png(figure, path)
