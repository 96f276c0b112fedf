"""Part 2: does the posterior come true on images that were not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from purrception.diagnose.subject import Subject
from purrception.evaluation.metrics.statistics import halves
from purrception.instruments.calibration import (
    Calibration,
    SiteScores,
    fit_temperature,
    temperature_losses,
)
from purrception.instruments.posteriors import images_at_once, network_posterior
from purrception.storage.report import Section
from purrception.utils.keyed_rng import Stream
from purrception.utils.markdown import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
TemperatureAt = Callable[[float], float]


def fitted_temperatures(subject: Subject) -> tuple[float, dict[float, float]]:
    """(one τ for all times, τ by t) that one half of the held-out images wants."""
    losses = {t: torch.stack(_losses(subject, t)).sum(0) for t in TIMES}
    return fit_temperature(torch.stack(list(losses.values())).sum(0)), {
        t: fit_temperature(loss) for t, loss in losses.items()
    }


def calibration_section(subject: Subject) -> Section:
    """Before, and after a temperature that was fitted on one half of the images and tested on the other."""
    single, by_time = fitted_temperatures(subject)
    cases: dict[str, TemperatureAt] = {
        "as trained": lambda t: 1.0,
        f"one τ, {single:.2f}": lambda t: single,
        "a τ for each t": lambda t: by_time[t],
    }
    scores = {name: {t: _scores(subject, t, tau(t)) for t in TIMES} for name, tau in cases.items()}
    overall = {name: Calibration.of(SiteScores.join(list(parts.values()))) for name, parts in scores.items()}
    by_t = {name: {t: Calibration.of(part) for t, part in parts.items()} for name, parts in scores.items()}
    header = ["posterior", "ECE", "accuracy", "confidence", "Brier", "NLL, nats", "entropy, nats", "AUROC"]
    names = ("error", "accuracy", "confidence", "brier", "nll", "entropy", "auroc")
    rows = [[name, *(getattr(found, one) for one in names)] for name, found in overall.items()]
    first, last = by_t["as trained"], by_t["a τ for each t"]
    each = [
        [
            f"{t:.2f}",
            first[t].error,
            first[t].accuracy,
            first[t].confidence,
            first[t].auroc,
            by_time[t],
            last[t].error,
        ]
        for t in TIMES
    ]
    schedule = "piecewise:" + ",".join(f"{t:g}={tau:.2f}" for t, tau in by_time.items())
    held_out = subject.held_out
    assert held_out is not None
    return Section(
        "Calibration on held-out images",
        [
            f"Tokens of {min(len(held_out), 2 * subject.num)} held-out images at {len(TIMES)} times each. The "
            "temperatures are fitted on a half of them, drawn by a key, and all figures are of the other. ECE: "
            "expected calibration error, 15 bins; AUROC: how well a large entropy foretells a wrong most probable "
            "code (½: not at all).",
            table(header, rows),
            table(["t", "ECE as trained", "accuracy", "confidence", "AUROC", "τ fitted", "ECE with it"], each),
            f"As a schedule for `sample --temperature`: `{schedule}`. What mends the probabilities need not "
            "sample best: the part on temperature tries both.",
        ],
        {
            "temperature": single,
            "temperature_by_t": {f"{t:g}": tau for t, tau in by_time.items()},
            "schedule": schedule,
            "overall": {name: asdict(found) for name, found in overall.items()},
            "by_t": {
                name: {f"{t:g}": asdict(found) for t, found in parts.items()} for name, parts in by_t.items()
            },
        },
        {"calibration.png": _draw(overall, by_t, scores["as trained"])},
    )


def _parts(subject: Subject, t: float, half: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(ln π, codes) of the open sites of a half of the held-out images, a few images at a time."""
    assert subject.held_out is not None
    indices, labels = subject.rows(subject.held_out, 2 * subject.num)
    noise = subject.noise(len(indices), Stream.VALIDATION)
    chosen = halves(len(indices), seed=subject.seed)[half].to(indices.device)
    for rows in chosen.split(images_at_once(subject.network)):
        state = subject.objective.state_at(subject.network, indices[rows], noise[rows], t)
        said = network_posterior(subject.network, labels[rows])(state.z, t)
        yield said[state.open], indices[rows][state.open]


def _losses(subject: Subject, t: float) -> list[Tensor]:
    return [temperature_losses(said, codes) for said, codes in _parts(subject, t, half=0)]


def _scores(subject: Subject, t: float, temperature: float) -> SiteScores:
    return SiteScores.join(
        [SiteScores.of((said / temperature).log_softmax(-1), codes) for said, codes in _parts(subject, t, half=1)]
    )


def _draw(
    overall: dict[str, Calibration], by_t: dict[str, dict[float, Calibration]], scores: dict[float, SiteScores]
) -> Figure:
    figure, (curve, error, loss, kinds) = panels(4, width=3.7)
    curve.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    for name, found in overall.items():
        said, true, counts = zip(*found.bins, strict=True)
        sizes = [8 + 90 * count / max(counts) for count in counts]
        curve.scatter(said, true, s=sizes, alpha=0.6)
        curve.plot(said, true, linewidth=1, label=f"{name}: ECE {found.error:.3f}")
        error.plot(list(by_t[name]), [one.error for one in by_t[name].values()], marker="o", ms=3, label=name)
        loss.plot(list(by_t[name]), [one.nll for one in by_t[name].values()], marker="o", ms=3)
    loss.plot(
        list(by_t["as trained"]),
        [one.entropy for one in by_t["as trained"].values()],
        color="grey",
        linestyle="--",
        label="entropy, as trained",
    )
    curve.set(xlabel="probability given", ylabel="share that is right", title="reliability")
    error.set(xlabel="t", title="expected calibration error", ylim=(0, None))
    loss.set(xlabel="t", title="negative log-likelihood, nats", ylim=(0, None))
    every = SiteScores.join(list(scores.values()))
    for wanted, title in ((1, "right"), (0, "wrong")):
        own = every.entropy[every.correct == wanted].numpy()
        kinds.hist(own, bins=40, range=(0, float(every.entropy.max())), alpha=0.6, density=True, label=title)
    found = overall["as trained"]
    kinds.set(xlabel="entropy, nats", title=f"entropy of right and wrong (AUROC {found.auroc:.2f})")
    for panel in (curve, loss, kinds):
        panel.legend(fontsize=7)
    return figure
