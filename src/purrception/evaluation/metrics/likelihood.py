"""A bound on the negative log-likelihood in bits per code, comparable between all objectives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.evaluation.metrics.statistics import halves
from purrception.flow import Objective
from purrception.generation.sampler import KeyedDraws
from purrception.models import PurrceptionTransformer
from purrception.tokens import TokenDataset
from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream


@dataclass(frozen=True)
class LikelihoodBound:
    """An upper bound on −log₂ p(codes | label), per code."""

    bits_per_code: float
    """Mean over images."""
    standard_error: float
    """Standard error of that mean over images."""


@torch.no_grad()
def likelihood_bound(
    network: PurrceptionTransformer,
    objective: Objective,
    dataset: TokenDataset,
    images: int = 256,
    seed: int = 0,
    batch_size: int = 64,
) -> LikelihoodBound:
    """The tightest of the objective's bounds on held-out codes.

    Every bound that an objective gives is valid on its own, but the smallest of several means is below its
    expectation. So the images are dealt to two halves, and each half is reported under the bound whose mean is
    smallest on the other.

    Args:
        network: in evaluation mode.
        objective: the one that it was trained with.
        dataset: held-out token shards.
        images: how many of their rows are used, drawn by a key.
        seed: of the noise; that of row i depends on (seed, i) alone.
        batch_size: rows at a time.

    Raises:
        InputError: fewer than two images.
    """
    count = min(images, len(dataset))
    if count < 2:
        raise InputError(f"a likelihood bound needs at least 2 held-out images; given {count}")
    parts = []
    drawn = spread_rows(len(dataset), count)
    for start in range(0, count, batch_size):
        rows = drawn[start : start + batch_size]
        indices, labels = (torch.from_numpy(part).to(network.device) for part in dataset.rows(rows))
        draws = KeyedDraws(seed, rows.tolist(), network, Stream.VALIDATION)
        parts.append(objective.nll_bounds(network, indices, labels, draws).cpu())
    bounds = torch.cat(parts, dim=1) / (math.prod(network.grid) * math.log(2))
    selected = cross_selected(bounds, seed)
    return LikelihoodBound(float(selected.mean()), float(selected.std() / count**0.5))


def cross_selected(bounds: Tensor, seed: int = 0) -> Tensor:
    """For each image the bound that is tightest on average over the half of the images that it is not in.

    Args:
        bounds: n bounds of B images, ``[n, B]``, each valid on its own; B is at least 2.
        seed: of the halves.

    Returns:
        ``[B]``; its mean is, in expectation, no smaller than that of the tightest bound.
    """
    one = torch.zeros(bounds.shape[1], dtype=torch.bool)
    one[halves(len(one), seed=seed)[0]] = True
    found = torch.empty_like(bounds[0])
    for half, other in ((one, ~one), (~one, one)):
        found[half] = bounds[bounds[:, other].mean(dim=1).argmin(), half]
    return found
