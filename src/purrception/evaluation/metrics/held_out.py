"""What held-out codes alone say of a network, without sampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from purrception.evaluation.metrics.intervals import t_quantile
from purrception.evaluation.metrics.likelihood import likelihood_bound
from purrception.flow import GaussianObjective, Objective, TrainingBatch
from purrception.models import PurrceptionTransformer
from purrception.tokens import TokenDataset
from purrception.training.batches import to_device, training_twin, validation_batch

ROWS = 256
GAP_ROWS, PARTS = 1024, 16


@dataclass(frozen=True)
class HeldOutMetrics:
    """Metrics of a network on held-out codes."""

    bits_per_code: float
    """Upper bound on the negative log-likelihood."""
    bits_error: float
    """Standard error of that bound over images."""
    cross_entropy: float | None
    """Cross-entropy of the posterior, nats, over t as in training; none without a posterior. DFM's is of masked
    sites."""
    mean_error: float | None
    """E|z_1 − μ(z_t)|² per latent number, over t; none off the Gaussian path."""


@torch.no_grad()
def held_out_metrics(
    network: PurrceptionTransformer, objective: Objective, held_out: TokenDataset, seed: int = 0
) -> HeldOutMetrics:
    """Likelihood bound, cross-entropy and error of the mean on at most 256 held-out rows, drawn by a key."""
    bound = likelihood_bound(network, objective, held_out, ROWS, seed)
    count = min(ROWS, len(held_out))
    batch = to_device(validation_batch(held_out, seed, 0, count, count), network.device)
    cross_entropy = objective.loss(network, batch).figures.get("cross_entropy")
    return HeldOutMetrics(
        bits_per_code=bound.bits_per_code,
        bits_error=bound.standard_error,
        cross_entropy=None if cross_entropy is None else float(cross_entropy),
        mean_error=_mean_error(network, objective, batch),
    )


@dataclass(frozen=True)
class GeneralisationGap:
    """The loss on training images beside that on as many held-out ones, under the same noise and times."""

    count: int
    """Images of each."""
    training: float
    """Mean loss on training images: the cross-entropy in nats, or without a posterior the square error."""
    held_out: float
    """The same on held-out images."""
    gap: float
    """What the held-out loss is higher by: near 0 unless training images are learned by heart."""
    gap_low: float
    """Lower end of its interval of 95 %."""
    gap_high: float
    """Upper end of that interval."""


@torch.no_grad()
def generalisation_gap(
    network: PurrceptionTransformer,
    objective: Objective,
    train: TokenDataset | None,
    held_out: TokenDataset | None,
    seed: int = 0,
) -> GeneralisationGap | None:
    """The gap between training and held-out loss, on at most 1024 rows of each, drawn by a key.

    Its interval rests on the differences of :data:`PARTS` parts, each of which covers all times.

    Returns:
        None where one of the two is missing, or there are too few images for that.
    """
    if train is None or held_out is None:
        return None
    count = min(GAP_ROWS, len(train), len(held_out))
    if count < 2 * PARTS:
        return None
    losses = []
    for part in np.array_split(np.arange(count), PARTS):
        start = int(part[0])
        batch = validation_batch(held_out, seed, start, len(part), count)
        pair = (training_twin(batch, train, start, count), batch)
        losses.append([_loss(network, objective, to_device(one, network.device)) for one in pair])
    training, fresh = torch.tensor(losses, dtype=torch.float64).unbind(dim=1)
    gaps = fresh - training
    gap, reach = float(gaps.mean()), t_quantile(PARTS - 1) * float(gaps.std()) / PARTS**0.5
    return GeneralisationGap(count, float(training.mean()), float(fresh.mean()), gap, gap - reach, gap + reach)


def _loss(network: PurrceptionTransformer, objective: Objective, batch: TrainingBatch) -> float:
    losses = objective.loss(network, batch)
    return float(losses.figures.get("cross_entropy", losses.total))


def _mean_error(network: PurrceptionTransformer, objective: Objective, batch: TrainingBatch) -> float | None:
    """Square error of the data prediction at t = 0.1, 0.3, …, 0.9, per latent number."""
    if not isinstance(objective, GaussianObjective):
        return None
    z_1 = network.embed(batch.indices)
    errors = []
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        z_t = objective.path.sample(z_1, batch.noise, torch.full_like(batch.time, t)).z_t
        mean = objective.predict(network, z_t, t, batch.labels).mean
        errors.append(float((z_1 - mean).square().mean()))
    return sum(errors) / len(errors)
