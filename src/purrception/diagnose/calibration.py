"""Part 2: calibration of the posterior on held-out images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from purrception.diagnose.loaded_run import LoadedRun
from purrception.evaluation.metrics.statistics import halves
from purrception.instruments.calibration import Calibration, SiteScores, fit_temperature, temperature_losses
from purrception.instruments.posteriors import images_at_once, network_posterior
from purrception.storage.report import Section
from purrception.utils.keyed_rng import Stream
from purrception.utils.text import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
COLUMNS = {
    "error": "ECE",
    "accuracy": "accuracy",
    "confidence": "confidence",
    "brier": "Brier",
    "nll": "NLL, nats",
    "entropy": "entropy, nats",
    "auroc": "AUROC",
}
"""What the table shows of a :class:`Calibration`, and the titles of its columns."""


def fitted_temperatures(run: LoadedRun) -> tuple[float, dict[float, float], str]:
    """(one τ for all times, τ by t, the same as a schedule), fitted on one half of the held-out images."""
    losses = {t: torch.stack([temperature_losses(*part) for part in _parts(run, t, half=0)]).sum(0) for t in TIMES}
    by_time = {t: fit_temperature(loss) for t, loss in losses.items()}
    schedule = "piecewise:" + ",".join(f"{t:g}={tau:.2f}" for t, tau in by_time.items())
    return fit_temperature(torch.stack(list(losses.values())).sum(0)), by_time, schedule


def calibration_section(run: LoadedRun) -> Section:
    """As trained, and with temperatures fitted on one half of the images and tested on the other."""
    single, by_time, schedule = fitted_temperatures(run)
    cases = {
        "as trained": dict.fromkeys(TIMES, 1.0),
        f"one τ, {single:.2f}": dict.fromkeys(TIMES, single),
        "a τ for each t": by_time,
    }
    scores = {name: {t: _scores(run, t, tau) for t, tau in taus.items()} for name, taus in cases.items()}
    overall = {name: Calibration.of(SiteScores.join(list(parts.values()))) for name, parts in scores.items()}
    by_t = {name: {t: Calibration.of(part) for t, part in parts.items()} for name, parts in scores.items()}
    rows = [[name, *(getattr(found, column) for column in COLUMNS)] for name, found in overall.items()]
    first, last = by_t["as trained"], by_t["a τ for each t"]
    each = [
        [f"{t:.2f}", one.error, one.accuracy, one.confidence, one.auroc, by_time[t], last[t].error]
        for t, one in first.items()
    ]
    held_out = run.held_out
    assert held_out is not None
    return Section(
        "Calibration on held-out images",
        [
            f"Tokens of {min(len(held_out), 2 * run.num)} held-out images at {len(TIMES)} times each. "
            "Temperatures are fitted on one random half of the images, and all metrics are measured on the other. "
            "ECE: expected calibration error, 15 bins; AUROC: how well a large entropy predicts that the most "
            "probable code is wrong (½: not at all).",
            table(["posterior", *COLUMNS.values()], rows),
            table(["t", "ECE as trained", "accuracy", "confidence", "AUROC", "τ fitted", "ECE with it"], each),
            f"As a schedule for `sample --temperature`: `{schedule}`. The best calibrated temperature need not "
            "give the best samples; the part on temperature compares them.",
        ],
        {
            "temperature": single,
            "temperature_by_t": by_time,
            "schedule": schedule,
            "overall": overall,
            "by_t": by_t,
        },
        {"calibration.png": _draw(overall, by_t, scores["as trained"])},
    )


def _parts(run: LoadedRun, t: float, half: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(ln π, codes) of the open sites of one half of the held-out images, a few images at a time."""
    assert run.held_out is not None
    indices, labels = run.rows(run.held_out, 2 * run.num)
    noise = run.noise(len(indices), Stream.VALIDATION)
    numbers = halves(len(indices), seed=run.seed)[half].to(indices.device)
    for rows in numbers.split(images_at_once(run.network)):
        state = run.objective.state_at(run.network, indices[rows], noise[rows], t)
        log_posterior = network_posterior(run.network, labels[rows])(state.z, t)
        yield log_posterior[state.open], indices[rows][state.open]


def _scores(run: LoadedRun, t: float, temperature: float) -> SiteScores:
    return SiteScores.join(
        [
            SiteScores.of((log_posterior / temperature).log_softmax(-1), codes)
            for log_posterior, codes in _parts(run, t, half=1)
        ]
    )


def _draw(
    overall: dict[str, Calibration], by_t: dict[str, dict[float, Calibration]], scores: dict[float, SiteScores]
) -> Figure:
    figure, (curve, error, loss, kinds) = panels(4, width=3.7)
    curve.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    for name, found in overall.items():
        confidence, accuracy, counts = zip(*found.bins, strict=True)
        sizes = [8 + 90 * count / max(counts) for count in counts]
        curve.scatter(confidence, accuracy, s=sizes, alpha=0.6)
        curve.plot(confidence, accuracy, linewidth=1, label=f"{name}: ECE {found.error:.3f}")
        error.plot(TIMES, [one.error for one in by_t[name].values()], marker="o", ms=3, label=name)
        loss.plot(TIMES, [one.nll for one in by_t[name].values()], marker="o", ms=3)
    entropies = [one.entropy for one in by_t["as trained"].values()]
    loss.plot(TIMES, entropies, color="grey", linestyle="--", label="entropy, as trained")
    curve.set(xlabel="confidence", ylabel="accuracy", title="reliability")
    error.set(xlabel="t", title="expected calibration error", ylim=(0, None))
    loss.set(xlabel="t", title="negative log-likelihood, nats", ylim=(0, None))
    every = SiteScores.join(list(scores.values()))
    for correct, title in ((1, "right"), (0, "wrong")):
        own = every.entropy[every.correct == correct].numpy()
        kinds.hist(own, bins=40, range=(0, float(every.entropy.max())), alpha=0.6, density=True, label=title)
    found = overall["as trained"]
    kinds.set(xlabel="entropy, nats", title=f"entropy where right and wrong (AUROC {found.auroc:.2f})")
    for panel in (curve, loss, kinds):
        panel.legend(fontsize=7)
    return figure
