"""Chunked operations over the vocabulary: no tensor of sites × codes exists outside one chunk.

At K = 16384 and 32×32 sites the logits of one image take 67 MB in float32, and a training step written down
plainly holds four to seven copies of them. Here they stay factored, features times class weights, and are
multiplied out for a few sites at a time: a chunk is turned into what is wanted of it (a loss and its gradient, or
statistics of the posterior) and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add, attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from purrception.flow import (
    HeadLosses,
    Posterior,
    PosteriorSums,
    SiteLosses,
    TopCodes,
    Truncation,
    posterior_from_logits,
)
from purrception.flow.posterior import above_underflow_
from purrception.flow.schedules import check_temperature
from purrception.models.logits import EVERY, FactoredLogits, GroupedEvidence, statistics_type


@torch.compiler.disable  # type: ignore[untyped-decorator]
def site_losses(
    logits: FactoredLogits, targets: Tensor, evidence: GroupedEvidence | None, chunk_bytes: int | None = None
) -> SiteLosses:
    """Losses per site, differentiable: the backward pass multiplies each chunk out again.

    Args:
        logits: of B×h×w sites over K codes.
        targets: codes, long ``[B, h, w]``.
        evidence: added to the logits.
        chunk_bytes: memory of a chunk; left out, by the device.
    """
    wanted = logits.split(targets)

    def of_chunk(group: int, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        own = logits.own(group, rows)
        drift = own.logsumexp(dim=1)
        sums = own if evidence is None else evidence.add_to(own, group, rows)
        target = wanted[group, rows]
        correct = (sums.detach().argmax(dim=1) == target).to(own.dtype)
        return F.cross_entropy(sums, target, reduction="none"), drift, correct

    recompute = torch.is_grad_enabled()
    parts = [
        checkpoint(of_chunk, group, rows, use_reentrant=False) if recompute else of_chunk(group, rows)
        for group, rows in logits.chunks(3, chunk_bytes)
    ]
    nll, drift, correct = (torch.cat(column).view(wanted.shape) for column in zip(*parts, strict=True))
    return SiteLosses(*(logits.join(part) for part in (nll, drift, correct)))


Terms = Callable[[Tensor, Tensor | None, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""As :func:`chunk_terms`."""


# A loop over chunks is no graph; what it does to each may be compiled by itself.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def total_loss(
    logits: FactoredLogits,
    targets: Tensor,
    weights: Tensor,
    z_loss: float,
    evidence: GroupedEvidence | None,
    terms: Terms,
    chunk_bytes: int | None = None,
) -> HeadLosses:
    """Σ w (−ln π(c) + λ_z logsumexp²) over all sites, with its gradient found chunk by chunk on the way.

    The loss being one number, a chunk's gradient is known as soon as its logits are: nothing is kept for, or
    computed again in, the backward pass.

    Args:
        logits: of B×h×w sites over K codes.
        targets: codes, long ``[B, h, w]``.
        weights: w, float32 ``[B, h, w]``, without gradient.
        z_loss: λ_z.
        evidence: added to the logits, but not to those whose logsumexp is held down.
        terms: :func:`chunk_terms`, or what it was compiled to.
        chunk_bytes: memory of a chunk; left out, by the device.
    """
    wanted, shares = logits.split(targets), logits.split(weights)
    needed = torch.is_grad_enabled()
    problem = _Problem(logits, wanted, shares, z_loss, evidence, chunk_bytes, needed, terms)
    return HeadLosses(*_TotalLoss.apply(logits.rows, logits.weight, logits.bias, problem))


@dataclass(frozen=True)
class _Problem:
    """What :class:`_TotalLoss` is told beside the tensors it differentiates."""

    logits: FactoredLogits
    targets: Tensor
    weights: Tensor
    z_loss: float
    evidence: GroupedEvidence | None
    chunk_bytes: int | None
    needs_gradient: bool
    terms: Terms


