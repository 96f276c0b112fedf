"""Structural similarity of images (Wang et al., IEEE Transactions on Image Processing 13(4), 2004)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.utils.errors import InputError

WINDOW, DEVIATION = 11, 1.5
"""Size and standard deviation in pixels of the Gaussian window, as in the paper."""
PEAK = 2.0
"""The range of images in [−1, 1]."""


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of images ``[B, C, H, W]`` in [−1, 1]: ``[B]``, 1 where they are equal.

    With Gaussian-weighted means μ, variances σ² and covariance σ_ab of each neighbourhood (eq. 13),
    (2 μ_a μ_b + C₁)(2 σ_ab + C₂) / ((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂)), where C₁ = (0.01 · 2)² and
    C₂ = (0.03 · 2)²; the mean over channels and all windows that lie inside the image. Images below 11 pixels
    are compared through the largest odd window that fits. Float64.

    Raises:
        InputError: the images differ in shape.
    """
    if a.shape != b.shape:
        raise InputError(f"SSIM compares images of one shape; given {list(a.shape)} and {list(b.shape)}")
    a, b = a.double(), b.double()
    side = min(WINDOW, *((length - 1) // 2 * 2 + 1 for length in a.shape[-2:]))
    offsets = torch.arange(side, dtype=torch.float64, device=a.device) - side // 2
    weights = torch.exp(-offsets.square() / (2 * DEVIATION**2))
    weights /= weights.sum()
    mean_a, mean_b, square_a, square_b, product = (
        _blur(images, weights) for images in (a, b, a * a, b * b, a * b)
    )
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    variances = square_a - mean_a.square() + square_b - mean_b.square()
    structure = (2 * (product - mean_a * mean_b) + c2) / (variances + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _blur(images: Tensor, weights: Tensor) -> Tensor:
    """Weighted means over square windows wholly inside, channel by channel."""
    batch, channels, height, width = images.shape
    flat = images.reshape(batch * channels, 1, height, width)
    down = F.conv2d(flat, weights.view(1, 1, -1, 1))
    both = F.conv2d(down, weights.view(1, 1, 1, -1))
    return both.view(batch, channels, *both.shape[-2:])
