"""The state of a codebook: how its codes are spread, and which are used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.tokenizers.quality import perplexity

ROWS = 1024
"""Codes compared with all others at a time; also how many the median distance is estimated from."""


@dataclass(frozen=True)
class CodebookState:
    """Metrics of a codebook, and of the codes of some images."""

    codes: int
    """K."""
    dimension: int
    """D."""
    sites_per_code: float
    """Number of sites per code; from about 10 on, usage says something."""
    usage: float
    """Share of codes that occur."""
    dead: int
    """Number of codes that do not."""
    perplexity: float
    """exp(entropy) of the codes' histogram: how many are in effective use."""
    channel_mean: tuple[float, ...]
    """Mean per channel of the codes as they occur; the standardisation subtracts it."""
    channel_deviation: tuple[float, ...]
    """Standard deviation per channel."""
    deviation: float
    """Root mean square over channels; the standardisation divides all channels by it."""
    smallest_distance: float
    """Smallest distance between two codes."""
    median_distance: float
    """Median distance over all pairs of codes (of 1024 codes, drawn by a key)."""
    quantisation_error: float
    """Root mean square distance between an encoder output and its code."""
    within_noise: float
    """Share of codes nearer to another code than the quantisation error: the two differ by less than the error
    that the decoder receives anyway, so that they mean nearly the same."""


def examine_codebook(codebook: Tensor, counts: Tensor, squared_error: float) -> tuple[CodebookState, Tensor]:
    """Metrics of a codebook, and each code's distance to its nearest neighbour, float64 ``[K]``.

    Args:
        codebook: ``[K, D]``.
        counts: how often each code occurred on the images, ``[K]``.
        squared_error: mean over sites of the squared distance between encoder output and code.
    """
    codes, counts = codebook.double().cpu(), counts.double().cpu()
    shares = (counts / counts.sum())[:, None]
    mean = (shares * codes).sum(0)
    variance = (shares * (codes - mean).square()).sum(0)
    nearest = nearest_neighbours(codes)
    some = codes[torch.from_numpy(spread_rows(len(codes), ROWS))]
    noise = squared_error**0.5
    state = CodebookState(
        codes=len(codes),
        dimension=codes.shape[1],
        sites_per_code=float(counts.sum()) / len(codes),
        usage=float((counts > 0).double().mean()),
        dead=int((counts == 0).sum()),
        perplexity=perplexity(counts),
        channel_mean=tuple(mean.tolist()),
        channel_deviation=tuple(variance.sqrt().tolist()),
        deviation=float(variance.mean().sqrt()),
        smallest_distance=float(nearest.min()),
        median_distance=float(torch.pdist(some).median()),
        quantisation_error=noise,
        within_noise=float((nearest < noise).double().mean()),
    )
    return state, nearest


def nearest_neighbours(codes: Tensor) -> Tensor:
    """Distance of each code of ``[K, D]`` to the nearest other one, ``[K]``, a block of rows at a time."""
    found = []
    for start in range(0, len(codes), ROWS):
        block = codes[start : start + ROWS]
        # Differences, not products: two equal codes are at distance 0.
        distances = torch.cdist(block, codes, compute_mode="donot_use_mm_for_euclid_dist")
        rows = torch.arange(len(block))
        distances[rows, start + rows] = torch.inf
        found.append(distances.min(dim=1).values)
    return torch.cat(found)
