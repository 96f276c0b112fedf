"""Operations on the categorical posterior π(k | z_t) over the codebook, one per site, in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.flow.nearest import nearest_codes
from purrception.flow.temperature import check_temperature
from purrception.utils.errors import InputError, unknown_name


@dataclass(frozen=True)
class TopCodes:
    """The likeliest codes of each site, the most probable first; equals come in any order."""

    codes: Tensor
    """long ``[…, k]``."""
    probabilities: Tensor
    """π of each, float32 ``[…, k]``."""


@dataclass(frozen=True)
class Posterior:
    """What sampling and inspection need of a posterior; nothing here has the size of the codebook."""

    mean: Tensor
    """μ = Σ_k π_k e_k, float32 ``[B, D, h, w]``."""
    entropy: Tensor
    """−Σ_k π_k ln π_k in nats, float32 ``[B, h, w]``."""
    max_probability: Tensor
    """max_k π_k, float32 ``[B, h, w]``."""
    codes: Tensor
    """The most probable code of each site, long ``[B, h, w]``."""
    drawn: Tensor | None = None
    """A code of each site drawn from π, long ``[B, h, w]``; there when uniform numbers were given."""
    top: TopCodes | None = None
    """The likeliest codes; there when asked for."""


@dataclass(frozen=True)
class Truncation:
    """Which codes a posterior may keep.

    Raises:
        InputError: top_k below 0, or top_p outside (0, 1].
    """

    top_k: int = 0
    """The k most probable codes; 0: all."""
    top_p: float = 1.0
    """Of those, the smallest set whose mass reaches p, at least one code (the nucleus, arXiv 1904.09751)."""

    def __post_init__(self) -> None:
        """Refuse what keeps nothing."""
        if self.top_k < 0:
            raise InputError(f"top_k is at least 1, or 0 to keep every code; given {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is above 0 and at most 1, which keeps every code; given {self.top_p}")


def truncate(logits: Tensor, truncation: Truncation) -> Tensor:
    """Log-probabilities of the truncated posterior: renormalised over the codes kept, −∞ for the others.

    Args:
        logits: ``[…, K]``, after temperature; log-probabilities serve as well.
        truncation: which codes to keep; top_k first, then top_p of the mass that is left.

    Returns:
        float32 ``[…, K]``.
    """
    logits = logits.float()
    size = logits.shape[-1]
    count = min(truncation.top_k or size, size)
    if count == size and truncation.top_p == 1:
        return logits.log_softmax(-1)
    kept, codes = logits.topk(count, dim=-1)
    kept = kept.log_softmax(-1)
    if truncation.top_p < 1:
        ahead = F.pad(kept.exp().cumsum(-1)[..., :-1], (1, 0))  # nothing ahead of the first: it stays
        kept = kept.masked_fill(ahead >= truncation.top_p, -torch.inf).log_softmax(-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, codes, kept)


def posterior_from_logits(
    logits: Tensor,
    codebook: Tensor,
    temperature: float = 1.0,
    truncation: Truncation | None = None,
    uniforms: Tensor | None = None,
    top: int = 0,
) -> Posterior:
    """π = softmax(logits/τ) and its statistics (paper, section 4: temperature moves the barycentre).

    Args:
        logits: ``[B, h, w, K]``, any precision.
        codebook: standardised codes, ``[K, D]``.
        temperature: τ > 0.
        truncation: applied after the temperature; every statistic is of the truncated posterior.
        uniforms: numbers in [0, 1), ``[B, h, w]``, from which a code of each site is drawn.
        top: how many of the likeliest codes to name, at most K; 0: none.

    Raises:
        InputError: the temperature is not positive.
    """
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / check_temperature(temperature)
    if truncation is not None and truncation != Truncation():
        scaled = truncate(scaled, truncation)
    posterior = PosteriorSums.of(scaled, codebook, top=top).posterior()
    if uniforms is None:
        return posterior
    # What was raised is not to be drawn: a truncation may have left it out.
    weights = F.threshold(scaled, _least_exponent(scaled.dtype), -torch.inf).exp_()
    return replace(posterior, drawn=draw_codes(weights, uniforms))


def above_underflow_(exponents: Tensor) -> Tensor:
    """Raise exponents, in place, so far that their exp, and 1e-12 times it, are normal numbers.

    Most weights of a sharp posterior are below, where a processor's arithmetic takes up to a hundred times as
    long. What they are raised to, 5e-26 in float32, weighs nothing beside the largest weight, which is 1.
    """
    return exponents.clamp_(min=_least_exponent(exponents.dtype))


def _least_exponent(dtype: torch.dtype) -> float:
    return 2 / 3 * math.log(torch.finfo(dtype).tiny)


@dataclass(frozen=True)
class PosteriorSums:
    """Sums over some of the codes; those over others can be added, and all of them give the posterior.

    The online softmax (arXiv 1805.02867), carried from the normaliser to the mean and the entropy: a site's
    logits need never exist all at once. With l the logits seen and w = exp(l − height):
    """

    height: Tensor
    """max l, ``[…]``."""
    total: Tensor
    """Σ w, ``[…]``."""
    weighted: Tensor
    """Σ w e, ``[…, D]``."""
    surprise: Tensor
    """Σ w (l − height), ``[…]``."""
    codes: Tensor
    """The code of the largest logit, long ``[…]``."""
    heights: Tensor
    """The largest logits, ``[…, k]``."""
    likeliest: Tensor
    """Their codes, long ``[…, k]``."""
    wanted: int
    """How many of those to keep; k is less while fewer codes were seen."""

    @classmethod
    def of(cls, logits: Tensor, codebook: Tensor, first: int = 0, top: int = 0) -> PosteriorSums:
        """The sums over the codes from ``first`` on.

        Args:
            logits: after temperature and truncation, float32 or float64 ``[…, n]``; **overwritten** by l − height,
                as :func:`above_underflow_` leaves them.
            codebook: their codes, ``[n, D]``.
            first: index of the first of them.
            top: how many of the likeliest to keep.
        """
        heights, likeliest = logits.topk(min(top, logits.shape[-1]), dim=-1)
        height, codes = logits.max(dim=-1)
        shifted = above_underflow_(logits.sub_(height[..., None]))
        weights = shifted.exp()
        with torch.autocast(logits.device.type, enabled=False):  # which would round the products to bfloat16
            surprise = torch.einsum("...k,...k->...", weights, shifted)
            weighted = weights @ codebook.to(weights)
        total = weights.sum(dim=-1)
        return cls(height, total, weighted, surprise, codes + first, heights, likeliest + first, top)

    def __add__(self, other: PosteriorSums) -> PosteriorSums:
        """The sums over both sets of codes; of equal logits, this one's counts as the largest."""
        height = torch.maximum(self.height, other.height)
        mine, theirs = self._raised_to(height), other._raised_to(height)
        heights = torch.cat([self.heights, other.heights], dim=-1)
        heights, places = heights.topk(min(self.wanted, heights.shape[-1]), dim=-1)
        return PosteriorSums(
            height=height,
            total=mine.total + theirs.total,
            weighted=mine.weighted + theirs.weighted,
            surprise=mine.surprise + theirs.surprise,
            codes=torch.where(self.height >= other.height, self.codes, other.codes),
            heights=heights,
            likeliest=torch.cat([self.likeliest, other.likeliest], dim=-1).gather(-1, places),
            wanted=self.wanted,
        )

    def _raised_to(self, height: Tensor) -> PosteriorSums:
        """The same sums relative to a height that is no lower."""
        fall = self.height - height
        factor = fall.exp()
        return replace(
            self,
            height=height,
            total=factor * self.total,
            weighted=factor[..., None] * self.weighted,
            surprise=factor * (self.surprise + fall * self.total),
        )

    def posterior(self) -> Posterior:
        """The statistics, for sums over all codes of sites ``[B, h, w]``."""
        top = None
        if self.heights.shape[-1]:
            shares = (self.heights - self.height[..., None]).exp() / self.total[..., None]
            top = TopCodes(self.likeliest, shares)
        return Posterior(
            mean=(self.weighted / self.total[..., None]).permute(0, 3, 1, 2),
            entropy=(self.total.log() - self.surprise / self.total).clamp_min(0),
            max_probability=self.total.reciprocal(),
            codes=self.codes,
            top=top,
        )


