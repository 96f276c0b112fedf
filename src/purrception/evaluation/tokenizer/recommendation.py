"""What to do with a tokenizer, given its metrics: use it, fine-tune its decoder, or train another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from purrception.evaluation.tokenizer.codebook import CodebookState
from purrception.evaluation.tokenizer.reconstruction import Distance

Advice = Literal["use it", "fine-tune the decoder", "retrain"]

SITES_PER_CODE = 10.0
"""Below this many sites per code, unused codes may only be unlucky."""
LEAST_USAGE, LEAST_PERPLEXITY, MOST_WITHIN_NOISE, HOPELESS_PSNR = 0.5, 0.05, 0.5, 14.0
LEAST_PSNR, LEAST_SSIM, MOST_SHARE = 18.0, 0.5, 0.1

THRESHOLDS = (
    f"retrain when under {LEAST_USAGE:.0%} of the codes are used (only from {SITES_PER_CODE:g} sites per code "
    f"on), the perplexity is under {LEAST_PERPLEXITY:.0%} of K, over {MOST_WITHIN_NOISE:.0%} of the codes lie "
    f"within noise of another, or PSNR is under {HOPELESS_PSNR:g} dB, since no decoder brings back what codes do "
    f"not hold; else fine-tune the decoder when PSNR is under {LEAST_PSNR:g} dB, SSIM under {LEAST_SSIM:g}, or a "
    f"Fréchet distance is over its floor and over {MOST_SHARE:.0%} of the features' variance, about what "
    "averaging 3 × 3 pixels does to photographs; else use it. "
    "All lines are rules of thumb."
)


@dataclass(frozen=True)
class Recommendation:
    """Advice, and what it rests on."""

    advice: Advice
    reasons: tuple[str, ...]
    """Sentences."""


def recommend(psnr: float, ssim: float, distances: Sequence[Distance], codebook: CodebookState) -> Recommendation:
    """What to do with a tokenizer of these metrics; the first kind of trouble found decides.

    Args:
        psnr: dB.
        ssim: mean over images.
        distances: distances of the reconstructions from their originals.
        codebook: the state of the codebook.
    """
    hopeless = []
    if codebook.usage < LEAST_USAGE and codebook.sites_per_code >= SITES_PER_CODE:
        hopeless.append(f"Only {codebook.usage:.1%} of the codes are used.")
    if codebook.perplexity < LEAST_PERPLEXITY * codebook.codes:
        hopeless.append(f"The perplexity is {codebook.perplexity:.1f} of {codebook.codes} codes.")
    if codebook.within_noise > MOST_WITHIN_NOISE:
        hopeless.append(f"{codebook.within_noise:.1%} of the codes lie within noise of another.")
    if psnr < HOPELESS_PSNR:
        hopeless.append(f"PSNR is {psnr:.1f} dB: the codes hold little of these images.")
    if hopeless:
        return Recommendation("retrain", tuple(hopeless))
    poor = []
    if psnr < LEAST_PSNR:
        poor.append(f"PSNR is {psnr:.1f} dB, under {LEAST_PSNR:g}.")
    if ssim < LEAST_SSIM:
        poor.append(f"SSIM is {ssim:.3f}, under {LEAST_SSIM:g}.")
    poor += [
        f"By {distance.features}, reconstructions lie {distance.share:.1%} of the features' variance "
        f"from their originals, over {MOST_SHARE:.0%}, and further than chance: they look unlike real images."
        for distance in distances
        if distance.share > MOST_SHARE and distance.reconstructions > distance.floor
    ]
    if poor:
        return Recommendation("fine-tune the decoder", ("The codebook is in use, but:", *poor))
    worst = max((distance.share for distance in distances), default=0.0)
    return Recommendation(
        "use it",
        (
            f"The codebook is in use ({codebook.usage:.1%} of the codes, perplexity {codebook.perplexity:.0f}), "
            f"PSNR is {psnr:.1f} dB and SSIM {ssim:.3f}, and reconstructions lie {worst:.1%} of the features' "
            "variance from their originals at most.",
        ),
    )
