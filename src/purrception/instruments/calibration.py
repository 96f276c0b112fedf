"""Does what is said with probability p come true with frequency p: reliability, and a temperature to mend it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 15
TEMPERATURES = tuple(np.geomspace(0.25, 6.0, 65).tolist())
"""Tried in fitting; the minimum is refined between them."""


@dataclass(frozen=True)
class SiteScores:
    """What a posterior said of sites whose code is known; each float64 ``[n]``."""

    confidence: Tensor
    """Probability of the most probable code."""
    correct: Tensor
    """1 where that code is the true one."""
    entropy: Tensor
    """Nats."""
    nll: Tensor
    """−ln π(c), nats."""
    brier: Tensor
    """Σ_k (π_k − 1[k = c])², 0 to 2."""

    @classmethod
    def of(cls, log_posterior: Tensor, targets: Tensor) -> SiteScores:
        """Of log-probabilities ``[…, K]`` and codes, long ``[…]``."""
        said, targets = log_posterior.flatten(0, -2).double(), targets.flatten()
        probabilities = said.exp()
        best = probabilities.max(-1)
        own = said.gather(-1, targets[:, None])[:, 0]
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
        names = ("confidence", "correct", "entropy", "nll", "brier")
        return cls(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in names))


@dataclass(frozen=True)
class Calibration:
    """How far what was said can be trusted."""

    sites: int
    accuracy: float
    """Share of sites whose most probable code is the true one."""
    confidence: float
    """Mean probability of that code; equal to the accuracy where it is neither bold nor timid."""
    error: float
    """Expected calibration error: |accuracy − confidence| over bins of equal width, weighted by their sites."""
    brier: float
    nll: float
    """Nats per site."""
    entropy: float
    """Mean, nats; equal to the nll of a calibrated posterior."""
    auroc: float
    """Probability that a wrong site has a larger entropy than a right one; ½ where there is only one kind."""
    bins: tuple[tuple[float, float, int], ...]
    """(mean confidence, accuracy, sites) of each bin that is not empty."""

    @classmethod
    def of(cls, scores: SiteScores) -> Calibration:
        """Summarise sites."""
        bins = reliability(scores.confidence, scores.correct)
        sites = len(scores.correct)
        means = {name: float(getattr(scores, name).mean()) for name in ("confidence", "brier", "nll", "entropy")}
        return cls(
            sites=sites,
            accuracy=float(scores.correct.mean()),
            error=sum(count * abs(said - true) for said, true, count in bins) / sites,
            auroc=auroc(scores.entropy, scores.correct == 0),
            bins=bins,
            **means,
        )


def reliability(confidence: Tensor, correct: Tensor, bins: int = BINS) -> tuple[tuple[float, float, int], ...]:
    """(mean confidence, accuracy, sites) of bins of equal width that hold sites (Guo et al., arXiv 1706.04599)."""
    place = (confidence * bins).long().clamp(0, bins - 1)
    counts = place.bincount(minlength=bins).double()
    sums = [place.bincount(values.double(), minlength=bins) for values in (confidence, correct)]
    return tuple(
        (float(said / count), float(true / count), int(count))
        for said, true, count in zip(*sums, counts, strict=True)
        if count > 0
    )


def auroc(scores: Tensor, positive: Tensor) -> float:
    """Area under the receiver operating characteristic: P(score of a positive > of a negative), ties counted half.

    ½ where one of the two kinds is missing.
    """
    positive = positive.bool()
    ones = int(positive.sum())
    if ones in (0, len(positive)):
        return 0.5
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = counts.double().cumsum(0) - (counts.double() - 1) / 2  # mean rank of each value, from 1
    return float((ranks[place][positive].sum() - ones * (ones + 1) / 2) / (ones * (len(positive) - ones)))


def temperature_losses(
    log_posterior: Tensor, targets: Tensor, temperatures: Sequence[float] = TEMPERATURES
) -> Tensor:
    """Summed −ln π^(1/τ)(c) under each temperature, float64 ``[len(temperatures)]``; add parts, then fit.

    Args:
        log_posterior: ``[…, K]``.
        targets: codes, long ``[…]``.
        temperatures: τ tried.
    """
    said, targets = log_posterior.flatten(0, -2), targets.flatten()[:, None]
    losses = []
    for temperature in temperatures:
        scaled = said / temperature
        losses.append((scaled.logsumexp(-1) - scaled.gather(-1, targets)[:, 0]).double().sum())
    return torch.stack(losses).cpu()


def fit_temperature(losses: Tensor, temperatures: Sequence[float] = TEMPERATURES) -> float:
    """The τ of the smallest loss, between the tried ones by a parabola in ln τ.

    The loss is convex in 1/τ, so that there is one minimum; at an end of the range, that end is returned.
    """
    best = int(losses.argmin())
    if best in (0, len(temperatures) - 1):
        return float(temperatures[best])
    below, least, above = losses[best - 1 : best + 2].tolist()
    step = math.log(temperatures[best + 1] / temperatures[best])
    curvature = below - 2 * least + above
    return float(temperatures[best] * math.exp(0.5 * step * (below - above) / max(curvature, 1e-300)))
