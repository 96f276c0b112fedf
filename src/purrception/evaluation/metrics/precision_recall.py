"""Precision, recall, density and coverage of a set of images, from nearest neighbours in its features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.utils.errors import InputError

NEIGHBOURS = 3
"""k of precision and recall, and of density and coverage."""
SPARE = 12
"""Neighbours that are known beyond the k-th, for where some are left out: of a tenth, hardly ever so many."""
BLOCK = 2**20
"""Distances held at a time."""


@dataclass(frozen=True)
class PrecisionRecall:
    """How generated images lie among real ones, and real ones among them.

    A set's manifold is the union of balls around its images, each reaching to the k-th nearest neighbour.
    """

    precision: float
    """Share of generated images on the real manifold: fidelity (arXiv 1904.06991)."""
    recall: float
    """Share of real images on the generated manifold: diversity (arXiv 1904.06991)."""
    density: float
    """Real balls that a generated image lies in, over k: fidelity that an outlier's large ball does not inflate
    (arXiv 2002.09797)."""
    coverage: float
    """Share of real images whose ball holds a generated one: diversity that depends on the real images' balls
    alone (arXiv 2002.09797)."""


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS) -> PrecisionRecall:
    """Precision, recall, density and coverage of features ``[n, d]`` and ``[m, d]``.

    Distances are computed a block at a time: memory does not grow with the number of images.

    Raises:
        InputError: a set has no more than k images.
    """
    return precision_recall_without(real, generated, [slice(0, 0)], neighbours)[0]


def precision_recall_without(
    real: Tensor, generated: Tensor, groups: Sequence[slice], neighbours: int = NEIGHBOURS
) -> list[PrecisionRecall]:
    """The metrics of all generated images but those of a group, for each group, from the same distances.

    Args:
        real: features ``[n, d]``.
        generated: features ``[m, d]``.
        groups: rows of generated images, of which every one leaves more than k others.
        neighbours: k.

    Raises:
        InputError: a set has no more than k images.
    """
    fewest = min(len(real), len(generated))
    if fewest <= neighbours:
        raise InputError(f"precision and recall need more than {neighbours} images a set; given {fewest}")
    real, generated = real.double(), generated.double()
    kept = torch.ones(len(groups), len(generated), dtype=torch.bool)
    for without, group in zip(kept, groups, strict=True):
        without[group] = False
    real_radii = _radii(real, torch.ones(1, len(real), dtype=torch.bool), neighbours)[0]
    generated_radii = _radii(generated, kept, neighbours)
    inside, balls = torch.empty(2, len(generated), dtype=torch.float64)
    for rows, distances in _blocks(generated, real):
        in_balls = distances <= real_radii
        balls[rows] = in_balls.sum(dim=1) / neighbours
        inside[rows] = in_balls.any(dim=1).double()
    covered, recalled = torch.zeros(2, len(groups), dtype=torch.float64)
    for rows, distances in _blocks(real, generated):
        for number, group in enumerate(groups):
            recalled[number] += (distances <= generated_radii[number]).any(dim=1).sum()
            ends = distances[:, : group.start], distances[:, group.stop :]
            least = torch.stack([part.amin(dim=1) for part in ends if part.shape[1]]).amin(dim=0)
            covered[number] += (least <= real_radii[rows]).sum()
    return [
        PrecisionRecall(
            precision=float(inside[without].mean()),
            recall=float(recalled[number]) / len(real),
            density=float(balls[without].mean()),
            coverage=float(covered[number]) / len(real),
        )
        for number, without in enumerate(kept)
    ]


def _radii(points: Tensor, kept: Tensor, neighbours: int) -> Tensor:
    """Distance of each point to its k-th nearest among the kept ones, ``[S, n]`` for S masks ``[S, n]``.

    The nearest of all is the point itself; points that are not kept have a radius of −1, which reaches nothing.
    """
    candidates = min(neighbours + 1 + SPARE * (len(kept) > 1), len(points))
    radii = torch.empty(kept.shape, dtype=torch.float64)
    for rows, distances in _blocks(points, points):
        nearest, who = distances.topk(candidates, dim=1, largest=False)
        for radius, without in zip(radii, kept, strict=True):
            place = without[who].cumsum(dim=1).le(neighbours).sum(dim=1).clamp(max=candidates - 1)
            radius[rows] = nearest.gather(1, place[:, None])[:, 0]
    return radii.masked_fill(~kept, -1.0)


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of ``a``, and their distances to all of ``b``, a block at a time."""
    size = max(1, BLOCK // len(b))
    for start in range(0, len(a), size):
        rows = slice(start, start + size)
        yield rows, torch.cdist(a[rows], b)
