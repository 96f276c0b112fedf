"""Part 4: drift of the logits, over training and over t."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from purrception.diagnose.loaded_run import LoadedRun
from purrception.diagnose.plotting import evenly_spaced
from purrception.flow import TrainingBatch
from purrception.instruments.drift import DriftInTraining, DriftOverTime, drift_over_time
from purrception.instruments.posteriors import images_at_once
from purrception.storage import read_json_lines
from purrception.storage.report import Section
from purrception.utils.keyed_rng import Stream
from purrception.utils.text import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


def drift_section(run: LoadedRun) -> Section:
    """logsumexp from the metrics file and from the model, and the pull of the z-loss."""
    history = DriftInTraining.of(read_json_lines(run.directory.metrics_file))
    tokens = run.held_out or run.train
    count = min(len(tokens), run.num, images_at_once(run.network))
    indices, labels = run.rows(tokens, count)
    noise = run.noise(count, Stream.VALIDATION)
    batch = TrainingBatch(indices, labels, noise, torch.zeros(count, device=indices.device))
    weight = run.config.objective.z_loss
    found = drift_over_time(run.network, run.objective, batch, TIMES, weight)
    rows = [[f"{one.t:.2f}", one.mean, one.deviation, one.largest, one.pull] for one in found]
    text = [
        "A constant added to all logits of a site does not change the softmax, but it changes logsumexp, which "
        f"the z-loss λ logsumexp² (here λ = {weight:g}) keeps small. Measured on {count} "
        f"{'held-out' if run.held_out else 'training'} images, on the network's own logits, without evidence.",
        table(["t", "mean", "standard deviation", "largest", "pull of the z-loss, 2 λ"], rows),
        _describe_training(history, weight),
    ]
    data = {"z_loss": weight, "over_t": found, "over_training": history}
    return Section("Logit drift", text, data, {"drift.png": _draw(history, found)})


def _describe_training(history: DriftInTraining, weight: float) -> str:
    """The drift in the metrics file, in a sentence or two."""
    if len(history.steps) < 2:
        return "The metrics file holds no logsumexp yet."
    tenth = max(1, len(history.steps) // 10)
    early, late = fmean(history.logsumexp[:tenth]), fmean(history.logsumexp[-tenth:])
    share = fmean(history.z_loss[-tenth:]) / max(fmean(history.cross_entropy[-tenth:]), 1e-12)
    trend = "it has converged" if history.has_converged() else "it has not converged"
    pull = (
        "there is no z-loss to hold it"
        if weight == 0
        else f"the z-loss is {share:.2%} of the cross-entropy at the end"
    )
    return (
        f"Over training, logsumexp is {early:.2f} in the first tenth of the metrics and {late:.2f} in the last, "
        f"at most {max(map(abs, history.logsumexp)):.2f}; {trend}, and {pull}."
    )


def _draw(history: DriftInTraining, found: Sequence[DriftOverTime]) -> Figure:
    figure, (training, parts, times) = panels(3)
    kept = evenly_spaced(len(history.steps), 400)
    steps = [history.steps[n] for n in kept]
    training.plot(steps, [history.logsumexp[n] for n in kept])
    training.set(xlabel="training step", ylabel="logsumexp, mean of a batch", title="over training")
    parts.plot(steps, [history.cross_entropy[n] for n in kept], label="cross-entropy")
    parts.plot(steps, [max(history.z_loss[n], 1e-9) for n in kept], label="z-loss")
    parts.set(xlabel="training step", yscale="log", title="terms of the loss")
    parts.legend(fontsize=8)
    t, mean, deviation = ([getattr(one, name) for one in found] for name in ("t", "mean", "deviation"))
    times.errorbar(t, mean, yerr=deviation, marker="o", ms=4, capsize=3)
    times.set(xlabel="t", ylabel="logsumexp, mean and deviation of sites", title="over t, after training")
    return figure
