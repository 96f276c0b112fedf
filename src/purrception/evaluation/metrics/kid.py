"""Kernel distance between features of two sets of images (KID), in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng

SUBSETS, SUBSET_SIZE = 100, 1000


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0
) -> tuple[float, float]:
    """KID: the squared maximum mean discrepancy under k(x, y) = (x·y/d + 1)³, unbiased (arXiv 1801.01401).

    Its expectation does not depend on the number of images, whereas a Fréchet distance falls with it; it may be
    negative.

    Args:
        a: features ``[n, d]``.
        b: features ``[m, d]``.
        subsets: how many pairs of subsets.
        size: images of each set in a subset.
        seed: of the subsets, which are keyed by it.

    Returns:
        The mean over subsets, or the value of all images at once where there are no more than ``size``; and the
        standard deviation over subsets, of at most half of a set each, so that they are not all alike.

    Raises:
        InputError: a set has fewer than two images.
    """
    if min(len(a), len(b)) < 2:
        raise InputError(f"KID needs at least 2 images a set; given {len(a)} and {len(b)}")
    found = []
    for subset in range(subsets):
        rng = keyed_rng(seed, Stream.EVALUATION, subset)
        rows = [
            rng.choice(len(features), max(2, min(len(features) // 2, size)), replace=False) for features in (a, b)
        ]
        found.append(_squared_discrepancy(a[torch.from_numpy(rows[0])], b[torch.from_numpy(rows[1])]))
    values = torch.tensor(found, dtype=torch.float64)
    few = max(len(a), len(b)) <= size
    mean = _squared_discrepancy(a, b) if few else float(values.mean())
    return mean, float(values.std(correction=0))


def _squared_discrepancy(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    within = [_kernel(x, x) for x in (a, b)]
    pairs = [(kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1)) for kernel in within]
    return float(pairs[0] + pairs[1] - 2 * _kernel(a, b).mean())


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3
