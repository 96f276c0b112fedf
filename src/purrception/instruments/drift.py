"""Drift of the logits: a constant added to all of them does not change the softmax, so that training may move
it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from purrception.flow import Objective, TrainingBatch
from purrception.models import CategoricalHead, PurrceptionTransformer


@dataclass(frozen=True)
class DriftInTraining:
    """logsumexp of the network's own logits during training."""

    steps: tuple[int, ...]
    logsumexp: tuple[float, ...]
    z_loss: tuple[float, ...]
    """λ_z logsumexp², as it entered the loss."""
    cross_entropy: tuple[float, ...]
    """Nats."""

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> DriftInTraining:
        """From the lines of ``metrics.jsonl``; empty for an objective without logits."""
        names = ("step", "logsumexp", "z_loss", "cross_entropy")
        kept = [[line[name] for name in names] for line in lines if all(name in line for name in names)]
        steps, *columns = zip(*kept, strict=True) if kept else ((), (), (), ())
        return cls(steps, *columns)

    def has_converged(self) -> bool:
        """Whether the mean logsumexp of the last fifth differs by at most 5 % from that of the fifth before."""
        values = self.logsumexp
        fifth = max(1, len(values) // 5)
        last, before = fmean(values[-fifth:]), fmean(values[-2 * fifth : -fifth] or values[:1])
        return abs(last - before) <= 0.05 * max(abs(before), 1.0)


@dataclass(frozen=True)
class DriftOverTime:
    """logsumexp of the network's own logits at one time, over sites."""

    t: float
    mean: float
    deviation: float
    largest: float
    """Largest |logsumexp|."""
    pull: float
    """Mean of 2 λ_z |logsumexp|: the gradient of the z-loss on the logits of a site, where that of the
    cross-entropy is at most 1."""


@torch.no_grad()
def drift_over_time(
    network: PurrceptionTransformer,
    objective: Objective,
    batch: TrainingBatch,
    times: Sequence[float],
    z_loss: float,
) -> tuple[DriftOverTime, ...]:
    """logsumexp of one batch at several times.

    Args:
        network: in evaluation mode, with a categorical head.
        objective: defines the state of a grid at t.
        batch: codes, labels and noise; its own times are not used.
        times: where to measure.
        z_loss: λ_z.
    """
    found = []
    for t in times:
        state = objective.state_at(network, batch.indices, batch.noise, t)
        features = network(state.z, torch.full_like(batch.time, t), batch.labels)
        assert isinstance(network.head, CategoricalHead)
        drift = network.head.nll(features, batch.indices).logsumexp.double()
        found.append(
            DriftOverTime(
                t,
                float(drift.mean()),
                float(drift.std()),
                float(drift.abs().max()),
                2 * z_loss * float(drift.abs().mean()),
            )
        )
    return tuple(found)
