"""Part 4: where the logits have gone, over training and over t."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from purrception.diagnose.plotting import spread
from purrception.diagnose.subject import Subject
from purrception.flow import TrainingBatch
from purrception.instruments.drift import DriftInTraining, DriftOverTime, drift_over_time
from purrception.instruments.posteriors import images_at_once
from purrception.storage import read_json_lines
from purrception.storage.report import Section
from purrception.utils.keyed_rng import Stream
from purrception.utils.markdown import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


def drift_section(subject: Subject) -> Section:
    """logsumexp from the metrics file and from the model, and how hard the z-loss pulled."""
    history = DriftInTraining.of(read_json_lines(subject.run.metrics_file))
    tokens = subject.held_out or subject.train
    count = min(len(tokens), subject.num, images_at_once(subject.network))
    indices, labels = subject.rows(tokens, count)
    noise = subject.noise(count, Stream.VALIDATION)
    batch = TrainingBatch(indices, labels, noise, torch.zeros(count, device=indices.device))
    weight = subject.config.objective.z_loss
    found = drift_over_time(subject.network, subject.objective, batch, TIMES, weight)
    rows = [[f"{one.t:.2f}", one.mean, one.deviation, one.largest, one.pull] for one in found]
    text = [
        "A softmax does not see a constant added to all logits of a site; logsumexp does, and the z-loss λ "
        f"logsumexp² (here λ = {weight:g}) holds it. Measured on {count} "
        f"{'held-out' if subject.held_out else 'training'} images, the network's own logits, without "
        "evidence.",
        table(["t", "mean", "standard deviation", "largest", "pull of the z-loss, 2 λ"], rows),
        _story(history, weight),
    ]
    data = {"z_loss": weight, "over_t": found, "over_training": history}
    return Section("Logit drift", text, data, {"drift.png": _draw(history, found)})


def _story(history: DriftInTraining, weight: float) -> str:
    """What the metrics file tells of drift, in a sentence or two."""
    if len(history.steps) < 2:
        return "The metrics file holds no logsumexp yet."
    tenth = max(1, len(history.steps) // 10)
    early, late = fmean(history.logsumexp[:tenth]), fmean(history.logsumexp[-tenth:])
    share = fmean(history.z_loss[-tenth:]) / max(fmean(history.cross_entropy[-tenth:]), 1e-12)
    where = "logsumexp has not settled" if _still_moving(history.logsumexp) else "logsumexp has settled"
    pull = (
        "without a z-loss nothing holds it" if weight == 0 else f"the z-loss is {share:.2%} of the cross-entropy"
    )
    return (
        f"Over training: {early:.2f} in the first tenth of the metrics, {late:.2f} in the last, at most "
        f"{max(map(abs, history.logsumexp)):.2f}; {where}, and at the end {pull}."
    )


def _still_moving(values: Sequence[float]) -> bool:
    """Whether the last fifth differs from the fifth before by more than a twentieth."""
    fifth = max(1, len(values) // 5)
    last, before = fmean(values[-fifth:]), fmean(values[-2 * fifth : -fifth] or values[:1])
    return abs(last - before) > 0.05 * max(abs(before), 1.0)


def _draw(history: DriftInTraining, found: Sequence[DriftOverTime]) -> Figure:
    figure, (training, parts, times) = panels(3)
    kept = spread(len(history.steps), 400) if history.steps else []
    steps = [history.steps[n] for n in kept]
    training.plot(steps, [history.logsumexp[n] for n in kept])
    training.set(xlabel="training step", ylabel="logsumexp, mean of a batch", title="over training")
    parts.plot(steps, [history.cross_entropy[n] for n in kept], label="cross-entropy")
    parts.plot(steps, [max(history.z_loss[n], 1e-9) for n in kept], label="z-loss")
    parts.set(xlabel="training step", yscale="log", title="what each adds to the loss")
    parts.legend(fontsize=8)
    t, mean, deviation = ([getattr(one, name) for one in found] for name in ("t", "mean", "deviation"))
    times.errorbar(t, mean, yerr=deviation, marker="o", ms=4, capsize=3)
    times.set(xlabel="t", ylabel="logsumexp, mean and deviation of sites", title="over t, at the end")
    return figure
