"""How well a tokenizer reconstructs images, and how much of its codebook it uses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from purrception.tokenizers.vq import VQTokenizer


@dataclass(frozen=True)
class Reconstruction:
    """How well a tokenizer reconstructs images, and how much of its codebook it uses."""

    psnr: float
    """The peak signal-to-noise ratio over all pixels, in dB."""
    usage: float
    """The share of the codes that occur at least once."""
    perplexity: float
    """exp(entropy) of the histogram of codes: the effective number of codes in use."""


@torch.no_grad()
def measure(tokenizer: VQTokenizer, images: Tensor, batch_size: int = 256) -> Reconstruction:
    """Measure a tokenizer on images ``[n, C, H, W]`` in [−1, 1]."""
    squared_error, counts = 0.0, torch.zeros(len(tokenizer.codebook))
    for batch in images.split(batch_size):
        indices = tokenizer.encode(batch)
        rebuilt = tokenizer.decode(indices).clamp(-1, 1).cpu()
        squared_error += float((rebuilt - batch).double().square().sum())
        counts += indices.flatten().bincount(minlength=len(counts)).float().cpu()
    return Reconstruction(
        psnr=peak_signal_to_noise(squared_error / images.numel()),
        usage=float((counts > 0).float().mean()),
        perplexity=perplexity(counts),
    )


def peak_signal_to_noise(mean_squared_error: float) -> float:
    """10 log₁₀(peak² / MSE) in dB for images in [−1, 1], whose peak is 2; at most 126 dB."""
    return 10 * math.log10(4 / max(mean_squared_error, 1e-12))


def perplexity(counts: Tensor) -> float:
    """exp(entropy) of a histogram ``[K]``."""
    shares = counts / counts.sum()
    return math.exp(-float(torch.xlogy(shares, shares).sum()))