def draw_codes(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """One code per site by inversion of the cumulative distribution: it depends on the numbers given alone.

    Args:
        probabilities: ``[…, K]``, up to a factor.
        uniforms: numbers in [0, 1), ``[…]``.

    Returns:
        long ``[…]``; never a code whose probability is 0.
    """
    cumulative = probabilities.cumsum(-1)
    total = cumulative[..., -1:].contiguous()
    # Rounding may leave the total beside 1 and the target on it: stop at the last code that has mass.
    target = uniforms[..., None].to(cumulative) * total
    codes = torch.searchsorted(cumulative, target, right=True)
    return torch.minimum(codes, torch.searchsorted(cumulative, total))[..., 0]


LastStep = Callable[[Tensor, Posterior, Tensor], Tensor]
"""(z at t = 1 ``[B, D, h, w]``, the last posterior, codebook ``[K, D]``) → codes, long ``[B, h, w]``."""


def _nearest(z: Tensor, posterior: Posterior, codebook: Tensor) -> Tensor:
    """The codeword nearest to the end of the path (the paper's)."""
    return nearest_codes(z, codebook)


def _argmax(z: Tensor, posterior: Posterior, codebook: Tensor) -> Tensor:
    """The most probable code of the last posterior."""
    return posterior.codes


def _draw(z: Tensor, posterior: Posterior, codebook: Tensor) -> Tensor:
    """A draw from the last posterior."""
    if posterior.drawn is None:
        raise InputError(
            "the last step 'draw' needs a posterior with a draw: give it uniforms, one number in [0, 1) per site"
        )
    return posterior.drawn


LAST_STEPS: dict[str, LastStep] = {"nearest": _nearest, "argmax": _argmax, "draw": _draw}
"""How codes are read off at the end of sampling."""


def get_last_step(name: str) -> LastStep:
    """The last step of that name.

    Raises:
        InputError: there is none; the nearest known name is suggested.
    """
    if name not in LAST_STEPS:
        raise unknown_name("last step", name, LAST_STEPS)
    return LAST_STEPS[name]
