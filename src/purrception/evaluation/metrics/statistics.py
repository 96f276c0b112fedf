"""Mean and covariance of features, streamed in float64: the same for any split into batches and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng

NOTHING = torch.zeros(0)


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
        require_finite(features)
        if len(features) < 2:
            raise _too_few(len(features))
        features = features.double()
        return cls(features.mean(dim=0), features.T.cov().reshape(2 * features.shape[1:]), len(features))

    @property
    def dimension(self) -> int:
        """d."""
        return len(self.mean)

    @property
    def rank_deficient(self) -> bool:
        """Whether there are too few images for a covariance of full rank."""
        return self.count <= self.dimension

    @cached_property
    def factor(self) -> Tensor:
        """F, ``[d, r]``, such that F Fᵀ is the covariance of rank r: few images leave few columns."""
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values > values[-1] * self.dimension * torch.finfo(values.dtype).eps  # the others are rounding
        return vectors[:, kept] * values[kept].sqrt()


class RunningStatistics:
    """Sums that become :class:`FeatureStatistics`; parts are merged exactly (Chan, Golub & LeVeque, 1983).

    Each part is centred at its own mean before its products are summed, so that nothing cancels however far the
    features are from 0, and any split into parts gives the same result to float64's last digits.
    """

    def __init__(self, count: int = 0, mean: Tensor = NOTHING, products: Tensor = NOTHING) -> None:
        self.count, self.mean, self.products = count, mean, products

    def update(self, features: Tensor) -> None:
        """Add features ``[n, d]``; they must be finite, see :func:`require_finite`."""
        if len(features):
            features = features.detach().double().cpu()
            mean = features.mean(dim=0)
            centred = features - mean
            self.merge(RunningStatistics(len(features), mean, centred.T @ centred))

    def merge(self, other: RunningStatistics) -> None:
        """Add other features, such as those of another process."""
        if not self.count:
            self.count, self.mean, self.products = other.count, other.mean, other.products
        elif other.count:
            total = self.count + other.count
            gap = other.mean - self.mean
            share = self.count * other.count / total
            self.products = self.products + other.products + torch.outer(gap, gap) * share
            self.mean = self.mean + gap * (other.count / total)
            self.count = total

    def result(self) -> FeatureStatistics:
        """Statistics of all features so far.

        Raises:
            InputError: fewer than two images.
        """
        if self.count < 2:
            raise _too_few(self.count)
        return FeatureStatistics(self.mean, self.products / (self.count - 1), self.count)


def halves(total: int, most: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of two disjoint halves, long ``[n]`` each, of one size: at most ``most``.

    They are drawn by a key: where classes take turns, every second image would be of half of the classes.
    """
    order = torch.from_numpy(keyed_rng(seed, Stream.EVALUATION, part=4).permutation(total))
    size = total // 2 if most is None else min(most, total // 2)
    return order[:size], order[size : 2 * size]


def merged(parts: Iterable[RunningStatistics]) -> RunningStatistics:
    """The parts of several processes, in their order, as one."""
    whole = RunningStatistics()
    for part in parts:
        whole.merge(part)
    return whole


def require_finite(features: Tensor, name: Callable[[int], str] = lambda row: f"image {row}") -> None:
    """Refuse features ``[n, d]`` that are NaN or infinite.

    Args:
        features: one row per image.
        name: names the image of a row for a person.

    Raises:
        InputError: the first image with such a feature, by name.
    """
    finite = features.isfinite().all(dim=1)
    if not finite.all():
        raise InputError(
            f"{name(int((~finite).nonzero()[0]))} has features that are not finite (NaN or infinite): look at the "
            "image, and at the weights that the features come from"
        )


def _too_few(count: int) -> InputError:
    return InputError(f"a distance needs at least 2 images; given {count}")
