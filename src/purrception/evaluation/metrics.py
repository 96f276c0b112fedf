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
