"""How well a tokenizer reconstructs images: each of them, and all of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from purrception.data import ReadableImages, images_to_tensor
from purrception.evaluation.metrics.fid import frechet_distance
from purrception.evaluation.metrics.ssim import structural_similarity
from purrception.evaluation.metrics.statistics import FeatureStatistics, halves
from purrception.tokenizers import VQTokenizer
from purrception.tokenizers.quality import peak_signal_to_noise

Features = Callable[[Tensor], Tensor]
"""Images ``[B, C, H, W]`` in [−1, 1] → features ``[B, d]``."""


@dataclass(frozen=True)
class Distance:
    """How far reconstructions lie from real images, in one kind of features; all Fréchet distances."""

    features: str
    """What the images are compared in."""
    reconstructions: float
    """Reconstructions of one half of the images against their originals, as rFID is taken: 0 is perfect."""
    floor: float
    """That half's originals against the other half's: what chance alone does, at the same count."""
    variance: float
    """Trace of the originals' covariance: the scale of these features."""

    @property
    def share(self) -> float:
        """The distance of the reconstructions in units of the features' own variance."""
        return self.reconstructions / max(self.variance, 1e-12)


@dataclass(frozen=True)
class Reconstructions:
    """How well images survived encoding and decoding."""

    squared_error: Tensor
    """Mean squared error per image, over pixels in [−1, 1], float64 ``[n]``."""
    unquantised_error: float
    """The same over all images when the encoder's outputs are decoded without quantisation."""
    similarity: Tensor
    """SSIM per image, float64 ``[n]``."""
    counts: Tensor
    """Histogram of codes, ``[K]``."""
    code_error: float
    """Mean squared distance between encoder outputs and their codes."""
    distances: tuple[Distance, ...]
    """One per kind of features."""

    @property
    def psnr(self) -> float:
        """PSNR over all pixels together, dB."""
        return peak_signal_to_noise(float(self.squared_error.mean()))


@torch.no_grad()
def reconstruct(
    tokenizer: VQTokenizer,
    images: ReadableImages,
    rows: np.ndarray,
    kinds: Mapping[str, Features],
    batch_size: int,
) -> Reconstructions:
    """Encode and decode ``rows`` of ``images``, a batch at a time.

    Args:
        tokenizer: the tokenizer, as it is.
        images: of its channels, and of a size that it takes.
        rows: numbers of the images, at least 4.
        kinds: features by name.
        batch_size: images at a time; does not change the metrics.
    """
    errors, similarities, unquantised, code_errors = [], [], [], []
    counts = torch.zeros(len(tokenizer.codebook))
    seen: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in kinds}
    unit = bool((tokenizer.codebook.norm(dim=1) - 1).abs().max() < 1e-4)
    for start in range(0, len(rows), batch_size):
        originals = images_to_tensor([images[int(row)][0] for row in rows[start : start + batch_size]])
        latents = tokenizer.latents(originals)
        if unit:  # such a codebook looks at directions only
            latents = torch.nn.functional.normalize(latents, dim=1)
        indices = tokenizer.encode(originals)
        codes = tokenizer.vq.quantize.embedding(indices).permute(0, 3, 1, 2).float()
        code_errors.append((latents - codes).square().sum(1).double().mean((1, 2)).cpu())
        counts += indices.flatten().bincount(minlength=len(counts)).cpu()
        reconstructed = tokenizer.decode(indices).clamp(-1, 1).cpu()
        plain = tokenizer.vq.decode(latents.to(tokenizer.vq.dtype), force_not_quantize=True).sample
        unquantised.append(_squared_error(plain.float().clamp(-1, 1).cpu(), originals))
        errors.append(_squared_error(reconstructed, originals))
        similarities.append(structural_similarity(reconstructed, originals))
        for name, features in kinds.items():
            seen[name][0].append(features(originals))
            seen[name][1].append(features(reconstructed))
    return Reconstructions(
        squared_error=torch.cat(errors),
        unquantised_error=float(torch.cat(unquantised).mean()),
        similarity=torch.cat(similarities),
        counts=counts,
        code_error=float(torch.cat(code_errors).mean()),
        distances=tuple(_distance(name, torch.cat(real), torch.cat(made)) for name, (real, made) in seen.items()),
    )


def _squared_error(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).double().square().mean((1, 2, 3))


def _distance(name: str, real: Tensor, made: Tensor) -> Distance:
    """Distances from features of originals and of their reconstructions, row by row ``[n, d]``."""
    half, rest = halves(len(real))
    one, other = FeatureStatistics.of(real[half]), FeatureStatistics.of(real[rest])
    return Distance(
        features=name,
        reconstructions=frechet_distance(one, FeatureStatistics.of(made[half])),
        floor=frechet_distance(one, other),
        variance=float(FeatureStatistics.of(real).covariance.trace()),
    )
