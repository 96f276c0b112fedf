"""Precision, recall, density and coverage of a set of images, from nearest neighbours in its features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.utils.errors import InputError

NEIGHBOURS = 3
"""k of precision and recall, and of density and coverage."""
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
    fewest = min(len(real), len(generated))
    if fewest <= neighbours:
        raise InputError(f"precision and recall need more than {neighbours} images a set; given {fewest}")
    real, generated = real.double(), generated.double()
    real_radii, generated_radii = _radii(real, neighbours), _radii(generated, neighbours)
    inside = covered = recalled = balls = 0
    for _, distances in _blocks(generated, real):
        in_balls = distances <= real_radii
        balls += int(in_balls.sum())
        inside += int(in_balls.any(dim=1).sum())
    for rows, distances in _blocks(real, generated):
        covered += int((distances.min(dim=1).values <= real_radii[rows]).sum())
        recalled += int((distances <= generated_radii).any(dim=1).sum())
    return PrecisionRecall(
        precision=inside / len(generated),
        recall=recalled / len(real),
        density=balls / (neighbours * len(generated)),
        coverage=covered / len(real),
    )


def _radii(points: Tensor, neighbours: int) -> Tensor:
    """Distance of each point to its k-th nearest neighbour, ``[n]``; the nearest of all is the point itself."""
    return torch.cat(
        [distances.kthvalue(neighbours + 1, dim=1).values for _, distances in _blocks(points, points)]
    )


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of ``a``, and their distances to all of ``b``, a block at a time."""
    size = max(1, BLOCK // len(b))
    for start in range(0, len(a), size):
        rows = slice(start, start + size)
        yield rows, torch.cdist(a[rows], b)
