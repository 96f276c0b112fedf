"""Part 8: the effect of temperature on quality, classes and regions; schedules, guidance and steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from purrception.data import images_to_tensor
from purrception.diagnose.calibration import fitted_temperatures
from purrception.diagnose.loaded_run import LoadedRun
from purrception.diagnose.plotting import comma_separated, hide_axes, show_image, show_map
from purrception.evaluation.sample_quality import SampleEvaluator, SampleMetrics
from purrception.flow import Generation, SamplingConfig
from purrception.instruments.temperature import TemperatureEffect
from purrception.storage.report import Section
from purrception.utils.text import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPERATURES = (0.5, 0.7, 0.8, 0.9, 1.0, 1.15, 1.4)
SCHEDULES = ("linear:1.0:0.7", "linear:0.7:1.0", "cosine:1.0:0.7")
GUIDANCES, STEPS, CROSSED = (1.0, 1.5), (5, 16), (0.7, 0.9, 1.0)
LARGEST_STEPS, LARGEST_SAMPLES, FAILURES = 16, 200, 10
"""Limits, because this part samples about forty times."""


@dataclass(frozen=True)
class Trial:
    """One temperature or schedule: quality of its samples, and what changed against τ = 1."""

    temperature: str
    quality: SampleMetrics
    effect: TemperatureEffect
    failures: np.ndarray
    """Samples that are not recognised as their class, uint8 ``[n, H, W, C]``."""


def temperature_section(run: LoadedRun) -> Section:
    """Metrics by temperature and class, at equal network evaluations and from the same noise."""
    settings, num = run.config.evaluation, min(run.num, LARGEST_SAMPLES)
    evaluator = SampleEvaluator(
        run.config.data, run.tokenizer, run.classes, num, settings.classifier, settings.features, run.seed
    )
    single, _, fitted = fitted_temperatures(run)
    steps = min(run.settings.num_inference_steps, LARGEST_STEPS)
    base = replace(run.settings, num_inference_steps=steps, guidance_scale=1.0)
    temperatures = [*(f"{tau:g}" for tau in TEMPERATURES), f"{single:.2f}", *SCHEDULES, fitted]
    plain = run.sample(num, replace(base, temperature="1"))
    trials = [_try(run, evaluator, replace(base, temperature=tau), plain) for tau in dict.fromkeys(temperatures)]
    crossed = []
    for guidance, steps, tau in product(GUIDANCES, STEPS, CROSSED):
        tried = replace(base, temperature=f"{tau:g}", guidance_scale=guidance, num_inference_steps=steps)
        quality = evaluator.measure(run.network, run.objective, tried)
        crossed.append({"temperature": tau, "guidance": guidance, "steps": steps, **quality})
    constant = [one for one in trials if one.temperature in {f"{tau:g}" for tau in TEMPERATURES}]
    best = min(trials, key=lambda one: one.quality["frechet"])
    names = run.pipeline.class_names
    changes = constant[0].effect.changed_by_class
    moved = changes.nan_to_num().argsort(descending=True)[:3].tolist()
    return Section(
        "Temperature",
        [
            f"{num} samples per row from the same noise, {base.solver}, {base.num_inference_steps} steps, no "
            f"guidance; Fréchet distance in {evaluator.features} features (real training images: "
            f"{evaluator.floor:.2f}); accuracy of the classifier on real test images {evaluator.accuracy:.1%}. "
            "Changed: tokens that differ from those at τ = 1.",
            table(
                ["τ", "Fréchet", "precision", "recall", "recognised", "entropy, nats", "changed"],
                [
                    [
                        _short(one, fitted),
                        one.quality["frechet"],
                        one.quality["precision"],
                        one.quality["recall"],
                        f"{one.quality['recognised']:.1%}",
                        one.effect.entropy,
                        f"{float(one.effect.changed.mean()):.1%}",
                    ]
                    for one in trials
                ],
            ),
            f"Best by Fréchet distance: τ = {_short(best, fitted)}. The temperature with the best held-out "
            f"likelihood is {single:.2f}, which is "
            f"{'the same' if best.temperature == f'{single:.2f}' else 'different'}. Differences smaller than the "
            "variation over noises (tenths at these numbers of samples) are not significant.",
            f"Classes changed most by τ = {TEMPERATURES[0]:g}: "
            + comma_separated([f"{names[c]} ({float(changes[c]):.0%} of tokens)" for c in moved])
            + ".",
            "With guidance and steps (Fréchet distance):",
            table(["guidance", "steps", "NFE", *(f"τ = {tau:g}" for tau in CROSSED)], _crossed_rows(crossed)),
        ],
        {
            "floor": evaluator.floor,
            "fitted": single,
            "fitted_schedule": fitted,
            "best": best.temperature,
            "rows": [{"temperature": one.temperature, **one.quality, **asdict(one.effect)} for one in trials],
            "crossed": crossed,
        },
        {"temperature.png": _draw(constant, evaluator.floor, names), "failures.png": _failures(constant)},
    )


def _short(one: Trial, fitted: str) -> str:
    return "fitted at each t" if one.temperature == fitted else one.temperature


def _try(run: LoadedRun, evaluator: SampleEvaluator, settings: SamplingConfig, plain: Generation) -> Trial:
    made = run.sample(len(plain.indices), settings)
    labels = run.labels(len(plain.indices)).cpu()
    images = run.tokenizer.decode_images(made.indices)
    predicted = torch.cat(
        [evaluator.classifier(part).argmax(1) for part in images_to_tensor(list(images)).split(256)]
    )
    return Trial(
        str(settings.temperature),
        evaluator.measure_samples(made),
        TemperatureEffect.of(made, plain, labels, predicted, run.classes),
        images[(predicted != labels).numpy()][:FAILURES],
    )


def _crossed_rows(crossed: list[dict[str, Any]]) -> list[list[object]]:
    """A row of Fréchet distances for each guidance scale and number of steps."""
    rows = []
    for guidance, steps in product(GUIDANCES, STEPS):
        own = [one for one in crossed if (one["guidance"], one["steps"]) == (guidance, steps)]
        rows.append([f"{guidance:g}", steps, own[0]["nfe"], *(one["frechet"] for one in own)])
    return rows


def _draw(constant: list[Trial], floor: float, names: list[str]) -> Figure:
    """Quality over τ; classes × τ; where in the image tokens change."""
    figure, (quality, trade, classes, low, high) = panels(5, width=3.3)
    tau = [float(one.temperature) for one in constant]
    quality.plot(tau, [one.quality["frechet"] for one in constant], marker="o", ms=4)
    quality.axhline(floor, color="grey", linestyle=":", label="real training images")
    quality.set(xlabel="τ", title="Fréchet distance", ylim=(0, None))
    quality.legend(fontsize=7)
    for name in ("precision", "recall", "recognised"):
        values = [dict[str, Any](one.quality)[name] for one in constant]
        trade.plot(tau, values, marker="o", ms=3, label=name)
    trade.set(xlabel="τ", title="quality and diversity", ylim=(None, 1.01))
    trade.legend(fontsize=7)
    shares = np.array([one.effect.recognised.numpy() for one in constant]).T
    drawn = classes.imshow(shares, aspect="auto", vmin=np.nanmin(shares), vmax=1, cmap="viridis")
    classes.set_xticks(range(len(tau)), [f"{value:g}" for value in tau], fontsize=7)
    if len(names) <= 12:
        classes.set_yticks(range(len(names)), names, fontsize=7)
    classes.set(xlabel="τ", title="recognised, by class")
    classes.grid(visible=False)
    figure.colorbar(drawn, ax=classes)
    ends = [constant[0], constant[-1]]
    largest = max(float(one.effect.changed.max()) for one in ends)
    for panel, one in zip((low, high), ends, strict=True):
        drawn = show_map(panel, one.effect.changed, largest, title=f"tokens changed at τ = {one.temperature}")
    figure.colorbar(drawn, ax=high)
    return figure


def _failures(constant: list[Trial]) -> Figure:
    """Samples that are not recognised, at the extremes and between."""
    figure, made = panels(FAILURES, len(constant), width=0.9, height=0.95)
    for row, one in enumerate(constant):
        line = made[row * FAILURES : (row + 1) * FAILURES]
        for panel, image in zip(line, one.failures, strict=False):
            show_image(panel, image)
        for panel in line[len(one.failures) :]:
            hide_axes(panel)
        line[0].set_ylabel(f"τ = {one.temperature}", fontsize=8)
    return figure
