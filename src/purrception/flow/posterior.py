"""Operations on the categorical posterior π(k | z_t) over the codebook, one per site, in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from purrception.flow.temperature import check_temperature
from purrception.flow.truncation import Truncation, keeps_all, truncate
from purrception.utils.devices import full_precision


@dataclass(frozen=True)
class TopCodes:
    """The likeliest codes of each site, the most probable first; ties come in any order."""

    codes: Tensor
    """long ``[…, k]``."""
    probabilities: Tensor
    """π of each, float32 ``[…, k]``."""


@dataclass(frozen=True)
class Posterior:
    """The statistics of a posterior that sampling and inspection use; none has the size of the codebook."""

    mean: Tensor
    """μ = Σ_k π_k e_k, float32 ``[B, D, h, w]``."""
    entropy: Tensor
    """−Σ_k π_k ln π_k in nats, float32 ``[B, h, w]``."""
    max_probability: Tensor
    """max_k π_k, float32 ``[B, h, w]``."""
    codes: Tensor
    """The most probable code of each site, long ``[B, h, w]``."""
    drawn: Tensor | None = None
    """A code of each site drawn from π, long ``[B, h, w]``, if uniform numbers were given."""
    top: TopCodes | None = None
    """The likeliest codes, if asked for."""


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
    if truncation is not None and not keeps_all(truncation):
        scaled = truncate(scaled, truncation)
    posterior = PosteriorSums.of(scaled, codebook, top=top).posterior()
    if uniforms is None:
        return posterior
    # An exponent at the floor of above_underflow_ may be a code that truncation left out: it must not be drawn.
    weights = F.threshold(scaled, _least_exponent(scaled.dtype), -torch.inf).exp_()
    return replace(posterior, drawn=draw_codes(weights, uniforms))


def draw_codes(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """One code per site by inversion of the cumulative distribution, so that equal numbers give equal codes.

    Args:
        probabilities: ``[…, K]``, up to a factor.
        uniforms: numbers in [0, 1), ``[…]``.

    Returns:
        long ``[…]``; never a code whose probability is 0.
    """
    cumulative = probabilities.cumsum(-1)
    total = cumulative[..., -1:].contiguous()
    # Rounding may put the target on the total: stop at the last code that has mass.
    target = uniforms[..., None].to(cumulative) * total
    codes = torch.searchsorted(cumulative, target, right=True)
    return torch.minimum(codes, torch.searchsorted(cumulative, total))[..., 0]


def above_underflow_(exponents: Tensor) -> Tensor:
    """Clamp exponents from below, in place, so that their exp, and 1e-12 times it, are normal numbers.

    Most weights of a sharp posterior are subnormal, and a CPU's arithmetic on those takes up to a hundred times as
    long. The floor, a weight of 5e-26 in float32, is negligible beside the largest weight, which is 1.
    """
    return exponents.clamp_(min=_least_exponent(exponents.dtype))


def _least_exponent(dtype: torch.dtype) -> float:
    return 2 / 3 * math.log(torch.finfo(dtype).tiny)


@dataclass(frozen=True)
class PosteriorSums:
    """Sums over some of the codes; adding the sums over all the others gives the posterior.

    This is the online softmax (arXiv 1805.02867), extended from the normaliser to the mean and the entropy: a
    site's logits need never exist all at once. With l the logits seen and w = exp(l − max_logit):
    """

    max_logit: Tensor
    """max l, ``[…]``."""
    total: Tensor
    """Σ w, ``[…]``."""
    weighted_codes: Tensor
    """Σ w e, ``[…, D]``."""
    weighted_log: Tensor
    """Σ w (l − max_logit), ``[…]``."""
    codes: Tensor
    """The code of the largest logit, long ``[…]``."""
    top_logits: Tensor
    """The largest logits, ``[…, k]``."""
    top_codes: Tensor
    """Their codes, long ``[…, k]``."""
    top_count: int
    """How many of them to keep; k is less while fewer codes have been seen."""

    @classmethod
    def of(cls, logits: Tensor, codebook: Tensor, first: int = 0, top: int = 0) -> PosteriorSums:
        """The sums over n codes from ``first`` on.

        Args:
            logits: after temperature and truncation, float32 or float64 ``[…, n]``; **overwritten** by
                l − max_logit, clamped by :func:`above_underflow_`.
            codebook: these codes, ``[n, D]``.
            first: index of the first of them.
            top: how many of the likeliest to keep.
        """
        top_logits, top_codes = logits.topk(min(top, logits.shape[-1]), dim=-1)
        max_logit, codes = logits.max(dim=-1)
        shifted = above_underflow_(logits.sub_(max_logit[..., None]))
        weights = shifted.exp()
        with full_precision(logits.device):
            weighted_log = torch.einsum("...k,...k->...", weights, shifted)
            weighted_codes = weights @ codebook.to(weights)
        total = weights.sum(dim=-1)
        return cls(
            max_logit, total, weighted_codes, weighted_log, codes + first, top_logits, top_codes + first, top
        )

    def __add__(self, other: PosteriorSums) -> PosteriorSums:
        """The sums over both sets of codes; of equal largest logits, that of ``self`` counts."""
        max_logit = torch.maximum(self.max_logit, other.max_logit)
        mine, theirs = self._relative_to(max_logit), other._relative_to(max_logit)
        top_logits = torch.cat([self.top_logits, other.top_logits], dim=-1)
        top_logits, places = top_logits.topk(min(self.top_count, top_logits.shape[-1]), dim=-1)
        return PosteriorSums(
            max_logit=max_logit,
            total=mine.total + theirs.total,
            weighted_codes=mine.weighted_codes + theirs.weighted_codes,
            weighted_log=mine.weighted_log + theirs.weighted_log,
            codes=torch.where(self.max_logit >= other.max_logit, self.codes, other.codes),
            top_logits=top_logits,
            top_codes=torch.cat([self.top_codes, other.top_codes], dim=-1).gather(-1, places),
            top_count=self.top_count,
        )

    def _relative_to(self, max_logit: Tensor) -> PosteriorSums:
        """The same sums relative to a maximum that is no lower."""
        fall = self.max_logit - max_logit
        factor = fall.exp()
        return replace(
            self,
            max_logit=max_logit,
            total=factor * self.total,
            weighted_codes=factor[..., None] * self.weighted_codes,
            weighted_log=factor * (self.weighted_log + fall * self.total),
        )

    def posterior(self) -> Posterior:
        """The statistics, for sums over all codes of sites ``[B, h, w]``."""
        top = None
        if self.top_logits.shape[-1]:
            shares = (self.top_logits - self.max_logit[..., None]).exp() / self.total[..., None]
            top = TopCodes(self.top_codes, shares)
        return Posterior(
            mean=(self.weighted_codes / self.total[..., None]).permute(0, 3, 1, 2),
            entropy=(self.total.log() - self.weighted_log / self.total).clamp_min(0),
            max_probability=self.total.reciprocal(),
            codes=self.codes,
            top=top,
        )
