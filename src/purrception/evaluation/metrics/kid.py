"""Kernel distance between features of two sets of images (KID), in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from purrception.utils.errors import InputError
from purrception.utils.keyed_rng import Stream, keyed_rng

SUBSETS, SUBSET_SIZE = 100, 1000
MAX_KERNEL = 4096
"""Images of a set up to which the subsets share one kernel matrix, of 128 MiB at most."""


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
    draws = [keyed_rng(seed, Stream.EVALUATION, subset) for subset in range(subsets)]
    rows_a, rows_b = (
        np.stack([rng.choice(n, max(2, min(n // 2, size)), replace=False) for rng in draws])
        for n in (len(a), len(b))
    )
    if max(len(a), len(b)) <= MAX_KERNEL:
        values = _squared_discrepancies(a, b, _indicators(rows_a, len(a)), _indicators(rows_b, len(b)))
    else:
        values = torch.cat([_squared_discrepancies(a[i], b[j]) for i, j in zip(rows_a, rows_b, strict=True)])
    few = max(len(a), len(b)) <= size
    mean = _squared_discrepancies(a, b) if few else values.mean()
    return float(mean), float(values.std(correction=0))


def kernel_distances_without(a: Tensor, b: Tensor, groups: Sequence[slice]) -> list[float]:
    """KID of all images of ``a`` but those of a group, for each group, up to one constant.

    Args:
        a: features ``[n, d]``.
        b: features ``[m, d]``, whose own kernels are the constant that is left out.
        groups: rows of ``a``, which together are all of it.
    """
    a, b = a.double(), b.double()
    sizes = torch.tensor([group.stop - group.start for group in groups])
    within = torch.stack([torch.stack([_kernel(a[one], a[other]).sum() for other in groups]) for one in groups])
    own = torch.stack([((a[group].square().sum(dim=1) / a.shape[1] + 1) ** 3).sum() for group in groups])
    between = torch.stack([_kernel(a[group], b).sum() for group in groups])
    left = len(a) - sizes
    pairs = within.sum() - 2 * within.sum(dim=1) + within.diagonal() - (own.sum() - own)
    values = pairs / (left * (left - 1)) - 2 * (between.sum() - between) / (left * len(b))
    return values.tolist()


def _squared_discrepancies(a: Tensor, b: Tensor, in_a: Tensor | None = None, in_b: Tensor | None = None) -> Tensor:
    """The unbiased estimate for each of S subsets, from the kernels of all images.

    Args:
        a: features ``[n, d]``.
        b: features ``[m, d]``.
        in_a: 1 where an image belongs to a subset and 0 elsewhere, ``[S, n]``; by default one subset of all.
        in_b: the same for the other set, ``[S, m]``.

    Returns:
        float64 ``[S]``.
    """
    a, b = a.double(), b.double()
    in_a, in_b = (a.new_ones(1, len(x)) if given is None else given for x, given in ((a, in_a), (b, in_b)))
    within = []
    for x, chosen in ((a, in_a), (b, in_b)):
        kernel, count = _kernel(x, x), chosen.sum(1)
        pairs = ((chosen @ kernel) * chosen).sum(1) - chosen @ kernel.diagonal()
        within.append(pairs / (count * (count - 1)))
    between = ((in_a @ _kernel(a, b)) * in_b).sum(1) / (in_a.sum(1) * in_b.sum(1))
    return within[0] + within[1] - 2 * between


def _indicators(rows: np.ndarray, count: int) -> Tensor:
    chosen = torch.from_numpy(rows)
    return torch.zeros(len(rows), count, dtype=torch.float64).scatter_(1, chosen, 1.0)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3
