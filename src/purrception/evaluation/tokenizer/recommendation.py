"""What to do with a tokenizer, given its metrics: use it, train it longer, fine-tune its decoder, or retrain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from purrception.evaluation.tokenizer.codebook import CodebookState
from purrception.evaluation.tokenizer.reconstruction import Distance

Advice = Literal["use it", "fine-tune the decoder", "retrain", "train it longer", "judge it on more images"]

SITES_PER_CODE = 10.0
"""Below this many sites per code, unused codes may only be unlucky."""
LEAST_USAGE, LEAST_PERPLEXITY, MOST_WITHIN_NOISE, HOPELESS_PSNR = 0.5, 0.05, 0.5, 14.0
LEAST_PSNR, LEAST_SSIM, MOST_SHARE = 18.0, 0.5, 0.1
LEAST_IMAGES = 50
"""From fewer images, distances and averages are mostly chance."""
STILL_RISING = 0.3
"""dB that PSNR gains over the last third of a training that should have been longer."""

THRESHOLDS = (
    f"no verdict from under {LEAST_IMAGES} images; train longer what is not good enough when PSNR rose by over "
    f"{STILL_RISING:g} dB in the last third of its training; else retrain when "
    f"under {LEAST_USAGE:.0%} of the codes are used (only from {SITES_PER_CODE:g} sites per code "
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


def recommend(
    images: int,
    psnr: float,
    ssim: float,
    distances: Sequence[Distance],
    codebook: CodebookState,
    history: Sequence[float] = (),
) -> Recommendation:
    """What to do with a tokenizer of these metrics; the first kind of trouble found decides.

    Args:
        images: how many images were looked at.
        psnr: dB.
        ssim: mean over images.
        distances: distances of the reconstructions from their originals.
        codebook: the state of the codebook.
        history: PSNR at equal intervals of its training, in dB, where that is known.
    """
    if images < LEAST_IMAGES:
        return Recommendation(
            "judge it on more images",
            (
                f"{images} images say too little, {LEAST_IMAGES} are needed: add some, or train with a larger "
                "data.test_fraction.",
            ),
        )
    found = _by_metrics(psnr, ssim, distances, codebook)
    risen = history[-1] - history[-1 - len(history) // 3] if len(history) >= 3 else 0.0
    if found.advice != "use it" and risen > STILL_RISING:
        return Recommendation(
            "train it longer",
            (
                f"PSNR still rose by {risen:.1f} dB in the last third of its training.",
                *found.reasons,
            ),
        )
    return found


def _by_metrics(
    psnr: float, ssim: float, distances: Sequence[Distance], codebook: CodebookState
) -> Recommendation:
    """What the metrics alone say."""
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
