"""Calibration: whether predictions of probability p are right with frequency p, and a temperature to correct
it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

BINS = 15
TEMPERATURES = tuple(np.geomspace(0.25, 6.0, 65).tolist())
"""Temperatures tried in fitting; the minimum is interpolated between them."""


@dataclass(frozen=True)
class SiteScores:
    """Scores of a posterior at sites whose code is known; each float64 ``[n]``."""

    confidence: Tensor
    """Probability of the most probable code."""
    correct: Tensor
    """1 if that code is the true one, else 0."""
    entropy: Tensor
    """Nats."""
    nll: Tensor
    """−ln π(c), nats."""
    brier: Tensor
    """Σ_k (π_k − 1[k = c])², 0 to 2."""

    @classmethod
    def of(cls, log_posterior: Tensor, targets: Tensor) -> SiteScores:
        """From log-probabilities ``[…, K]`` and codes, long ``[…]``."""
        log_posterior, targets = log_posterior.flatten(0, -2).double(), targets.flatten()
        probabilities = log_posterior.exp()
        best = probabilities.max(-1)
        own = log_posterior.gather(-1, targets[:, None])[:, 0]
        return cls(
            confidence=best.values,
            correct=(best.indices == targets).double(),
            entropy=torch.special.entr(probabilities).sum(-1),
            nll=-own,
            brier=probabilities.square().sum(-1) - 2 * own.exp() + 1,
        )

    @classmethod
    def join(cls, parts: Sequence[SiteScores]) -> SiteScores:
        """All sites of several parts."""
        return cls(*(torch.cat([getattr(part, each.name) for part in parts]).cpu() for each in fields(cls)))


@dataclass(frozen=True)
class Calibration:
    """How well the confidence of a posterior matches its accuracy."""

    sites: int
    accuracy: float
    """Share of sites whose most probable code is the true one."""
    confidence: float
    """Mean probability of that code; equal to the accuracy if the posterior is neither over- nor
    underconfident."""
    error: float
    """Expected calibration error: mean |accuracy − confidence| over bins of equal width, weighted by their
    sites."""
    brier: float
    nll: float
    """Nats per site."""
    entropy: float
    """Mean entropy, nats; equal to the nll if the posterior is calibrated."""
    auroc: float
    """Probability that a wrong site has a larger entropy than a right one; ½ if there is only one kind."""
    bins: tuple[tuple[float, float, int], ...]
    """(mean confidence, accuracy, sites) of each bin that is not empty."""

    @classmethod
    def of(cls, scores: SiteScores) -> Calibration:
        """Summarise the scores of sites."""
        bins = reliability(scores.confidence, scores.correct)
        sites = len(scores.correct)
        means = {name: float(getattr(scores, name).mean()) for name in ("confidence", "brier", "nll", "entropy")}
        return cls(
            sites=sites,
            accuracy=float(scores.correct.mean()),
            error=sum(count * abs(confidence - accuracy) for confidence, accuracy, count in bins) / sites,
            auroc=auroc(scores.entropy, scores.correct == 0),
            bins=bins,
            **means,
        )


def reliability(confidence: Tensor, correct: Tensor) -> tuple[tuple[float, float, int], ...]:
    """(mean confidence, accuracy, sites) of the non-empty bins of equal width (Guo et al., arXiv 1706.04599)."""
    place = (confidence * BINS).long().clamp(0, BINS - 1)
    counts = place.bincount(minlength=BINS).double()
    sums = [place.bincount(values.double(), minlength=BINS) for values in (confidence, correct)]
    return tuple(
        (float(confidences / count), float(corrects / count), int(count))
        for confidences, corrects, count in zip(*sums, counts, strict=True)
        if count > 0
    )


def auroc(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve: P(score of a positive > of a negative), ties counted half; ½ if one kind is
    missing."""
    positive = positive.bool()
    ones = int(positive.sum())
    if ones in (0, len(positive)):
        return 0.5
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = counts.double().cumsum(0) - (counts.double() - 1) / 2  # mean rank of each value, from 1
    return float((ranks[place][positive].sum() - ones * (ones + 1) / 2) / (ones * (len(positive) - ones)))


def temperature_losses(log_posterior: Tensor, targets: Tensor) -> Tensor:
    """Sum of −ln π^(1/τ)(c) for each of ``TEMPERATURES``, float64; add those of parts, then fit.

    Args:
        log_posterior: ``[…, K]``.
        targets: codes, long ``[…]``.
    """
    log_posterior, targets = log_posterior.flatten(0, -2), targets.flatten()[:, None]
    losses = []
    for temperature in TEMPERATURES:
        scaled = log_posterior / temperature
        losses.append((scaled.logsumexp(-1) - scaled.gather(-1, targets)[:, 0]).double().sum())
    return torch.stack(losses).cpu()


def fit_temperature(losses: Tensor) -> float:
    """The τ of the smallest loss, interpolated by a parabola in ln τ.

    The loss is convex in 1/τ and has one minimum; if that lies at an end of the range, the end is returned.
    """
    best = int(losses.argmin())
    if best in (0, len(TEMPERATURES) - 1):
        return TEMPERATURES[best]
    below, least, above = losses[best - 1 : best + 2].tolist()
    step = math.log(TEMPERATURES[best + 1] / TEMPERATURES[best])
    curvature = below - 2 * least + above
    return float(TEMPERATURES[best] * math.exp(0.5 * step * (below - above) / max(curvature, 1e-300)))