class _TotalLoss(torch.autograd.Function):
    """(rows, weight, bias) → the five numbers of :class:`HeadLosses`, of which only the total has a gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, problem: _Problem) -> tuple[Tensor, ...]:
        device = rows.device.type
        if not torch.amp.is_autocast_available(device):  # the meta device, where shapes are rehearsed
            device = "cpu"
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        with torch.autocast(device, enabled=False):
            sums, gradients = _accumulate(rows.detach().to(low), weight.detach().to(low), bias.detach(), problem)
        if gradients is not None:
            pairs = zip(gradients, (rows, weight, bias), strict=True)
            ctx.gradients = [gradient.to(like.dtype) for gradient, like in pairs]
        ctx.mark_non_differentiable(*sums[1:])
        return sums

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the gradient of the chunked loss was taken already: it is kept for one backward pass"
            )
        # Scaled in place: another copy of the weights' would be held.
        gradients, ctx.gradients = ctx.gradients, None
        return *(gradient.mul_(upstream[0].to(gradient.dtype)) for gradient in gradients), None


def _accumulate(
    rows: Tensor, weight: Tensor, bias: Tensor, problem: _Problem
) -> tuple[tuple[Tensor, ...], list[Tensor] | None]:
    """The sums over all chunks, and the gradients of the total in (rows, weight, bias)."""
    logits = FactoredLogits(rows, weight, bias.to(weight.dtype), problem.logits.sites)
    exact = statistics_type(weight)
    gradients = None
    if problem.needs_gradient:
        gradients = [torch.zeros_like(tensor, dtype=exact) for tensor in (rows, weight, bias)]
    figures = torch.zeros(4, dtype=exact, device=rows.device)
    copies = 1 if problem.evidence is None else 2
    for group, chosen, blocks in logits.tiles(copies, problem.chunk_bytes):
        part, slopes = _terms_of_rows(logits, group, chosen, blocks, problem)
        figures += part
        if gradients is None:
            continue
        by_rows, by_weight, by_bias = gradients
        for codes, slope in slopes:
            by_bias[group, codes] += slope.sum(0)
            slope = slope.to(weight.dtype)
            by_rows[chosen] += slope @ weight[group, codes]
            if exact == weight.dtype:
                by_weight[group, codes].addmm_(slope.T, rows[chosen])
            else:
                by_weight[group, codes] += slope.T @ rows[chosen]
    cross_entropy, z_loss, drift, correct = figures
    return (cross_entropy + z_loss, cross_entropy, z_loss, drift, correct), gradients


Slopes = Iterator[tuple[slice, Tensor]]
"""Blocks of codes, and the derivative of the loss in their logits, ``[n, …]``."""


def _terms_of_rows(
    logits: FactoredLogits, group: int, rows: slice, blocks: list[slice], problem: _Problem
) -> tuple[Tensor, Slopes]:
    """The figures of :func:`chunk_terms` for some rows, and the derivative block by block."""
    targets = problem.targets[group, rows]
    weights = problem.weights[group, rows].to(statistics_type(logits.weight))

    def multiplied_out(codes: slice) -> tuple[Tensor, Tensor | None]:
        own = logits.own(group, rows, codes)
        return own, None if problem.evidence is None else problem.evidence.add_to(own, group, rows, codes)

    if len(blocks) > 1:
        return _tiled_terms(multiplied_out, blocks, targets, weights, problem.z_loss)
    figures, slope = problem.terms(*multiplied_out(EVERY), targets, weights, problem.z_loss)
    return figures, iter([(EVERY, slope)])


def chunk_terms(
    own: Tensor, sums: Tensor | None, targets: Tensor, weights: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Losses of a chunk and their derivative in its own logits; both arguments are overwritten.

    With p = softmax(own), q = softmax(sums) and ℓ = logsumexp(own), the derivative of
    w (−ln q(c) + λ_z ℓ²) is w (q − 1_c + 2 λ_z ℓ p).

    Args:
        own: the network's logits ``[n, K]``.
        sums: those with evidence ``[n, K]``; none where there is no evidence.
        targets: c, long ``[n]``.
        weights: w, ``[n]``.
        z_loss: λ_z.

    Returns:
        (Σ w (−ln q(c)), Σ w λ_z ℓ², Σ w ℓ, Σ w [argmax q = c]) as ``[4]``, and the derivative ``[n, K]``.
    """
    decided = own if sums is None else sums
    at_target = decided.gather(1, targets[:, None])[:, 0]
    top, best = decided.max(dim=1)
    correct = best == targets
    drift, p, own_total = _exponentials_(own, top if sums is None else own.amax(dim=1))
    normaliser, q, total = (drift, None, own_total) if sums is None else _exponentials_(sums, top)
    slope = _slope_(p, q, 2 * z_loss * drift * weights / own_total, weights / total)
    slope.scatter_add_(1, targets[:, None], -weights[:, None])
    return _figures(normaliser - at_target, drift, correct, weights, z_loss), slope


def _tiled_terms(
    multiplied_out: Callable[[slice], tuple[Tensor, Tensor | None]],
    blocks: list[slice],
    targets: Tensor,
    weights: Tensor,
    z_loss: float,
) -> tuple[Tensor, Slopes]:
    """As :func:`chunk_terms`, where the logits of the rows are never there all at once.

    ``multiplied_out`` gives those of a block, (own, sums): once for the normalisers, again for the derivative.
    """
    found = []
    for codes in blocks:
        own, sums = multiplied_out(codes)
        decided = own if sums is None else sums
        inside, place = _within(codes, targets)
        at_target = torch.where(inside, decided.gather(1, place)[:, 0], 0)
        top, best = decided.max(dim=1)
        drift = _exponentials_(own, top if sums is None else own.amax(dim=1))[0]
        normaliser = drift if sums is None else _exponentials_(sums, top)[0]
        found.append((drift, normaliser, at_target, top, best + codes.start))
    drifts, normalisers, at_targets, tops, bests = (torch.stack(column) for column in zip(*found, strict=True))
    drift, normaliser = drifts.logsumexp(0), normalisers.logsumexp(0)
    correct = bests.gather(0, tops.argmax(0, keepdim=True))[0] == targets

    def slopes() -> Slopes:
        for codes in blocks:
            p, q = (
                None if logits is None else above_underflow_(logits.sub_(level[:, None])).exp_()
                for logits, level in zip(multiplied_out(codes), (drift, normaliser), strict=True)
            )
            assert p is not None
            slope = _slope_(p, q, 2 * z_loss * drift * weights, weights)
            inside, place = _within(codes, targets)
            yield codes, slope.scatter_add_(1, place, -(weights * inside)[:, None])

    return _figures(normaliser - at_targets.sum(0), drift, correct, weights, z_loss), slopes()


