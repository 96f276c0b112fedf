"""Distances between sets of images, from their features, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from purrception.errors import InputError


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of features, float64."""

    mean: Tensor
    """``[d]``."""
    covariance: Tensor
    """``[d, d]``, unbiased."""
    count: int
    """Number of images."""

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Statistics of features ``[n, d]``.

        Raises:
            InputError: fewer than two images, or a feature that is not finite (the first is named).
        """
        if len(features) < 2:
            raise InputError(f"a distance needs at least 2 images; given {len(features)}")
        finite = features.isfinite().all(dim=1)
        if not finite.all():
            first = int((~finite).nonzero()[0])
            raise InputError(f"image {first} has features that are not finite")
        features = features.double()
        return cls(features.mean(dim=0), features.T.cov(), len(features))


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|μ_a − μ_b|² + tr(C_a + C_b − 2 (C_a C_b)^½), the Fréchet distance of two Gaussians.

    The trace of the root is the sum of the square roots of the eigenvalues of C_a^½ C_b C_a^½, which is
    symmetric: no general matrix square root is needed (arXiv 1706.08500 for the use as an image metric).
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    eigenvalues = torch.linalg.eigvalsh(root @ b.covariance @ root)
    cross = eigenvalues.clamp(min=0).sqrt().sum()
    gap = (a.mean - b.mean).square().sum()
    distance = gap + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(float(distance), 0.0)


@dataclass(frozen=True)
class PrecisionRecall:
    """Share of generated images among the real ones, and the reverse (arXiv 1904.06991)."""

    precision: float
    """Generated images that lie on the real manifold: fidelity."""
    recall: float
    """Real images that lie on the generated manifold: diversity."""


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = 3) -> PrecisionRecall:
    """Improved precision and recall of features ``[n, d]`` and ``[m, d]``.

    A manifold is the union of balls around its images, each reaching to its k-th nearest neighbour.

    Args:
        real: features of real images.
        generated: features of generated images.
        neighbours: k.

    Raises:
        InputError: a set has no more than k images.
    """
    fewest = min(len(real), len(generated))
    if fewest <= neighbours:
        raise InputError(f"precision and recall need more than {neighbours} images a set; given {fewest}")
    return PrecisionRecall(
        precision=_share_inside(generated, real, neighbours),
        recall=_share_inside(real, generated, neighbours),
    )


def _share_inside(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    """Share of ``points`` that lie in a ball of ``manifold``."""
    points, manifold = points.double(), manifold.double()
    own = torch.cdist(manifold, manifold)
    radii = own.kthvalue(neighbours + 1, dim=1).values  # the nearest of all is the image itself
    return float((torch.cdist(points, manifold) <= radii).any(dim=1).double().mean())
