"""Where the logits have gone: a softmax does not see a constant added to all of them, and training may push it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from purrception.flow import Objective, TrainingBatch
from purrception.models import CategoricalHead, PurrceptionTransformer


@dataclass(frozen=True)
class DriftInTraining:
    """logsumexp of the network's own logits as training went on."""

    steps: tuple[int, ...]
    logsumexp: tuple[float, ...]
    z_loss: tuple[float, ...]
    """λ_z logsumexp², as it entered the loss."""
    cross_entropy: tuple[float, ...]
    """Nats, beside it."""

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> DriftInTraining:
        """From the lines of ``metrics.jsonl``; empty for an objective without logits."""
        names = ("step", "logsumexp", "z_loss", "cross_entropy")
        kept = [[line[name] for name in names] for line in lines if all(name in line for name in names)]
        steps, *columns = zip(*kept, strict=True) if kept else ((), (), (), ())
        return cls(steps, columns[0], columns[1], columns[2])


@dataclass(frozen=True)
class DriftOverTime:
    """logsumexp of the network's own logits at one t, over sites."""

    t: float
    mean: float
    deviation: float
    largest: float
    """Of |logsumexp|."""
    pull: float
    """Mean of 2 λ_z |logsumexp|: how strongly the z-loss pulls at the logits of a site, where the cross-entropy
    pulls with at most 1."""


@torch.no_grad()
def drift_over_time(
    network: PurrceptionTransformer,
    objective: Objective,
    batch: TrainingBatch,
    times: Sequence[float],
    z_loss: float,
) -> tuple[DriftOverTime, ...]:
    """logsumexp over t on one batch, whose own times are replaced.

    Args:
        network: in evaluation mode, with a categorical head.
        objective: says what the network sees of a grid at t.
        batch: codes, labels and noise.
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