def _within(codes: slice, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(whether a target is among ``codes``, its place there or any other place ``[n, 1]``)."""
    inside = (targets >= codes.start) & (targets < codes.stop)
    return inside, torch.where(inside, targets - codes.start, 0)[:, None]


def _figures(nll: Tensor, drift: Tensor, correct: Tensor, weights: Tensor, z_loss: float) -> Tensor:
    terms = (nll, z_loss * drift.square(), drift, correct.to(drift.dtype))
    return torch.stack([(weights * term).sum() for term in terms])


def _slope_(p: Tensor, q: Tensor | None, by_own: Tensor, by_sums: Tensor) -> Tensor:
    """by_own · p + by_sums · q, in place of q; of p, where there is no evidence and q is p."""
    if q is None:
        return p.mul_((by_own + by_sums)[:, None])
    return q.mul_(by_sums[:, None]).addcmul_(p, by_own[:, None])


def _exponentials_(logits: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(logsumexp ``[n]``, exp(logits − top) in place of the logits ``[n, K]``, its sum).

    ``top`` is the largest logit of each row.
    """
    powers = above_underflow_(logits.sub_(top[:, None])).exp_()
    total = powers.sum(dim=1)
    return top + total.log(), powers, total


Sums = Callable[[Tensor, Tensor, int, int], PosteriorSums]
"""As :meth:`purrception.flow.PosteriorSums.of`."""


@dataclass(frozen=True)
class Reading:
    """How logits are read as a posterior; as the arguments of :func:`purrception.flow.posterior_from_logits`."""

    codebook: Tensor
    """Standardised codes ``[K, D]``."""
    temperature: float
    truncation: Truncation
    top: int
    sums: Sums
    """That function, or what it was compiled to."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def chunked_posterior(
    logits: FactoredLogits,
    evidence: GroupedEvidence | None,
    reading: Reading,
    uniforms: Tensor | None,
    chunk_bytes: int | None = None,
) -> Posterior:
    """Posterior statistics of every site, a chunk of logits at a time.

    A chunk is of some sites and some codes, and sums over the codes are all that is kept of it. A draw and a
    truncation have to see all codes of a site at once: then a chunk holds fewer sites.

    Args:
        logits: of B×h×w sites over K codes.
        evidence: added to the logits.
        reading: temperature, truncation, how many of the likeliest codes to name.
        uniforms: ``[B, h, w]``, to draw a code of each site.
        chunk_bytes: memory of a chunk; left out, by the device.

    Raises:
        InputError: the temperature is not positive.
    """
    check_temperature(reading.temperature)
    chances = None if uniforms is None else logits.split(uniforms)

    def own(group: int, rows: slice, codes: slice) -> Tensor:
        chunk = logits.own(group, rows, codes)
        return chunk if evidence is None else evidence.add_to(chunk, group, rows, codes)

    def of_rows(group: int, rows: slice) -> Posterior:
        drawn = None if chances is None else chances[None, None, group, rows]
        return posterior_from_logits(
            own(group, rows, EVERY)[None, None],
            reading.codebook, reading.temperature, reading.truncation, drawn, reading.top,
        )  # fmt: skip

    def of_tiles(group: int, rows: slice, blocks: list[slice]) -> Posterior:
        sums = (
            reading.sums(
                own(group, rows, codes).div_(reading.temperature)[None, None],
                reading.codebook[codes], codes.start, reading.top,
            )
            for codes in blocks
        )  # fmt: skip
        return reduce(add, sums).posterior()

    if uniforms is None and reading.truncation == Truncation():
        parts = [of_tiles(*tile) for tile in logits.tiles(4, chunk_bytes)]
    else:
        parts = [of_rows(*chunk) for chunk in logits.chunks(4, chunk_bytes)]

    def joined(of_chunk: Callable[[Posterior], Any]) -> Tensor:
        """``[1, 1, n, …]`` of every chunk → ``[B, h, w, …]``."""
        values = torch.cat([of_chunk(part)[0, 0] for part in parts])
        return logits.join(values.unflatten(0, (len(logits.weight), len(logits.rows))))

    top = None
    if parts[0].top is not None:
        top = TopCodes(joined(attrgetter("top.codes")), joined(attrgetter("top.probabilities")))
    return Posterior(
        mean=joined(lambda part: part.mean.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        entropy=joined(attrgetter("entropy")),
        max_probability=joined(attrgetter("max_probability")),
        codes=joined(attrgetter("codes")),
        drawn=None if uniforms is None else joined(attrgetter("drawn")),
        top=top,
    )
