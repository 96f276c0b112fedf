"""Memorisation: whether generated images lie nearer to the training images than held-out images do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from purrception.evaluation.metrics.intervals import NORMAL_QUANTILE, percentiles
from purrception.tokens import TokenDataset
from purrception.utils import distributed
from purrception.utils.keyed_rng import Stream, keyed_rng

TAIL = 0.05
"""Share of the held-out images beside whose distances a generated image counts as copied."""
ROUNDS = 400
"""Rounds of the bootstrap, over single numbers."""
QUERIES, OTHERS = 256, 4096
"""Images, and those among which the nearest is searched, whose distances are computed together."""


@dataclass(frozen=True)
class Nearest:
    """The nearest of other images to each of n images."""

    distance: Tensor
    """float64 ``[n]``."""
    row: Tensor
    """Its number among the others, long ``[n]``; the first of several at one distance."""


@dataclass(frozen=True)
class Distances:
    """Distances of the generated images and of the held-out ones to the training images, and to each other."""

    samples: Nearest
    """The nearest of the training images to each of n generated images."""
    held_out: Tensor
    """Of each held-out image to the nearest of the training images, ``[m]``."""
    between: Nearest
    """The nearest of the held-out images to each generated image."""
    training: int
    """How many training images."""
    held_out_images: int
    """How many held-out images are those of :attr:`between`."""


@dataclass(frozen=True)
class Memorisation:
    """Whether generated images are nearer to the training images than images that were not trained on.

    Held-out images follow the law that a perfect model would, so their distances are those of a model that copies
    nothing. A model of safer images than the data's is near to all images, whether it was trained on them or not;
    :attr:`from_training` tells the two apart.
    """

    count: int
    """Generated images."""
    held_out: int
    """Held-out images."""
    training: int
    """Training images among which the nearest are searched."""
    copied: float
    """Share of the generated images as near to a training image as the nearest 5 % of the held-out images are;
    those at the last distance of the 5 % count in part."""
    copied_low: float
    """Lower end of its interval of 95 %, a bootstrap over generated and held-out images."""
    copied_high: float
    """Upper end of that interval."""
    nearer: float
    """Probability that a generated image is nearer to its training image than a held-out image to its own; ties
    count half. 0.5 without memorisation."""
    nearer_low: float
    """Lower end of its interval of 95 %."""
    nearer_high: float
    """Upper end of that interval."""
    c_t: float
    """Standard score of that probability under equal laws, as in the test of Meehan, Chaudhuri and Dasgupta (2020,
    arXiv 2004.05675), in one cell: below −3 copied, above 3 underfitted."""
    from_training: float
    """Share of the generated images whose nearest image, of training and held-out ones, is a training image."""
    from_training_low: float
    """Lower end of its interval of 95 %."""
    from_training_high: float
    """Upper end of that interval."""
    expected_from_training: float
    """The share of training images among both: that share without memorisation."""
    identical: int
    """Generated images at distance 0 from a training image."""
    held_out_identical: int
    """The same of the held-out images."""

    @property
    def verdict(self) -> str:
        """In words; empty where nothing is nearer than chance explains."""
        nearer, copied = self.copied_low > TAIL, self.from_training_low > self.expected_from_training
        if nearer and copied:
            return "training images are copied more than chance explains"
        if nearer:
            return (
                "nearer to training images than held-out images are, but to held-out ones as well: typical images "
                "rather than copies, which the pictures tell"
            )
        if copied:
            return "nearer to training images than to held-out ones, though no nearer than those are themselves"
        return ""


def memorisation(found: Distances, seed: int = 0) -> Memorisation:
    """What the distances say; ``seed`` is that of the bootstrap, which is keyed by it."""
    own, real = found.samples.distance.double().numpy(), np.sort(found.held_out.double().numpy())
    drawn = []
    for number in range(ROUNDS):
        rng = keyed_rng(seed, Stream.EVALUATION, number, part=6)
        drawn.append(_copied(*(rng.choice(of, len(of)) for of in (own, real))))
    low, high = percentiles(drawn)
    nearer, reach, score = _rank_test(own, real)
    share, error = _from_training(found)
    return Memorisation(
        count=len(own),
        held_out=len(real),
        training=found.training,
        copied=_copied(own, real),
        copied_low=low,
        copied_high=high,
        nearer=nearer,
        nearer_low=max(nearer - reach, 0.0),
        nearer_high=min(nearer + reach, 1.0),
        c_t=score,
        from_training=share,
        from_training_low=max(share - NORMAL_QUANTILE * error, 0.0),
        from_training_high=min(share + NORMAL_QUANTILE * error, 1.0),
        expected_from_training=found.training / (found.training + found.held_out_images),
        identical=int((own == 0).sum()),
        held_out_identical=int((real == 0).sum()),
    )


def _copied(own: np.ndarray, real: np.ndarray) -> float:
    """Share of ``own`` among the nearest 5 % of ``real``: of ``real`` itself exactly 5 %, whatever is equal."""
    place = int(TAIL * len(real))
    last = np.partition(real, place)[place]
    part = (TAIL * len(real) - (real < last).sum()) / (real == last).sum()
    return float((own < last).mean() + part * (own == last).mean())


def _from_training(found: Distances) -> tuple[float, float]:
    """See :attr:`Memorisation.from_training`, with its standard error.

    Without memorisation, chance decides which images are training images. The error is that of the share under
    such draws, given how many generated images each is nearest to.
    """
    expected = found.training / (found.training + found.held_out_images)
    nearest, between = found.samples, found.between
    chosen = (nearest.distance < between.distance).double() + expected * (nearest.distance == between.distance)
    squares = 0.0
    for rows, count, weights in (
        (nearest.row, found.training, chosen),
        (between.row, found.held_out_images, 1 - chosen),
    ):
        hits = torch.zeros(count, dtype=torch.float64).index_add(0, rows, weights)
        squares += float(hits.square().sum())
    error = math.sqrt(expected * (1 - expected) * squares) / len(chosen)
    return float(chosen.mean()), error


def _rank_test(own: np.ndarray, real: np.ndarray) -> tuple[float, float, float]:
    """P(own < real), half the width of its interval, and the standard score; ``real`` is sorted.

    The interval is DeLong's, from the variances of both sets; the score is Mann and Whitney's, with the correction
    for ties, negative where ``own`` is nearer.
    """

    def shares_above(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        """For each value the share of the sorted others that are above it; equal ones count half."""
        left, right = (np.searchsorted(others, values, side=side) for side in ("left", "right"))
        return 1 - (left + right) / (2 * len(others))

    of_own, of_real = shares_above(own, real), 1 - shares_above(real, np.sort(own))
    nearer = float(of_own.mean())
    n, m = len(own), len(real)
    error = math.sqrt(of_own.var(ddof=1) / n + of_real.var(ddof=1) / m)
    ties = np.unique(np.concatenate([own, real]), return_counts=True)[1].astype(float)
    total = n + m
    variance = n * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    score = (0.5 - nearer) * n * m / math.sqrt(variance) if variance > 0 else 0.0
    return nearer, NORMAL_QUANTILE * error, score


def nearest_by_features(images: Tensor, others: Tensor) -> Nearest:
    """The nearest of other images to each image by the distance of features, ``[n, d]`` and ``[m, d]``.

    Products in float32 find it, and its distance is then computed in float64, so that an equal image is at
    exactly 0. The processes share the images.
    """
    centre = others.double().mean(dim=0)
    own, real = ((features.double() - centre).float() for features in (images, others))
    squares, mine = real.square().sum(dim=1), distributed.share(len(images))
    found = [
        (squares - 2 * own[start : min(start + QUERIES, mine.stop)] @ real.T).argmin(dim=1)
        for start in range(mine.start, mine.stop, QUERIES)
    ]
    row = torch.cat([part for each in distributed.gather(found) for part in each])
    return Nearest((images.double() - others[row].double()).norm(dim=1), row)


def nearest_by_codes(codes: Tensor, others: TokenDataset, rows: np.ndarray, device: torch.device) -> Nearest:
    """The nearest of other images to each image by the number of codes that differ.

    Every pair is compared, a block at a time; the processes share the images.

    Args:
        codes: of the images, long ``[n, *grid]``.
        others: shards of the other images.
        rows: which of them; places among these are the rows of the result.
        device: where codes are compared.
    """

    def flat(indices: Tensor) -> Tensor:
        return indices.flatten(1).float().to(device)  # whole numbers below 2²⁴, exact in float32

    mine = distributed.share(len(codes))
    own = flat(codes[mine.start : mine.stop])
    distance = torch.full((len(own),), math.inf, device=device)
    row = torch.zeros(len(own), dtype=torch.long, device=device)
    for first in range(0, len(rows), OTHERS):
        real = flat(torch.from_numpy(others.rows(rows[first : first + OTHERS])[0]))
        for start in range(0, len(own), QUERIES):
            part = slice(start, start + QUERIES)
            least, place = torch.cdist(own[part], real, p=0).min(dim=1)
            row[part] = torch.where(least < distance[part], first + place, row[part])
            distance[part] = torch.minimum(least, distance[part])
    parts = distributed.gather((distance.double().cpu(), row.cpu()))
    return Nearest(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
